"""The answer of a classifier, or of a report writer, as MONAI Label wants it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.io.strict_json import parse_object

__all__ = ["AnswerResultd", "LabelResultd", "ReportResultd"]


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
        return _with_plain_image(out)


class ReportResultd(MapTransform):
    """Put the report of a case as "report" under `result`, see `LabelResultd`; the prediction becomes an empty mask.

    Args:
        keys: of the texts, for a batch of one case: MONAI Label takes the first of what an inferer gives, which of
            `common.inferers.report_inferer.WrittenReports` are the texts.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Answer for one case."""
        out = dict(data)
        for key in self.key_iterator(out):
            texts = out[key][0]
            out["result"] = {"report": texts[0]} | ({"samples": list(texts)} if len(texts) > 1 else {})
            out[key] = MetaTensor(torch.zeros(out["image"].shape[-2:], dtype=torch.uint8))
        return _with_plain_image(out)


class AnswerResultd(MapTransform):
    """Put an answer under `result`, see `ReportResultd`: the object that it is, or the text of one that is none.

    Args:
        keys: of the answers, for a batch of one case, which come first in
            `common.inferers.answer_inferer.WrittenAnswers`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Answer for one case."""
        out = dict(data)
        for key in self.key_iterator(out):
            text = out[key][0]
            answer = parse_object(text)
            found = {"valid": False, "raw": text} if answer is None else {"valid": True} | answer
            out["result"] = found | {"report": str(found.get("impression", ""))}
            out[key] = MetaTensor(torch.zeros(out["image"].shape[-2:], dtype=torch.uint8))
        return _with_plain_image(out)


def _with_plain_image(out: dict[Hashable, Any]) -> dict[Hashable, Any]:
    if isinstance(out.get("image"), MetaTensor):
        out["image"] = out["image"].as_tensor()
    out.pop("image_meta_dict", None)
    return out
