"""The answer of a classifier as MONAI Label wants it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["LabelResultd"]


class LabelResultd(MapTransform):
    """Turn logits (C,) into probabilities, and put them by name under `result`.

    MONAI Label writes what stands at `result` into its answer, and expects of a classification that the image is a
    plain tensor and the prediction a MetaTensor.

    Args:
        keys: of the logits.
        labels: C names.
    """

    def __init__(self, keys: KeysCollection, labels: Sequence[str]) -> None:
        super().__init__(keys)
        self.labels = tuple(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Answer for one case."""
        out = dict(data)
        for key in self.key_iterator(out):
            p = torch.as_tensor(out[key]).as_subclass(torch.Tensor).float().sigmoid().reshape(-1)
            if len(p) != len(self.labels):
                raise ValueError(f"{key} has {len(p)} values, expected one for each of {len(self.labels)} labels")
            out["result"] = {label: round(float(value), 6) for label, value in zip(self.labels, p, strict=True)}
            out[key] = MetaTensor(p)
        if isinstance(out.get("image"), MetaTensor):
            out["image"] = out["image"].as_tensor()
        out.pop("image_meta_dict", None)
        return out
