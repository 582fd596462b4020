"""The healthy chest of a virtual patient: paints regions and Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.data.virtual.body import HALF_HEIGHT, POWER, REGION_ID, SKIN_POWER, Body
from common.data.virtual.geometry import Grid, Stamper, ellipsoid, polyline, smooth_field, stream, turn
from common.data.virtual.trees import Tree, grow_tree


@dataclass
class Canvas:
    """What is being painted.

    Attributes:
        grid: the image grid.
        body: the person's shape.
        hu: float32 (D, H, W).
        regions: uint8 (D, H, W).
        lung: bool (D, H, W), aerated lung that later findings may still fill.
        stamper: draws tubes and balls.
        heart_scale: size of the heart relative to normal.
        trees: "artery", "vein" and "airway".
        paths: centre lines (points, radii) of great vessels, airways and coronaries.
    """

    grid: Grid
    body: Body
    hu: np.ndarray
    regions: np.ndarray
    lung: np.ndarray
    stamper: Stamper
    heart_scale: float = 1.0
    trees: dict[str, Tree] = field(default_factory=dict)
    paths: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def blend(self, index: np.ndarray, cover: np.ndarray, value: float | np.ndarray) -> None:
        """Mix ``value`` HU into the voxels ``index`` by ``cover``."""
        flat = self.hu.reshape(-1)
        old = flat[index]
        flat[index] = old + cover * (value - old)

    def stamp(
        self, points: np.ndarray, radii: np.ndarray, value: float, where: np.ndarray | None = None, region: int = 0,
        share: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Mix ``share`` of ``value`` HU into the voxels of ``where`` that balls cover, see ``Stamper.stamp``.

        Those that are at least half covered become ``region``, unless it is 0. Returns the flat indices (m,) of the
        painted voxels and how much of each is covered, float32 (m,).
        """
        index, cover = self.stamper.stamp(points, radii)
        if where is not None:
            inside = where.reshape(-1)[index]
            index, cover = index[inside], cover[inside]
        self.blend(index, share * cover, value)
        if region:
            self.regions.reshape(-1)[index[cover >= 0.5]] = region
        return index, cover

    def tube(self, name: str, points: list, radii: list, value: float, region: int, wall: float = 0.0) -> None:
        """Paint a tube; with ``wall`` > 0 a soft-tissue wall of that many body mm around it."""
        samples, radius = polyline(points, radii, max(0.6 * float(self.grid.voxel.min()), 0.25 * min(radii)))
        self.paths[name] = samples, radius
        if wall:
            self.stamp(samples, radius + wall, 30.0)
        index, cover = self.stamp(samples, radius, value, region=region)
        self.lung.reshape(-1)[index[cover >= 0.5]] = False


def paint_chest(grid: Grid, body: Body, heart_scale: float = 1.0) -> Canvas:
    """Return a canvas with the healthy chest up to the lungs; ``mediastinum`` adds the heart, great vessels and spine.

    A ``heart_scale`` of 1 is normal, 1.2 and more an enlarged heart.
    """
    canvas = Canvas(
        grid=grid,
        body=body,
        hu=np.full(grid.shape, -1000, np.float32),
        regions=np.zeros(grid.shape, np.uint8),
        lung=np.zeros(grid.shape, bool),
        stamper=Stamper(grid),
        heart_scale=heart_scale,
    )
    cavity = _paint_wall(canvas)
    _paint_lungs_and_abdomen(canvas, cavity)
    _paint_cage(canvas, cavity)
    _paint_lung_trees(canvas)
    return canvas


def _paint_wall(canvas: Canvas) -> np.ndarray:
    grid, body, hu = canvas.grid, canvas.body, canvas.hu
    z, y, x = grid.axes
    skin = body.skin(z, y, x)
    inside = (skin < 1) & (np.abs(z) <= HALF_HEIGHT)
    rim = inside & (skin > (1 - 2.2 / 160) ** SKIN_POWER)
    if body.sex == "F":
        for side in (-1, 1):
            box, q = ellipsoid(grid, (-12, -94, 78 * side), (50, 42, 56))
            breast = q < 1
            rim[box] = (rim[box] & ~breast) | (breast & (q > 0.92) & (skin[box] > 1))
            inside[box] |= breast
    # Subcutaneous fat is thicker below the shoulder muscles.
    thickness = body.fat * (1 + 0.7 * np.clip(-z / 90, 0, 1))
    np.copyto(hu, np.float32(-102), where=inside)
    np.copyto(hu, np.float32(15), where=rim)
    muscle = (skin < (1 - thickness / 150) ** SKIN_POWER) & inside
    planes = np.abs(smooth_field(grid, stream(body.seed, "muscle"), 22))
    # Thin sheets of fat part the muscles: the zero surfaces of a smooth field.
    np.copyto(hu, 52 - 130 * np.clip(1 - planes * 5, 0, 1), where=muscle)
    np.copyto(canvas.regions, np.uint8(REGION_ID["chest wall"]), where=inside)
    cavity = body.cavity(z, y, x)
    cavity[np.abs(z.ravel()) > HALF_HEIGHT] = 9
    return cavity


def _paint_lungs_and_abdomen(canvas: Canvas, cavity: np.ndarray) -> None:
    grid, body, hu, regions = canvas.grid, canvas.body, canvas.hu, canvas.regions
    z, y, x = grid.axes
    inside = cavity < 1
    np.copyto(hu, np.float32(-95), where=inside)
    np.copyto(regions, np.uint8(REGION_ID["mediastinum"]), where=inside)
    dome = body.diaphragm(y, x)
    above = z > dome
    side = np.abs(x) - body.hilum_width(z, y)
    # About body mm inside the surface of the lung; a voxel on the surface is lung and wall in parts.
    depth = np.minimum((1 - cavity) * np.float32(100 / POWER), 0.75 * (z - dome))
    np.minimum(depth, side, out=depth)
    np.greater(depth, 0, out=canvas.lung)
    low = slice(0, int(np.searchsorted(z.ravel(), float(dome.max()))))
    below = inside[low] & ~above[low]
    np.copyto(regions[low], np.uint8(REGION_ID["upper abdomen"]), where=below)
    _paint_abdomen(canvas, below, low)
    muscle = below & (z[low] > dome - max(4.0, 1.2 * float(grid.voxel[0])))
    np.copyto(regions[low], np.uint8(REGION_ID["diaphragm"]), where=muscle)
    np.copyto(hu[low], np.float32(48), where=below & (z[low] > dome - 3.5))

    rng = stream(body.seed, "parenchyma")
    texture = 9 * smooth_field(grid, rng, 14) + 9 * smooth_field(grid, rng, 48)
    texture += body.lung_hu + 55 * (y / 90) - 12 * (z / 120)  # blood settles towards the back
    depth *= np.float32(1 / grid.voxel.mean())
    depth += 0.5
    np.clip(depth, 0, 1, out=depth)
    texture -= hu
    texture *= depth
    hu += texture
    right = (x < 0).ravel()
    major = z - body.major_fissure(y, x)
    minor = z - body.minor_fissure(y, x)[:, :, right]
    lobe = np.where(x < 0, 1, 4).astype(np.uint8) + np.where(x < 0, 2, 1).astype(np.uint8) * (major < 0)
    lobe[:, :, right] += ((minor < 0) & (major[:, :, right] >= 0)).astype(np.uint8)
    np.copyto(regions, lobe, where=canvas.lung)
    width = np.float32(max(0.8, float(grid.voxel[0])))
    sheet = np.abs(major)
    sheet[:, :, right] = np.minimum(sheet[:, :, right], np.where(major[:, :, right] > 0, np.abs(minor), 99))
    line = np.flatnonzero((sheet < width) & canvas.lung)
    cover = (1 - sheet.reshape(-1)[line] / width) * (0.7 / width)
    canvas.blend(line, cover, -50.0)


def _paint_abdomen(canvas: Canvas, below: np.ndarray, low: slice) -> None:
    grid, body = canvas.grid, canvas.body
    hu = canvas.hu[low]
    contrast = 60 if body.blood[1] > 100 else 0

    def organ(centre: tuple, radii: tuple, value: float, back: float = np.inf) -> None:
        """Paint an ellipsoid as far as ``back`` (y)."""
        box, q = ellipsoid(grid, centre, radii)
        box = (slice(box[0].start, min(box[0].stop, low.stop)), *box[1:])
        q = q[: max(0, box[0].stop - box[0].start)]
        np.copyto(hu[box], np.float32(value), where=(q < 1) & (grid.coords(box)[1] < back) & below[box])

    organ((-125, -5, -62), (92, 100, 98), 56 + contrast)
    organ((-122, -14, 8), (58, 62, 62), 56 + contrast)
    organ((-118, 42, 92), (40, 34, 34), 48 + 1.3 * contrast)
    organ((-112, -18, 74), (42, 54, 44), 42)
    organ((-112, -18, 74), (38, 50, 40), 12)
    organ((-112, -18, 74), (38, 50, 40), -940, back=-30)


def _paint_cage(canvas: Canvas, cavity: np.ndarray) -> None:
    grid, body = canvas.grid, canvas.body
    # A shell around the pleura; the ribs are stripes of it that fall from back to front.
    shell = np.flatnonzero((cavity > 1) & (cavity < 1.35))
    iz, iy, ix = np.unravel_index(shell, grid.shape)
    z, y, x = (a.ravel()[i] for a, i in zip(grid.axes, (iz, iy, ix), strict=True))
    out = (cavity.reshape(-1)[shell] - 1) * (105 / POWER) - 6
    stripe = z - 0.42 * y
    along = (stripe + 3) % 27 - 13.5
    q = np.sqrt((along / 6.5) ** 2 + (out / 4.6) ** 2)
    cover = np.clip((1 - q) * 5 / float(grid.voxel.mean()) + 0.5, 0, 1)
    arch = (y > -40) | (y < -40) & (z > -70 + 0.6 * np.abs(x) - 60 * (np.abs(x) > 100)) | (y > -95 + 1.4 * (-70 - z))
    keep = (cover > 0.05) & arch & (np.abs(x) > 14)
    shell, cover, q, y, x, z = shell[keep], cover[keep], q[keep], y[keep], x[keep], z[keep]
    cortex = np.clip((q - 0.55) * 5, 0, 1)
    value = (body.bone_hu + 40) * (1 - cortex) + 720 * cortex
    value = np.where((y < -62) & (np.abs(x) < 88), 115, value)  # costal cartilage
    canvas.blend(shell, cover, value)
    solid = cover >= 0.5
    side = np.where(x < 0, REGION_ID["right ribs"], REGION_ID["left ribs"])
    canvas.regions.reshape(-1)[shell[solid]] = side[solid]

    box = grid.box((15, -95, 0), (72, 45, 22))
    z, y, x = grid.coords(box)
    depth = np.abs(y - body.front(z) + 7)
    width = 13 + 8 * np.clip((z - 55) / 20, 0, 1)
    bone = (depth < 6) & (np.abs(x) < width) & (z > -50) & (z < 84)
    core = (depth < 4) & (np.abs(x) < width - 2.5)
    np.copyto(canvas.hu[box], np.where(core, np.float32(body.bone_hu - 60), np.float32(480)), where=bone)
    for side in (-1, 1):
        clavicle = polyline([(84, -78, 16 * side), (100, -84, 60 * side), (118, -62, 112 * side)], [7, 5.5, 6], 2.0)
        canvas.stamp(*clavicle, 620.0)
        canvas.stamp(clavicle[0], clavicle[1] - 2.5, body.bone_hu)
        plate = turn(about_z=38 * side, about_x=-8)
        box, q = ellipsoid(grid, (58, 74, 122 * side), (62, 5.5, 38), plate)
        np.copyto(canvas.hu[box], np.float32(430), where=(q < 1) & (cavity[box] > 1.3))


def _paint_lung_trees(canvas: Canvas) -> None:
    body, grid = canvas.body, canvas.grid
    units = np.array([1, 1, 2, 3, 3, 4, 4, 5, 5])
    for name, radius, decay, hila in (
        ("artery", 4.3, 0.81, ((26, 12, -40), (28, 16, 40))),
        ("vein", 4.0, 0.81, ((0, 14, -34), (2, 16, 36))),
    ):
        rng = stream(body.seed, name)
        points = body.lung_points(rng, 52_000, 2.5)
        lobe = body.lobe(*points.T)
        fed = [np.resize(points[lobe == i], (1024 * int((units == i).sum()), 3)) for i in range(1, 6)]
        halves = []
        for group in fed:  # a large lobe is fed by two trees, one for its upper and one for its lower half
            group = group[(group @ rng.normal((1, 0, 0), 0.4)).argsort()]
            halves.extend(group.reshape(-1, 1024, 3))
        roots = np.array([hila[0] if u <= 3 else hila[1] for u in units], float) + rng.normal(0, 2, (len(units), 3))
        thinnest = 0.17 * float(grid.voxel.mean())  # that the grid can show
        levels = int(np.clip(np.log(thinnest / radius) / np.log(decay), 3, 10))
        canvas.trees[name] = grow_tree(np.stack(halves), units, roots, radius, decay, rng, levels)
        canvas.stamp(*canvas.trees[name].sample(grid), body.blood[int(name == "vein")], canvas.lung)
    artery = canvas.trees["artery"]
    canvas.trees["airway"] = artery.select(artery.level <= 6).shifted(np.array([0.35, 0.8, 0.45]), 0.8, 1.1)
    paint_airways(canvas, canvas.trees["airway"], wall=0.25, wall_base=0.6)


def paint_airways(canvas: Canvas, airways: Tree, wall: float, wall_base: float) -> None:
    """Paint airway lumen and wall inside the lungs; the wall is ``wall`` of the radius plus ``wall_base`` body mm."""
    points, radii = airways.sample(canvas.grid)
    canvas.stamp(points, radii * (1 + wall) + wall_base, 10.0, canvas.lung, share=0.85)
    index, cover = canvas.stamp(points, radii, -985.0, canvas.lung)
    canvas.paths.setdefault("airway voxels", (index[cover >= 0.5], cover[cover >= 0.5]))
