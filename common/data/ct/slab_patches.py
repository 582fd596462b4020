"""Patches of thin CT and the thick slices simulated from them, for training the pixel-space refiner."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name
from torch.utils.data import Dataset

from common.data.ct.volume import HU_FLOOR
from common.data.ct.volume_store import VolumeStore
from common.data.datasets.epoch_draws import EpochDraws
from common.data.seeds import seeded_generator

__all__ = ["SCALES", "SlabPatchDataset", "coarser_copy"]

SCALES = (
    (1.0, 1.0, "sharp"),
    (1.0, 1.5, "sharp"),
    (1.0, 2.13, "sharp"),
    (1.2, 2.13, "sharp"),
    (1.2, 2.13, "area"),
    (1.6, 1.5, "sharp"),
    (1.6, 3.0, "sharp"),
    (2.4, 2.13, "area"),
    (2.4, 4.27, "sharp"),
)
"""Factors (along slices, in plane) and kinds of coarser copies, so that 0.7 x 0.7 x 1.25 mm looks like 1.5 or 3 mm too.
"sharp" samples points and keeps noise and edges, as scanners with short increments and resampled data sets do; "area"
averages as thicker slices do. Measured on CT resampled to 1.5 and 3 mm, "sharp" has nearly its spectrum."""

HU_CEILING = 3071
_TRIES = 10  # of finding a patch with something in it


def coarser_copy(store: VolumeStore, image: str | os.PathLike[str], scale: tuple[float, float, str]) -> np.memmap:
    """A volume of a store with fewer voxels over the same extent, made once and kept beside the original.

    Args:
        store: of the decoded volumes.
        image: readable by `common.data.ct.reader.read_ct`.
        scale: factor along the slices, factor in plane, "sharp" or "area", see `SCALES`.

    Returns:
        (D, H, W) int16 HU, read-only.

    Raises:
        BadInput: if the image is no sound CT.
    """
    volume = store.get(image)
    along, in_plane, kind = scale
    if (along, in_plane) == (1, 1):
        return volume
    original = Path(volume.filename)
    stored = original.with_name(f"{original.stem}_{along:g}_{in_plane:g}_{kind}.npy")
    return store.get_or_make(stored, lambda: _coarser(np.array(volume), along, in_plane, kind))


class SlabPatchDataset(EpochDraws, Dataset):
    """Random patches, as `{"thick": (N + context - 1, h, w), "target": (N * ratio, h, w), "ratio": int}`.

    Rows with a ``sample`` (a decoded diffusion sample of the whole volume, drawn for slabs of ``sample_ratio`` slices
    from slice 0) also give batches with `"sample"`, shaped like the target, in all items of a batch or in none.

    Values are HU/1000. The slab profile is a box: a thick slice is the mean of ``ratio`` thin ones. Patches are
    flipped and turned; any axis may be taken for the slice axis. Item i is drawn from (seed, epoch, i) and its ratio
    from (seed, epoch, i // batch_size): the same whatever the number of workers, and consecutive items stack.

    As a handler of the trainer it draws new patches in every epoch, see `EpochDraws`.

    Args:
        rows: manifest rows; ``image`` is read by `common.data.ct.reader.read_ct`.
        cache_dir: folder of the `VolumeStore`.
        n_items: items per epoch.
        batch_size: items that share a ratio.
        context: thick slices that the network sees at once, odd.
        n_slabs: N, slabs per patch.
        patch: (h, w).
        ratios: to draw from; a number listed twice is drawn twice as often.
        axes: chances of the (z, y, x) axis to be the slice axis.
        scales: coarser copies to draw from as well, see `SCALES`.
        row_weights: how often each row is drawn; all alike by default.
        sample_share: share of the batches with samples, if any row has one.
        seed: of the patches.

    Raises:
        ValueError: if an argument is out of range or no volume is large enough for a ratio.
        BadInput: if an image cannot be read.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        cache_dir: str | os.PathLike[str],
        n_items: int = 4096,
        batch_size: int = 16,
        context: int = 5,
        n_slabs: int = 1,
        patch: tuple[int, int] = (64, 64),
        ratios: Sequence[int] = (2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 8),
        axes: Sequence[float] = (0.5, 0.25, 0.25),
        scales: Sequence[tuple[float, float, str]] = SCALES,
        row_weights: Sequence[float] | None = None,
        sample_share: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not rows:
            raise ValueError("rows is empty, expected at least one CT to train on")
        if context % 2 == 0 or min(context, n_slabs, n_items, batch_size, *patch) < 1 or min(ratios) < 2:
            raise ValueError(
                f"context {context}, n_slabs {n_slabs}, n_items {n_items}, batch_size {batch_size}, patch {patch}, "
                f"ratios {list(ratios)}: expected positive numbers, an odd context and ratios of at least 2"
            )
        if row_weights is not None and len(row_weights) != len(rows):
            raise ValueError(f"row_weights has {len(row_weights)} numbers, expected {len(rows)}, one per row")
        self.n_items, self.batch_size, self.context, self.n_slabs = n_items, batch_size, context, n_slabs
        self.patch, self.ratios, self.seed = tuple(patch), list(ratios), seed
        self.scales = [(float(along), float(in_plane), str(kind)) for along, in_plane, kind in scales]
        if not self.scales or any(min(s[:2]) < 1 or s[2] not in ("sharp", "area") for s in self.scales):
            raise ValueError(f"scales are {scales}, expected two factors of 1 or more and 'sharp' or 'area' each")
        store = VolumeStore(cache_dir)
        self.volumes = [[coarser_copy(store, row["image"], scale) for scale in self.scales] for row in rows]
        weights = [1.0] * len(rows) if row_weights is None else list(row_weights)
        self.sample_share = sample_share
        self.sampled = [
            (store.get(row["image"]), store.get(row["sample"]), int(row["sample_ratio"]))
            for row in rows
            if row.get("sample")
        ]
        if len({ratio for *_, ratio in self.sampled}) > 1:
            raise ValueError("the rows hold samples of several ratios, expected one")
        for _, sample, ratio in self.sampled:
            needed = (ratio * (n_slabs + context - 1), *patch)
            if any(size < least for size, least in zip(sample.shape, needed, strict=True)):
                raise ValueError(
                    f"a sample of {sample.shape} holds no patch of {needed} (slices, rows, columns) for its ratio "
                    f"{ratio}, expected larger volumes, a smaller patch or less context"
                )
        self._choices = {ratio: self._choices_for(ratio, weights, axes) for ratio in set(ratios)}

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(self.n_items)[index]
        of_batch = seeded_generator(self.seed, 0, self.epoch, index // self.batch_size)
        ratio = self.ratios[int(torch.randint(len(self.ratios), (), generator=of_batch))]
        with_sample = bool(self.sampled) and bool(torch.rand((), generator=of_batch) < self.sample_share)
        generator = seeded_generator(self.seed, 1, self.epoch, index)
        for _ in range(_TRIES):
            hu, ratio = self._sampled_patch(generator) if with_sample else (self._patch(ratio, generator), ratio)
            # Nine of ten patches of nothing but air are drawn again.
            if hu[..., ::4, ::4, ::4].std() > 50 or torch.rand((), generator=generator) < 0.1:
                break
        volumes = torch.from_numpy(np.ascontiguousarray(hu)).float() / 1000
        thin = volumes[0] if with_sample else volumes
        half = self.context // 2
        inner = slice(half * ratio, (half + self.n_slabs) * ratio)
        item = {"thick": thin.unflatten(0, (-1, ratio)).mean(dim=1), "target": thin[inner], "ratio": ratio}
        return item | {"sample": volumes[1][inner]} if with_sample else item

    def _choices_for(
        self, ratio: int, weights: Sequence[float], axes: Sequence[float]
    ) -> tuple[list[tuple[np.ndarray, int]], Tensor]:
        """Volumes and slice axes large enough for a ratio, and their chances."""
        needed = ratio * (self.n_slabs + self.context - 1)
        choices, chances = [], []
        for copies, weight in zip(self.volumes, weights, strict=True):
            # Within a row by the root of the size: coarse copies hold less that is new.
            sizes = [math.sqrt(volume.size) for volume in copies]
            for volume, size, scale in zip(copies, sizes, self.scales, strict=True):
                for axis, share in enumerate(axes):
                    depth, height, width = np.moveaxis(volume, axis, 0).shape
                    if axis and scale[1] == 1 and len(copies) > 1:
                        continue  # reconstructed in-plane pixels are far smoother than slices ever are
                    if depth >= needed and height >= self.patch[0] and width >= self.patch[1] and weight * share > 0:
                        choices.append((volume, axis))
                        chances.append(weight * share * size / sum(sizes))
        if not choices:
            raise ValueError(
                f"no volume holds a patch of {needed} x {self.patch[0]} x {self.patch[1]} voxels (slices x rows x "
                f"columns) for ratio {ratio}, expected larger volumes or a smaller patch"
            )
        return choices, torch.tensor(chances)

    def _patch(self, ratio: int, generator: torch.Generator) -> np.ndarray:
        """A random (ratio * (n_slabs + context - 1), h, w) int16 view, flipped and turned."""
        choices, chances = self._choices[ratio]
        volume, axis = choices[int(torch.multinomial(chances, 1, generator=generator))]
        return self._cut([np.moveaxis(volume, axis, 0)], ratio, 1, generator)[0]

    def _sampled_patch(self, generator: torch.Generator) -> tuple[np.ndarray, int]:
        """The same random patch of a volume and of its sample, (2, ...) int16, and the ratio."""
        volume, sample, ratio = self.sampled[int(torch.randint(len(self.sampled), (), generator=generator))]
        # A sample is consistent with the slabs that it was drawn for, so patches start where a slab does.
        return np.stack(self._cut([volume[: len(sample)], sample], ratio, ratio, generator)), ratio

    def _cut(
        self, volumes: Sequence[np.ndarray], ratio: int, align: int, generator: torch.Generator
    ) -> list[np.ndarray]:
        """The same place of equally large volumes, flipped and turned alike; the first slice a multiple of `align`."""

        def draw(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        sizes = (ratio * (self.n_slabs + self.context - 1), *self.patch)
        room = [full - size for full, size in zip(volumes[0].shape, sizes, strict=True)]
        starts = [align * draw(room[0] // align + 1), draw(room[1] + 1), draw(room[2] + 1)]
        place = tuple(slice(a, a + size) for a, size in zip(starts, sizes, strict=True))
        axes = [a for a in range(3) if draw(2)]
        turned = self.patch[0] == self.patch[1] and draw(2)
        patches = [np.flip(np.asarray(volume[place]), axes) for volume in volumes]
        return [patch.swapaxes(1, 2) for patch in patches] if turned else patches


def _coarser(hu: np.ndarray, along: float, in_plane: float, kind: str) -> np.ndarray:
    """A (D, H, W) int16 volume with fewer voxels over the same extent: cubic samples ("sharp") or area averages."""
    depth, height, width = (max(1, round(n / f)) for n, f in zip(hu.shape, (along, in_plane, in_plane), strict=True))
    coarse = torch.from_numpy(hu).float()[:, None]
    if kind == "area":
        coarse = F.adaptive_avg_pool3d(coarse[:, 0][None], (depth, height, width))[0]
    else:
        coarse = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).flatten(1)
        coarse = F.interpolate(coarse[None, None], (depth, height * width), mode="bicubic", align_corners=False)
        coarse = coarse.reshape(depth, height, width).clamp(HU_FLOOR, HU_CEILING)
    return coarse.round().short().numpy()
