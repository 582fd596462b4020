"""Dice and IoU per disease, by MONAI's functions, with the convention for empty masks stated.

A healthy case has an empty mask, and what it counts decides the mean. Three conventions, by the argument `empty`:

    "one"               both masks empty: 1; only the true one empty: 0 (MONAI's `ignore_empty=False`)
    "leave_out"         both masks empty: left out of the mean; only the true one empty: 0
    "leave_out_truth"   true mask empty: left out whatever was predicted, so false alarms on healthy cases cost nothing
                        (MONAI's default, `ignore_empty=True`)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou
from monai.utils import convert_to_tensor

from common.metrics.cumulative import CumulativeMetric
from common.metrics.resampling import Interval, bootstrap_intervals

EMPTY = ("one", "leave_out", "leave_out_truth")


@dataclass(frozen=True)
class OverlapResult:
    """Dice and IoU over cases.

    Attributes:
        empty: the convention.
        cases: number of cases.
        scores: "dice" or "iou" -> disease -> mean over its cases, with the mean over diseases as "macro".
        left_out: disease -> cases left out by the convention.
        undefined: disease -> why it has no value; left out of "macro".
    """

    empty: str
    cases: int
    scores: dict[str, dict[str, Interval]]
    left_out: dict[str, int]
    undefined: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """For JSON: None where undefined."""
        scores = {
            measure: {name: interval.to_dict() for name, interval in values.items()}
            for measure, values in self.scores.items()
        }
        told = {"left_out": self.left_out, "undefined": self.undefined}
        return {"empty": self.empty, "cases": self.cases, **scores, **told}

    def summary(self) -> dict[str, float]:
        """Point values as one flat dictionary, `dice_macro`, `iou_<disease>`; undefined ones absent."""
        flat = {
            f"{measure}_{name}": interval.value
            for measure, values in self.scores.items()
            for name, interval in values.items()
        }
        return {name: float(value) for name, value in flat.items() if not math.isnan(value)}


def overlap(prediction: torch.Tensor, target: torch.Tensor, empty: str = "one") -> tuple[torch.Tensor, torch.Tensor]:
    """Dice and IoU of every case and disease.

    Args:
        prediction: (B, C, *spatial) of 0 and 1, or bool; a threshold was applied before.
        target: same shape.
        empty: one of `EMPTY`.

    Returns:
        Dice and IoU, (B, C) float64 each, NaN where the convention leaves a case out.

    Raises:
        ValueError: for another convention, different shapes, or values other than 0 and 1.
    """
    if empty not in EMPTY:
        raise ValueError(f"The convention for empty masks is {empty!r}, expected one of {', '.join(EMPTY)}.")
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(f"Masks are {tuple(prediction.shape)} and {tuple(target.shape)}, expected (B, C, ...) twice.")
    for mask in (prediction, target):
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError("A mask holds other values than 0 and 1, expected one after a threshold.")
    prediction, target = prediction.bool(), target.bool()
    ignore = empty == "leave_out_truth"
    dice, iou = (measure(prediction, target, ignore_empty=ignore).double() for measure in (compute_dice, compute_iou))
    if empty == "leave_out":
        neither = ~(prediction | target).flatten(2).any(dim=2)
        dice, iou = (values.masked_fill(neither, math.nan) for values in (dice, iou))
    return dice, iou


def mean_overlap(
    dice: np.ndarray,
    iou: np.ndarray,
    names: Sequence[str],
    empty: str,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> OverlapResult:
    """Means over cases, per disease and over diseases.

    Args:
        dice: (n, C) from `overlap`, NaN where left out.
        iou: (n, C).
        names: the C diseases.
        empty: the convention by which they were computed.
        draws: bootstrap resamples of the cases, 0 for none.
        level: coverage of the intervals.
        seed: of the resamples.
        groups: (n,) patient of every case.

    Raises:
        ValueError: if there is no case or the shapes differ.
    """
    dice, iou = np.asarray(dice, float), np.asarray(iou, float)
    if not dice.shape == iou.shape == (len(dice), len(names)) or not len(dice):
        raise ValueError(
            f"Dice is {dice.shape}, IoU {iou.shape}, names {len(names)}, expected (cases, diseases) twice."
        )
    defined = ~np.isnan(dice)
    ever = defined.any(axis=0)
    scores = {}
    for measure, values in (("dice", dice), ("iou", iou)):

        def means(cases: np.ndarray, values: np.ndarray = values) -> np.ndarray:
            with np.errstate(invalid="ignore"):  # 0 / 0 where no case is left
                each = np.nansum(values[cases], axis=0) / defined[cases].sum(axis=0)
            return np.append(each, each[ever].mean() if ever.any() else math.nan)

        scores[measure] = bootstrap_intervals(means, (*names, "macro"), len(values), draws, level, seed, groups)
    left_out = dict(zip(names, (len(dice) - defined.sum(axis=0)).tolist(), strict=True))
    undefined = {name: f"all {len(dice)} cases are left out" for name, has in zip(names, ever, strict=True) if not has}
    return OverlapResult(empty, len(dice), scores, left_out, undefined)


class OverlapScore(CumulativeMetric):
    """Collect Dice and IoU of every case, then average over all processes; see `MultilabelScore` for its use.

    Args:
        names: the C diseases, in the order of the channels.
        empty: one of `EMPTY`.
        metric: one key of `OverlapResult.summary`, e.g. "dice_macro", to be the only value of `aggregate`.
    """

    def __init__(self, names: Sequence[str], empty: str = "one", metric: str | None = None) -> None:
        super().__init__((len(names), len(names)), metric)
        self.names, self.empty = tuple(names), empty

    def update(self, prediction: Any, target: Any, cases: Any = None) -> None:
        """Add a batch of masks, (B, C, *spatial); `cases` as in `MultilabelScore.update`."""
        masks = (convert_to_tensor(mask, track_meta=False) for mask in (prediction, target))
        self.add(*overlap(*masks, self.empty), cases=cases)

    def compute(self, **options: Any) -> OverlapResult:
        """Average over all cases of all processes; `draws`, `level`, `seed` and `groups` as in `mean_overlap`."""
        return mean_overlap(*self.gather(), self.names, self.empty, **options)

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> None:
        """`update` under the name by which MONAI's handlers call a metric; lists of (C, *spatial) masks are stacked."""
        if isinstance(y_pred, (list, tuple)):
            for mask, truth in zip(y_pred, y, strict=True):  # volumes of one batch may differ in size
                self.update(mask[None], truth[None], **kwargs)
        else:
            self.update(y_pred, y, **kwargs)
