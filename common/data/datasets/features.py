"""Features of the frozen encoders as a data set; written by the `features` stage (`common.engines.study_features`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from common.data.datasets.class_weights import class_weights
from common.data.modalities import MODALITIES
from common.io.bad_input import BadInput

__all__ = ["FeatureDataset"]


class FeatureDataset(Dataset):
    """Items {"features": {modality: (d,)}, "present" (3,), "label" (C,), "case", "patient", "index"}, all in memory.

    Args:
        folder: `features` of a run, with SPLIT.safetensors and SPLIT.json.
        split: "train", "val" or "test".
        modalities: those that the network takes; the others count as absent.
        labels: names in the order of the network's outputs; default all that were written.
        limit: only the first so many cases.

    Raises:
        BadInput: if the files are missing, or lack a label or a modality.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        modalities: Sequence[str] = MODALITIES,
        labels: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> None:
        path = Path(folder) / f"{split}.json"
        if not path.is_file():
            raise BadInput(path, "does not exist, expected what the features stage writes")
        listed = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_suffix(".safetensors"))
        labels = listed["labels"] if labels is None else list(labels)
        lacking = [name for name in labels if name not in listed["labels"]]
        if lacking:
            raise BadInput(path, f"has no label {lacking[0]!r}, expected some of {', '.join(listed['labels'])}")
        self.labels, self.modalities = tuple(labels), tuple(name for name in MODALITIES if name in modalities)
        self.cases, self.patients = listed["cases"][:limit], listed["patients"][:limit]
        absent = [name for name in self.modalities if name not in tensors]
        if absent:
            raise BadInput(path.with_suffix(".safetensors"), f"has no {absent[0]} features, expected those of a run of "
                           f"the features stage with {', '.join(self.modalities)}")  # fmt: skip
        self.features = {name: tensors[name][:limit] for name in self.modalities}
        here = torch.tensor([name in self.modalities for name in MODALITIES])
        self.present = tensors["present"][:limit] & here
        self.label = tensors["label"][:limit][:, [listed["labels"].index(name) for name in labels]]

    def class_weights(self) -> torch.Tensor:
        """(C,) weights of the labels, see `common.data.datasets.class_weights`."""
        return class_weights(self.label)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {
            "features": {name: values[index] for name, values in self.features.items()},
            "present": self.present[index],
            "label": self.label[index],
            "case": self.cases[index],
            "patient": self.patients[index],
            "index": index,
        }
