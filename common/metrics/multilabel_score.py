"""`multilabel` over batches and processes, for a training loop or a MONAI handler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.metrics.cumulative import CumulativeMetric
from common.metrics.multilabel import MultilabelResult, multilabel_scores


class MultilabelScore(CumulativeMetric):
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
        super().__init__((len(names), len(names)), metric)
        self.names, self.thresholds = tuple(names), thresholds

    def update(self, probabilities: Any, labels: Any, cases: Any = None) -> None:
        """Add a batch.

        Args:
            probabilities: (B, C) within [0, 1], not logits.
            labels: (B, C) of 1, 0 and NaN where a case has no label.
            cases: (B,) index of every case in the data set, so that one dealt to two processes counts once.

        Raises:
            ValueError: if shapes differ.
        """
        self.add(probabilities, labels, cases=cases)

    def compute(self, **options: Any) -> MultilabelResult:
        """Score all cases of all processes; options are `draws`, `level`, `seed` and `groups` of `multilabel_scores`.

        Raises:
            ValueError: if there is no case, or as in `multilabel_scores`.
        """
        return multilabel_scores(*self.gather(), self.names, thresholds=self.thresholds, **options)

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> None:
        """`update` under the name by which MONAI's handlers call a metric; lists of (C,) rows are stacked."""
        stacked = (torch.stack(list(rows)) if isinstance(rows, (list, tuple)) else rows for rows in (y_pred, y))
        self.update(*stacked, **kwargs)
