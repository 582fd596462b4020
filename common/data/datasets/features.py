"""Features of frozen networks as a data set; written by the stage `common.engines.frozen_features`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from common.data.datasets.class_weights import class_weights
from common.data.datasets.epoch_draws import EpochDraws, random_place
from common.data.datasets.feature_cache import FeatureCache, tensor_checksum
from common.data.seeds import seeded_generator
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, write_text

__all__ = ["FeatureDataset", "find_damaged_features", "write_features"]


def write_features(folder: Path, split: str, index: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> None:
    """Write SPLIT.safetensors and SPLIT.json, which holds a checksum of both; what is in them see `FeatureDataset`."""
    with atomic_path(folder / f"{split}.safetensors") as part:
        save_file(dict(vectors), part)
    checksum = tensor_checksum(vectors, json.dumps(index))
    write_text(folder / f"{split}.json", json.dumps({**index, "checksum": checksum}) + "\n")


def find_damaged_features(folder: Path) -> str | None:
    """What is damaged of the features that a stage wrote into its folder, None if nothing is known to be."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            data = FeatureDataset(folder, path.stem)
        except BadInput as error:
            return str(error)
        for name, rows in data.maps.items():
            if any(data.cache.was_damaged(digest) for digest in rows["entries"]):
                return f"{data.cache.root} had a damaged entry with {name}."
    return None


class FeatureDataset(EpochDraws, Dataset):
    """One item per case: its features and columns by their names, and "index". Nothing of it is held in memory.

    Vectors, (d,), are rows of one memory-mapped file; maps of any shape, such as tokens (N, C) or latents (C, d, h, w),
    are read from the cache, one case at a time, in the precision that they were written in.

    As a handler of the trainer it draws other crops in every epoch, see `EpochDraws`.

    Args:
        folder: of the stage, in that of its run, with SPLIT.json and SPLIT.safetensors.
        split: "train", "val" or "test".
        features: those that are needed; default all that were written.
        labels: names in the order of the network's outputs; default all that were written.
        limit: only the first so many cases.
        crop: size of a random crop of all maps at the same place, one number per axis after the channels; a map smaller
            than that along an axis is taken whole there, so then use a batch size of 1. None takes whole maps.
        seed: of the crops.

    Attributes:
        vectors: name -> (N, ...), memory-mapped.
        columns: name -> texts or numbers of the cases.
        labels: names of the columns of "label".
        scale_factor: of the features, see `common.engines.frozen_features.FeatureWriter`.

    Raises:
        BadInput: if the files are missing or of another version, or lack a label or a feature.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        features: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        limit: int | None = None,
        crop: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        if crop is not None and min(crop, default=0) < 1:
            raise ValueError(f"crop is {crop}, expected positive sizes")
        path = Path(folder) / f"{split}.json"
        if not path.is_file():
            raise BadInput(path, "does not exist, expected what the stage of the features writes; run it first")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            checksum = index.pop("checksum", None)  # files of before have none
            known, columns, maps = index["features"], index["columns"], index["maps"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadInput(path, "is no index of features that this version writes; run its stage again") from error
        try:
            vectors = load_file(path.with_suffix(".safetensors"))
        except (SafetensorError, OSError) as error:
            raise BadInput(
                path.with_suffix(".safetensors"), f"cannot be read ({error}); run its stage again"
            ) from error
        if checksum is not None and checksum != tensor_checksum(vectors, json.dumps(index)):
            reason = "or the .safetensors file beside it is damaged (another checksum), expected what its stage wrote"
            raise BadInput(path, f"{reason}; run its stage again")
        wanted = known if features is None else list(features)
        absent = [name for name in wanted if name not in vectors and name not in maps]
        if absent:
            raise BadInput(path, f"has no {absent[0]} features, expected those of a run of its stage with "
                           f"{', '.join(wanted)}")  # fmt: skip
        if "label" in vectors:
            self.labels = tuple(index["labels"] if labels is None else labels)
            lacking = [name for name in self.labels if name not in index["labels"]]
            if lacking:
                raise BadInput(path, f"has no label {lacking[0]!r}, expected some of {', '.join(index['labels'])}")
            vectors["label"] = vectors["label"][:, [index["labels"].index(name) for name in self.labels]]
        left_out = set(known).difference(wanted)
        self.scale_factor, self.columns = index["scale_factor"], {name: rows[:limit] for name, rows in columns.items()}
        self.vectors = {name: rows[:limit] for name, rows in vectors.items() if name not in left_out}
        self.maps = {name: rows for name, rows in maps.items() if name not in left_out}
        if self.maps:
            self.cache = FeatureCache((path.parent / index["cache_dir"]).resolve())
        self.path, self.crop, self.seed = path, crop, seed

    def class_weights(self) -> Tensor:
        """(C,) weights of the labels, see `common.data.datasets.class_weights`."""
        return class_weights(self.vectors["label"])

    def __len__(self) -> int:
        return len(self.columns["case"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        item = {name: rows[index] for rows_of in (self.columns, self.vectors) for name, rows in rows_of.items()}
        maps = {name: self._map(name, index) for name in self.maps}
        if self.crop is not None and maps:
            generator = seeded_generator(self.seed, self.epoch, index)
            place = random_place(next(iter(maps.values())).shape[1:], self.crop, generator)
            maps = {name: values[slice(None), *place].clone() for name, values in maps.items()}
        return item | maps | {"index": index}

    def _map(self, name: str, index: int) -> Tensor:
        entry = self.cache.get(self.maps[name]["entries"][index])
        if entry is None:
            raise BadInput(self.cache.root, f"lacks {name} of case {self.columns['case'][index]}, which {self.path} "
                           "names; run its stage again")  # fmt: skip
        return entry[self.maps[name]["tensor"]]
