"""Chest X-ray studies as a data set: image, note, clinical vector and labels, each of which a case may lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from common.data.datasets.class_weights import class_weights
from common.data.ehr.clinical_vector import CLINICAL_FEATURES, ClinicalScaler
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer
from common.io.bad_input import BadInput

__all__ = ["StudyCollate", "StudyDataset", "study_splits"]

_INPUTS = {"vision": "an X-ray", "text": "a note", "clinical": "clinical values"}


class StudyDataset(Dataset):
    """Items for `common.engines.cxr_batch.PrepareStudyBatch`, once `StudyCollate` has made a batch of them.

    An item has `image` (3, H, W), `note` (text), `clinical` (45,), `present` (3,) bool, `label` (C,) with NaN where
    there is none, `case`, `patient` and `index`. What a case lacks, or `modalities` leave out, is zeros or an empty
    text, with `present` False.

    Args:
        cases: from `common.data.cxr.cases.read_cxr_cases`.
        transform: takes {"image": path, ...} to {"image": (3, H, W)}; needed for vision.
        scaler: of the clinical variables; needed for clinical.
        modalities: which are read at all.
        image_size: of the zeros where there is no image.
        required: a case without any of these modalities is refused (BadInput) when it is read; none by default.

    Raises:
        ValueError: for an unknown modality, or one without its transform or scaler.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        transform: Callable[[dict], dict] | None = None,
        scaler: ClinicalScaler | None = None,
        modalities: Sequence[str] = MODALITIES,
        image_size: int = 518,
        required: Sequence[str] = (),
    ) -> None:
        unknown = [name for name in modalities if name not in MODALITIES]
        if unknown:
            raise ValueError(f"modalities hold {unknown[0]!r}, expected some of {', '.join(MODALITIES)}")
        for name, needed in (("vision", transform), ("clinical", scaler)):
            if name in modalities and needed is None:
                raise ValueError(f"{name} is read without a {'transform' if name == 'vision' else 'scaler'}")
        self.cases, self.transform, self.modalities = list(cases), transform, tuple(modalities)
        self.image_size, self.required = image_size, tuple(required)
        self.clinical = np.zeros((len(self.cases), len(CLINICAL_FEATURES)), np.float32)
        raw = {i: case["clinical"] for i, case in enumerate(self.cases) if case["clinical"] is not None}
        if raw and "clinical" in modalities:
            self.clinical[list(raw)] = scaler.transform(np.stack(list(raw.values())))

    def class_weights(self) -> torch.Tensor:
        """(C,) weights of the labels, see `common.data.datasets.class_weights`."""
        return class_weights(torch.as_tensor(np.stack([case["label"] for case in self.cases])))

    def __len__(self) -> int:
        return len(self.cases)

    def present(self, index: int) -> list[bool]:
        """Which modalities a case has, of those that are read."""
        case = self.cases[index]
        has = {
            "vision": case["image"] is not None,
            "text": bool((case["note"] or "").strip()),
            "clinical": case["clinical"] is not None,
        }
        return [name in self.modalities and has[name] for name in MODALITIES]

    def records(self) -> list[dict[str, Any]]:
        """The items before their images are read: `image` is a path, or None."""
        return [self._record(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        present = dict(zip(MODALITIES, self.present(index), strict=True))
        if self.required and not any(present[name] for name in self.required):
            expected = " or ".join(_INPUTS[name] for name in self.required)
            raise BadInput(self.cases[index]["case"], f"has no input of this network, expected {expected}")
        item = self._record(index)
        image = torch.zeros(3, self.image_size, self.image_size)
        if item["image"] is not None:
            image = self.transform({name: item[name] for name in ("image", "case", "index")})["image"]
        return item | {"image": torch.as_tensor(image).as_subclass(torch.Tensor)}

    def _record(self, index: int) -> dict[str, Any]:
        case, present = self.cases[index], self.present(index)
        return {
            "image": case["image"] if present[0] else None,
            "note": case["note"] if present[1] else "",
            "clinical": torch.from_numpy(self.clinical[index]),
            "present": torch.tensor(present),
            "label": torch.as_tensor(case["label"], dtype=torch.float32),
            "case": case["case"],
            "patient": case["patient"],
            "index": index,
        }


def study_splits(
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    transform: Callable[[dict], dict] | None,
    train_transform: Callable[[dict], dict] | None = None,
    **options: Any,
) -> dict[str, StudyDataset]:
    """Split -> its data set.

    Args:
        cases: split -> cases.
        transform: of the images.
        train_transform: of those of "train", which may change them at random; None for `transform`.
        options: further arguments of `StudyDataset`.
    """
    chosen = {split: (train_transform or transform) if split == "train" else transform for split in cases}
    return {split: StudyDataset(rows, chosen[split], **options) for split, rows in cases.items()}


class StudyCollate:
    """Make a batch: tensors are stacked, notes tokenized and padded to the longest of the batch.

    Args:
        tokenizer: of the text encoder; None leaves notes out.
        modalities: of the others, `image` and `clinical` are left out as well.
    """

    def __init__(self, tokenizer: NoteTokenizer | None, modalities: Sequence[str] = MODALITIES) -> None:
        self.tokenizer, self.modalities = tokenizer, tuple(modalities)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Items of a `StudyDataset` to a batch."""
        left_out = {"note"} | {
            key for key, name in (("image", "vision"), ("clinical", "clinical")) if name not in self.modalities
        }
        batch = default_collate([{key: value for key, value in item.items() if key not in left_out} for item in items])
        if self.tokenizer is not None and "text" in self.modalities:
            batch["note"] = self.tokenizer([item["note"] for item in items])
        return batch
