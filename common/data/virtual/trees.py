"""Branching trees that fill the lungs: pulmonary arteries, veins and airways."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.data.virtual.geometry import Grid, random_turn


@dataclass(frozen=True)
class Tree:
    """The branches of a tree, all arrays with one row per branch.

    Attributes:
        start: (n, 3) body mm.
        middle: (n, 3) body mm, the control point that bends the branch.
        end: (n, 3) body mm.
        radius: (n, 2) body mm at the start and at the end.
        level: (n,) 0 at the hilum.
        lobe: (n,) region id 1..5 of the lobe that the branch feeds.
    """

    start: np.ndarray
    middle: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    level: np.ndarray
    lobe: np.ndarray

    def select(self, chosen: np.ndarray) -> Tree:
        """Return the branches for which the boolean array ``chosen`` is true."""
        return Tree(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def shifted(self, direction: np.ndarray, share: float, radius: float) -> Tree:
        """Return a companion tree: beside this one by its own radius plus the companion's, ``share`` as thick."""
        width = self.radius.mean(1, keepdims=True)
        offset = direction * np.where(self.level > 0, (1 + share) * radius, 0.3)[:, None] * width
        moved = {name: getattr(self, name) + offset for name in ("start", "middle", "end")}
        return replace(self, **moved, radius=self.radius * share)

    def sample(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return points (m, 3) in body mm along all branches, as dense as the grid can show, and their radii (m,)."""
        length = np.linalg.norm(self.end - self.start, axis=1)
        spacing = np.maximum(0.6 * float(grid.voxel.min()), 0.3 * self.radius.mean(1))
        counts = np.ceil(length / spacing).astype(int) + 1
        branch = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        t = ((np.arange(counts.sum()) - first[branch]) / np.maximum(counts[branch] - 1, 1))[:, None]
        points = (1 - t) ** 2 * self.start[branch] + 2 * t * (1 - t) * self.middle[branch] + t**2 * self.end[branch]
        return points, ((1 - t) * self.radius[branch, :1] + t * self.radius[branch, 1:])[:, 0]


def grow_tree(
    points: np.ndarray,
    lobes: np.ndarray,
    roots: np.ndarray,
    radius: float,
    decay: float,
    rng: np.random.Generator,
    levels: int,
) -> Tree:
    """Grow one tree per lobe unit towards points that fill it.

    Every branch heads for the centroid of the points that it has to feed, ends part of the way, and the points are
    halved across their longest extent for its two children, as in volume-filling models of the airways.

    Args:
        points: (units, 2**k, 3) body mm, the points to feed.
        lobes: (units,) region ids.
        roots: (units, 3) body mm where the trees start.
        radius: body mm at the root.
        decay: radius of a child over the radius of its parent.
        rng: the stream that bends the branches.
        levels: deepest level to return, at most k.

    Returns:
        All branches of all units, level by level.
    """
    # Halved in a turned frame: planes along the image axes would leave slices without vessels.
    frame = random_turn(rng)
    starts, pts = (roots @ frame)[:, None], (points @ frame)[:, None]
    units, rows = len(points), []
    # Drawn for the full depth, so that a coarse grid with fewer levels shows the same large branches.
    bends = rng.normal(0, 0.12, (2 * points.shape[1], units, 3))
    for level in range(levels + 1):
        n_branch, n_points = pts.shape[1:3]
        share = 0.42 if n_points > 1 else 0.9
        ends = starts + share * (pts.mean(2) - starts)
        length = np.linalg.norm(ends - starts, axis=2, keepdims=True)
        bend = bends[n_branch : 2 * n_branch].transpose(1, 0, 2) * length
        r = radius * decay**level
        count = units * n_branch
        rows.append(
            (
                starts.reshape(-1, 3),
                ((starts + ends) / 2 + bend).reshape(-1, 3),
                ends.reshape(-1, 3),
                np.tile([r, r * decay if level else r], (count, 1)),
                np.full(count, level),
                np.repeat(lobes, n_branch),
            )
        )
        if n_points == 1:
            break
        axis = np.ptp(pts, axis=2).argmax(2)[:, :, None, None]
        order = np.take_along_axis(pts, axis, 3)[..., 0].argsort(2)[..., None]
        pts = np.take_along_axis(pts, order, 2).reshape(units, 2 * n_branch, n_points // 2, 3)
        starts = np.repeat(ends, 2, axis=1)
    start, middle, end, *rest = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Tree(start @ frame.T, middle @ frame.T, end @ frame.T, *rest)
