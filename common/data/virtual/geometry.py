"""Coordinates and drawing primitives of the virtual patient.

Everything is drawn in *body millimetres* of an adult: ``z`` upwards, ``y`` towards the back, ``x`` towards the left of
the patient (LPS), with the origin in the middle of the chest. Points are ``(z, y, x)`` like array indices. A ``Grid``
maps these coordinates onto an image of any size and spacing.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# What must fit into the field of view, in body mm (z, y, x).
ADULT_EXTENT_MM = (284.0, 280.0, 396.0)

Box = tuple[slice, slice, slice]


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of patient ``seed`` for one purpose, for example ``"anatomy"``.

    Streams are independent of each other, so a new consumer never moves the numbers of an old one.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


@dataclass(frozen=True)
class Grid:
    """An image grid laid over the body.

    Attributes:
        shape: voxels along (z, y, x).
        spacing: image millimetres per voxel along (z, y, x).
        scale: image millimetres per body millimetre, at most 1, so that the body fits into the field of view.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    scale: float

    @classmethod
    def fit(cls, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
        """Build the grid on which the whole adult is visible.

        Args:
            shape: voxels along (z, y, x), each at least 8.
            spacing: millimetres along (z, y, x), each positive and finite.

        Raises:
            ValueError: if the shape or the spacing is not usable.
        """
        if len(shape) != 3 or any(int(n) != n or n < 8 for n in shape):
            raise ValueError(f"shape {tuple(shape)} is not three whole numbers (z, y, x) of at least 8.")
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ValueError(f"spacing {tuple(spacing)} is not three positive numbers of millimetres (z, y, x).")
        fov = [n * s for n, s in zip(shape, spacing, strict=True)]
        scale = min(1.0, *(f / a for f, a in zip(fov, ADULT_EXTENT_MM, strict=True)))
        return cls(tuple(int(n) for n in shape), tuple(float(s) for s in spacing), float(scale))

    @cached_property
    def voxel(self) -> np.ndarray:
        """Body millimetres per voxel along (z, y, x), float64 (3,)."""
        return np.asarray(self.spacing) / self.scale

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Body coordinates of the voxel centres along z, y and x, float32, ready to broadcast to (D, H, W)."""
        z, y, x = ((np.arange(n) - (n - 1) / 2) * v for n, v in zip(self.shape, self.voxel, strict=True))
        return tuple(a.astype(np.float32).reshape(s) for a, s in ((z, (-1, 1, 1)), (y, (1, -1, 1)), (x, (1, 1, -1))))

    @cached_property
    def affine(self) -> np.ndarray:
        """Affine from NIfTI voxel indices (x, y, z) to RAS millimetres; the voxel axes point left, back and up."""
        (d, h, w), (sz, sy, sx) = self.shape, self.spacing
        affine = np.diag([-sx, -sy, sz, 1.0])
        affine[:3, 3] = (w - 1) / 2 * sx, (h - 1) / 2 * sy, -(d - 1) / 2 * sz
        return affine

    def world(self, point: Sequence[float]) -> tuple[float, float, float]:
        """Turn a body point (z, y, x) into RAS image millimetres (x, y, z)."""
        z, y, x = (float(c) * self.scale for c in point)
        return (round(-x, 2), round(-y, 2), round(z, 2))

    def box(self, centre: Sequence[float], reach: Sequence[float] | float) -> Box:
        """Return the slices of the voxels within ``reach`` body mm of ``centre`` along each axis (maybe empty)."""
        reach = np.broadcast_to(np.asarray(reach, dtype=float), 3)
        middle = (np.asarray(self.shape) - 1) / 2 + np.asarray(centre) / self.voxel
        low = np.clip(np.ceil(middle - reach / self.voxel), 0, self.shape).astype(int)
        high = np.clip(np.floor(middle + reach / self.voxel) + 1, 0, self.shape).astype(int)
        return tuple(slice(a, max(a, b)) for a, b in zip(low.tolist(), high.tolist(), strict=True))

    def coords(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the broadcastable coordinates of a box."""
        z, y, x = self.axes
        return z[box[0]], y[:, box[1]], x[:, :, box[2]]


def turn(about_z: float = 0.0, about_y: float = 0.0, about_x: float = 0.0) -> np.ndarray:
    """Return a rotation, float (3, 3), whose columns are the turned z, y and x axes (angles in degrees)."""
    a, b, c = np.deg2rad([about_z, about_y, about_x])
    rz = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    rx = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """Return a random rotation, float (3, 3)."""
    return turn(*rng.uniform(0, 180, 3))


def ellipsoid(
    grid: Grid, centre: Sequence[float], radii: Sequence[float], rotation: np.ndarray | None = None, margin: float = 1.0
) -> tuple[Box, np.ndarray]:
    """Evaluate an ellipsoid on its bounding box.

    Args:
        grid: the image grid.
        centre: body mm (z, y, x).
        radii: semi-axes in body mm, along the columns of ``rotation``.
        rotation: float (3, 3), default no rotation.
        margin: the box reaches to this multiple of the radii.

    Returns:
        The box and the squared normalised radius there (float32): below 1 inside, 1 on the surface.
    """
    radii = np.asarray(radii, dtype=float)
    rotation = np.eye(3) if rotation is None else rotation
    reach = margin * np.sqrt(((rotation * radii) ** 2).sum(1))
    box = grid.box(centre, reach)
    m = (rotation / radii**2) @ rotation.T
    z, y, x = (a - np.float32(c) for a, c in zip(grid.coords(box), centre, strict=True))
    m = m.astype(np.float32)
    plane_zy = m[0, 0] * z * z + y * (m[1, 1] * y + 2 * m[0, 1] * z)
    plane_zx = x * (m[2, 2] * x + 2 * m[0, 2] * z)
    return box, plane_zy + plane_zx + (2 * m[1, 2]) * y * x


def smooth_field(grid: Grid, rng: np.random.Generator, cell: float, box: Box | None = None) -> np.ndarray:
    """Draw a smooth random field with features of about ``cell`` body mm.

    The field lives in body coordinates: the same stream gives the same field on every grid.

    Args:
        grid: the image grid.
        rng: the stream; the amount of numbers drawn depends on ``cell`` only.
        cell: distance of the control points in body mm.
        box: where to evaluate, default everywhere.

    Returns:
        float32 array of the box's shape, mean 0, standard deviation about 1.
    """
    box = box or tuple(slice(0, n) for n in grid.shape)
    counts = [int(np.ceil(e / cell)) + 4 for e in ADULT_EXTENT_MM]
    field = rng.standard_normal(counts, dtype=np.float32) * np.float32(3.0)
    # Cubic B-splines, so that the field has no creases. Every voxel sees four control points per axis: taking these is
    # cheaper than a matrix product and, unlike BLAS, stays on one core.
    for dim in (2, 1):
        first, weights = _spline(grid.coords(box)[dim], ADULT_EXTENT_MM[dim], cell, counts[dim])
        weights = weights.reshape(4, *(-1 if d == dim else 1 for d in range(3)))
        field = sum(np.take(field, first + k, axis=dim) * weights[k] for k in range(4))
    first, weights = _spline(grid.coords(box)[0], ADULT_EXTENT_MM[0], cell, counts[0])
    out = np.empty((len(first), *field.shape[1:]), np.float32)
    part = np.empty(field.shape[1:], np.float32)
    for z, start in enumerate(first):
        np.multiply(field[start], weights[0, z], out=out[z])
        for k in (1, 2, 3):
            out[z] += np.multiply(field[start + k], weights[k, z], out=part)
    return out


def _spline(axis: np.ndarray, extent: float, cell: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of the four control points of each coordinate (n,) and the four weights (4, n)."""
    at = np.clip((axis.ravel() + extent / 2) / cell + 1, 0, count - 3.001)
    first = at.astype(int)
    t = (at - first).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / 6
    return first, weights.astype(np.float32)


def polyline(points: Sequence[Sequence[float]], radii: Sequence[float], step: float) -> tuple[np.ndarray, np.ndarray]:
    """Sample a smooth tube through control points (n, 3) with radii (n,) every ``step``, all in body mm.

    Returns:
        Samples float (m, 3) and their radii float (m,).
    """
    points, radii = np.asarray(points, dtype=float), np.asarray(radii, dtype=float)
    if len(points) > 2:  # two rounds of corner cutting make a curve of the control polygon
        for _ in range(2):
            a, b, ra, rb = points[:-1], points[1:], radii[:-1], radii[1:]
            inner = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 3)
            inner_r = np.stack([0.75 * ra + 0.25 * rb, 0.25 * ra + 0.75 * rb], 1).ravel()
            points = np.concatenate([points[:1], inner, points[-1:]])
            radii = np.concatenate([radii[:1], inner_r, radii[-1:]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / step)) + 1))
    return np.stack([np.interp(at, along, points[:, i]) for i in range(3)], 1), np.interp(at, along, radii)


class Stamper:
    """Draws tubes and balls as many small soft stamps; remembers nothing between calls but its scratch memory."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._scratch = np.zeros(int(np.prod(grid.shape)), np.float32)

    def stamp(self, points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the voxels covered by balls and how much of each is covered.

        Balls thinner than a voxel get the share of the voxel that a tube of their radius fills.

        Args:
            points: ball centres (n, 3) in body mm.
            radii: ball radii (n,) in body mm.

        Returns:
            Flat voxel indices (m,) and coverage in (0, 1], float32 (m,). Repeated indices carry equal coverage.
        """
        points, radii = np.atleast_2d(points), np.atleast_1d(radii)
        half = np.float32(self.grid.voxel.mean() / 2)
        soft = np.maximum(radii, 0.9 * half)
        share = np.minimum(1.0, (radii / soft) ** 2)
        size = np.ceil((soft + half) / self.grid.voxel.min()).astype(int)
        found = []
        for k in np.unique(size):
            chosen = np.flatnonzero(size == k)
            reach = np.maximum(1, np.round((k * self.grid.voxel.min()) / self.grid.voxel)).astype(int)
            chunk = max(1, 4_000_000 // int(np.prod(2 * reach + 1)))
            for start in range(0, len(chosen), chunk):
                part = chosen[start : start + chunk]
                found.append(self._cover(points[part], soft[part], share[part], reach, half))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        index = np.concatenate([i for i, _ in found])
        cover = np.concatenate([c for _, c in found])
        np.maximum.at(self._scratch, index, cover)
        best = cover >= self._scratch[index]
        index, cover = index[best], cover[best]
        self._scratch[index] = 0
        return index, cover

    def _cover(
        self, points: np.ndarray, soft: np.ndarray, share: np.ndarray, reach: np.ndarray, half: np.float32
    ) -> tuple[np.ndarray, np.ndarray]:
        shape, voxel = self.grid.shape, self.grid.voxel
        squares, flats = [], []
        for axis in range(3):
            position = points[:, axis] / voxel[axis] + (shape[axis] - 1) / 2
            index = np.round(position).astype(np.int64)[:, None] + np.arange(-reach[axis], reach[axis] + 1)
            square = ((index - position[:, None]) * voxel[axis]) ** 2
            square[(index < 0) | (index >= shape[axis])] = np.inf
            squares.append(square.astype(np.float32))
            flats.append(index * int(np.prod(shape[axis + 1 :])))
        d = squares[0][:, :, None, None] + squares[1][:, None, :, None] + squares[2][:, None, None, :]
        np.sqrt(d, out=d)
        edge = (soft + half).astype(np.float32)[:, None, None, None]
        cover = (edge - d) / (2 * half)
        np.clip(cover, 0, 1, out=cover)
        cover *= share.astype(np.float32)[:, None, None, None]
        keep = cover > 0.02
        flat = flats[0][:, :, None, None] + flats[1][:, None, :, None] + flats[2][:, None, None, :]
        return flat[keep], cover[keep]
