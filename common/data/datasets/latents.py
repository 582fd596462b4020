"""Cached pairs of latents as a data set; written by the `latents` stage (`common.engines.latents`)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import Dataset

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.data.seeds import seeded_generator
from common.io.bad_input import BadInput

__all__ = ["LatentDataset", "read_latent_index"]

INDEX_NAME = "latents.json"


def read_latent_index(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the index of the `latents` stage.

    Args:
        path: `latents.json` or the folder that holds it.

    Returns:
        Its content: `scale_factor`, `ratios`, `resolution`, `vae` (weights hash), `cache_dir` (absolute), `entries`.

    Raises:
        BadInput: if it is missing or not such an index.
    """
    path = Path(path)
    path = path / INDEX_NAME if path.is_dir() else path
    if not path.is_file():
        raise BadInput(path, "does not exist, expected the index that the latents stage writes")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        index["cache_dir"] = str((path.parent / index["cache_dir"]).resolve())
        _ = index["entries"], index["scale_factor"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(path, f"is not an index of the latents stage ({type(error).__name__}: {error})") from error
    return index


class LatentDataset(Dataset):
    """One item per case and ratio: `{"latent", "thick_latent", "spacing", "case", "ratio", "image"}`.

    `latent` and `thick_latent` are (4, d, h, w) float32, the latter of the thick slices interpolated to the same grid;
    `spacing` is (3,), see `common.networks.slice_unet.ratio_condition`; `image` is the path of the CT. Latents are not
    flipped: those of a convolutional network are not equivariant to flips.

    As a handler of the trainer it draws other crops in every epoch. Crops depend on seed, epoch and index only, so they
    are the same whatever the number of workers, and after a resume.

    Args:
        index: `latents.json` or its folder.
        split: "train" or "val".
        crop: (d, h, w) of a random crop in latent voxels; a latent smaller than that along an axis is taken whole
            there, so then use a batch size of 1. None takes whole latents.
        ratios: use only these; all by default.
        limit: use only the first so many items, e.g. 2 for a quick validation.
        seed: of the crops.
        cache_dir: where the cache is, if not where the index says.

    Raises:
        BadInput: if the index is missing or has nothing for this split and these ratios.
    """

    def __init__(
        self,
        index: str | os.PathLike[str],
        split: str = "train",
        crop: Sequence[int] | None = None,
        ratios: Sequence[int] | None = None,
        limit: int | None = None,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        content = read_latent_index(index)
        if crop is not None and (len(crop) != 3 or min(crop) < 1):
            raise ValueError(f"crop is {crop}, expected three positive sizes (d, h, w)")
        self.scale_factor = float(content["scale_factor"])
        self.entries = [
            entry
            for entry in content["entries"]
            if entry["split"] == split and (ratios is None or entry["ratio"] in ratios)
        ][:limit]
        if not self.entries:
            wanted = f"split {split!r}" + (f" and ratios {list(ratios)}" if ratios is not None else "")
            known = sorted({entry["split"] for entry in content["entries"]})
            raise BadInput(index, f"has no latents for {wanted}, expected some (splits {known})")
        self.cache = FeatureCache(content["cache_dir"] if cache_dir is None else cache_dir)
        self.crop = None if crop is None else tuple(crop)
        self.seed = seed
        self.epoch = 0

    def attach(self, engine: Engine) -> None:
        """Take the epoch from an engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: self.set_epoch(engine.state.epoch))

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops of this epoch from now on (data loader workers started later)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self.entries[index]
        latents = {name: self._load(entry, name) for name in ("thin", "thick")}
        crop = self._crop(latents["thin"].shape[1:], range(len(self))[index])
        return {
            "latent": latents["thin"][crop].clone(),
            "thick_latent": latents["thick"][crop].clone(),
            "spacing": torch.tensor(entry["condition"], dtype=torch.float32),
            "case": entry["case"],
            "ratio": entry["ratio"],
            "image": entry["image"],
        }

    def _load(self, entry: dict[str, Any], name: str) -> Tensor:
        stored = self.cache.get(FeatureKey(**entry[name]))
        if stored is None:
            raise BadInput(
                self.cache.root, f"lacks the {name} latent of case {entry['case']}, run the latents stage again"
            )
        return stored["latent"].float()

    def _crop(self, shape: torch.Size, index: int) -> tuple[slice, ...]:
        if self.crop is None:
            return (slice(None),)
        generator = seeded_generator(self.seed, self.epoch, index)
        slices = [slice(None)]
        for size, wanted in zip(shape, self.crop, strict=True):
            start = int(torch.randint(max(size - wanted, 0) + 1, (), generator=generator))
            slices.append(slice(start, start + wanted))
        return tuple(slices)
