"""Random cubes from thin CTs, for training the VAE."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.data.ct.volume_store import VolumeStore
from common.data.datasets.epoch_draws import EpochDraws, random_place
from common.data.seeds import seeded_generator

__all__ = ["CTPatchDataset"]


class CTPatchDataset(EpochDraws, Dataset):
    """`patches_per_volume` items per case: `{"image": (1, d, h, w) float32 HU, "case"}`.

    As a handler of the trainer it draws other patches in every epoch, see `EpochDraws`.
    For validation do not attach it.

    Args:
        cases: rows with "image" (path) and "case", see `common.data.manifest.read_split`.
        store_dir: folder of the `VolumeStore`.
        patch: (d, h, w); where a volume is smaller, its edge is repeated.
        patches_per_volume: per epoch.
        transform: applied to each item, e.g. to bring HU to [0, 1].
        seed: of the places.

    Raises:
        ValueError: if there is no case or a size is not positive.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, str]],
        store_dir: str | os.PathLike[str],
        patch: Sequence[int] = (64, 64, 64),
        patches_per_volume: int = 1,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not cases:
            raise ValueError("the list of CTs to cut patches from is empty, expected at least one")
        if len(patch) != 3 or min(patch) < 1 or patches_per_volume < 1:
            raise ValueError(f"{patches_per_volume} patches of {patch}, expected positive numbers, sizes as (d, h, w)")
        self.cases = list(cases)
        self.store = VolumeStore(store_dir)
        self.store.check(case["image"] for case in self.cases)
        self.patch = tuple(patch)
        self.patches_per_volume = patches_per_volume
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.cases) * self.patches_per_volume

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        case = self.cases[index // self.patches_per_volume]
        volume = self.store.get(case["image"])
        generator = seeded_generator(self.seed, self.epoch, index)
        cube = volume[random_place(volume.shape, self.patch, generator)]
        missing = [(0, wanted - size) for size, wanted in zip(cube.shape, self.patch, strict=True)]
        cube = np.pad(cube, missing, mode="edge")
        item = {"image": torch.from_numpy(cube.astype(np.float32))[None], "case": case["case"]}
        return item if self.transform is None else self.transform(item)
