"""`multilabel` over batches and processes, for a training loop or a MONAI handler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import convert_to_tensor

from common.metrics.cumulative import GatheredMetric
from common.metrics.multilabel import MultilabelResult, multilabel_scores


class MultilabelScore(GatheredMetric):
    """Collect probabilities and labels, then score all cases of all processes together.

    In a loop: `update` for every batch, then `compute` for everything with intervals, or `aggregate` for plain numbers.
    As a MONAI handler: ``IgniteMetricHandler(MultilabelScore(names), output_transform=...)`` with an output of
    (probabilities, labels); `engine.state.metrics` then holds `auroc_macro`, `f1@0.5_micro`, `auroc_<class>` and so on,
    or one number under the handler's name if `metric` is given.

    Args:
        names: the C classes.
        metric: one key of `MultilabelResult.summary`, e.g. "auroc_macro", to be the only value of `aggregate`.
        thresholds: class -> threshold chosen on other cases.
    """

    def __init__(
        self, names: Sequence[str], metric: str | None = None, thresholds: Mapping[str, float] | None = None
    ) -> None:
        super().__init__((len(names), len(names)))
        self.names, self.metric, self.thresholds = tuple(names), metric, thresholds

    def update(self, probabilities: Any, labels: Any, mask: Any = None, cases: Any = None) -> None:
        """Add a batch.

        Args:
            probabilities: (B, C) within [0, 1], not logits.
            labels: (B, C) of 1, 0 and NaN where a case has no label.
            mask: (B, C), true where the label counts, for labels that cannot hold NaN.
            cases: (B,) index of every case in the data set, so that one dealt to two processes counts once.

        Raises:
            ValueError: if shapes differ.
        """
        labels = convert_to_tensor(labels, track_meta=False).double()
        if mask is not None:
            mask = convert_to_tensor(mask, track_meta=False).bool()
            if mask.shape != labels.shape:
                raise ValueError(f"The mask is {tuple(mask.shape)}, expected {tuple(labels.shape)} as the labels.")
            labels = labels.masked_fill(~mask.to(labels.device), math.nan)
        self.add(probabilities, labels, cases=cases)

    def compute(
        self, draws: int = 1000, level: float = 0.95, seed: int = 0, groups: Sequence[Any] | None = None
    ) -> MultilabelResult:
        """Score all cases of all processes; arguments as in `multilabel_scores`.

        Raises:
            ValueError: if there is no case, or as in `multilabel_scores`.
        """
        probabilities, labels = self.gather()
        options = {"draws": draws, "level": level, "seed": seed, "groups": groups}
        return multilabel_scores(probabilities, labels, self.names, thresholds=self.thresholds, **options)

    def aggregate(self) -> dict[str, float] | float:
        """Plain numbers for a handler, undefined ones absent; with `metric` that number, NaN if it is undefined."""
        summary = self.compute(draws=0).summary()
        return summary if self.metric is None else summary.get(self.metric, math.nan)

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> None:
        """`update` under the name by which MONAI's handlers call a metric; lists of (C,) rows are stacked."""
        stacked = (torch.stack(list(rows)) if isinstance(rows, (list, tuple)) else rows for rows in (y_pred, y))
        self.update(*stacked, **kwargs)
