"""Score the logits of an evaluator over all cases: the figures of a multi-label classifier, one run at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.utils import CommonKeys

from common.metrics.curves import calibration_curves, roc_curves
from common.metrics.multilabel import multilabel_scores
from common.metrics.multilabel_score import MultilabelScore
from common.visualize.classification import calibration_figure, roc_figure

__all__ = ["ClassificationQuality", "rare_labels"]

_POOLED = {
    "pooled_auroc": ("auroc", "micro"),
    "mean_auroc": ("auroc", "macro"),
    "mean_auprc": ("auprc", "macro"),
    "macro_f1": ("f1@0.5", "macro"),
    "micro_f1": ("f1@0.5", "micro"),
    "ece": ("ece", "macro"),
    "brier": ("brier", "macro"),
}


class ClassificationQuality:
    """A metric of a `SupervisedEvaluator` whose output is logits and labels (`decollate=False`).

    To `engine.state.metrics` go `mean_auroc` (over labels), `pooled_auroc` (all labels' cells together), `min_auroc`,
    `rare_auroc` (mean over the rarest third of the labels), `mean_auprc`, `macro_f1` and `micro_f1` at 0.5, `ece`,
    `brier`, `loss` if one is given, and `auroc/LABEL`. A label of one class only has no AUROC and is in no mean; a
    figure that is undefined is absent.

    Args:
        labels: the C names.
        loss: of the training, computed on all cases together.
        stage: name of the training, in the error.
        advice: the override of its learning rate, in the error.

    Raises:
        FloatingPointError: while it runs, if a logit is not finite: the training has diverged.
    """

    def __init__(
        self,
        labels: Sequence[str],
        loss: torch.nn.Module | None = None,
        stage: str = "validation",
        advice: str = "--learning_rate",
    ) -> None:
        self.labels, self.loss, self.stage, self.advice = tuple(labels), loss, stage, advice
        self._score = MultilabelScore(self.labels)
        self._logits: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def pictures(self) -> dict[str, tuple[Figure, str]]:
        """ROC and calibration of the last validation with their captions, for `watch_training`; {} before the first."""
        if self._found is None:
            return {}
        probabilities, targets = self._found
        cases = f"{len(targets)} validation cases, as the training ended"
        roc = roc_figure({"validation": roc_curves(probabilities, targets)}, self.labels)
        calibration = calibration_figure({"validation": calibration_curves(probabilities, targets)}, self.labels)
        return {
            "validation/roc": (roc, f"ROC curves of {cases}; in brackets the positive ones, the number is the AUROC."),
            "validation/calibration": (
                calibration,
                f"Calibration on {cases}: observed share of positives in ten bins of equally many cases, with Wilson's "
                "95 % interval.",
            ),
        }

    def attach(self, engine: Engine, name: str = "mean_auroc") -> None:
        """Register on an evaluator; MONAI calls this with the key of `key_val_metric`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self._score.reset()
        self._logits, self._targets = [], []

    def _iteration_completed(self, engine: Engine) -> None:
        logits, target = (
            engine.state.output[key].detach().float().cpu() for key in (CommonKeys.PRED, CommonKeys.LABEL)
        )
        if not logits.isfinite().all():
            row, label = (~logits.isfinite()).nonzero()[0].tolist()
            raise FloatingPointError(
                f"{self.stage}: in the validation of epoch {engine.state.epoch} the network says "
                f"{float(logits[row, label])} for {self.labels[label]!r}, expected a finite number; lower the learning "
                f"rate ({self.advice})"
            )
        self._score.update(logits.sigmoid(), target, cases=engine.state.batch["index"])
        self._logits.append(logits)
        self._targets.append(target)

    def _completed(self, engine: Engine) -> None:
        probabilities, targets = self._found = self._score.gather()
        figures = classification_figures(probabilities, targets, self.labels)
        if self.loss is not None:
            with torch.no_grad():
                figures["loss"] = float(self.loss(torch.cat(self._logits), torch.cat(self._targets)))
        engine.state.metrics |= figures


def classification_figures(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The figures of `ClassificationQuality` but the loss.

    Args:
        probabilities: (n, C).
        targets: (n, C) of 1, 0 and NaN.
        labels: C names.
    """
    scores = multilabel_scores(probabilities, targets, labels, draws=0).scores
    figures = {name: getattr(scores[metric], kind).value for name, (metric, kind) in _POOLED.items()}
    each = {label: interval.value for label, interval in scores["auroc"].per_class.items()}
    known = [value for value in each.values() if not math.isnan(value)]
    rare = [each[label] for label in rare_labels(targets, labels) if not math.isnan(each.get(label, math.nan))]
    figures["min_auroc"] = min(known, default=math.nan)
    figures["rare_auroc"] = sum(rare) / len(rare) if rare else math.nan
    figures |= {f"auroc/{label}": value for label, value in each.items()}
    return {name: float(value) for name, value in figures.items() if not math.isnan(value)}


def rare_labels(targets: np.ndarray, labels: Sequence[str]) -> list[str]:
    """The third of the labels, at least one, that have the fewest positives but some.

    Args:
        targets: (n, C) of 1, 0 and NaN.
        labels: C names.
    """
    positives = np.nansum(targets == 1, axis=0)
    order = [int(k) for k in np.argsort(positives, kind="stable") if positives[k] > 0]
    return [labels[k] for k in order[: max(1, len(labels) // 3)]]
