"""Curves of multi-label classification, a class at a time: ROC, precision over recall, calibration.

Labels are 1, 0, or NaN where a case has none for a class, as in `common.metrics.multilabel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from common.metrics.resampling import resampled_cases

__all__ = ["ClassCurve", "calibration_curves", "pr_curves", "reliability", "roc_band", "roc_curves", "wilson_interval"]

_NOTHING = np.empty(0)
Band = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places on the x axis, lower and upper ends there."""


@dataclass(frozen=True)
class ClassCurve:
    """The curve of one class; without points where the class has one kind of case only.

    Attributes:
        positives: cases with the class.
        negatives: cases known to be without it.
        x: (k,) places, 0 to 1.
        y: (k,) values there, 0 to 1.
        area: area under the curve, or average precision; NaN where there is none.
        band: interval around the curve, None if none was asked for.
    """

    positives: int
    negatives: int
    x: np.ndarray = field(default_factory=lambda: _NOTHING)
    y: np.ndarray = field(default_factory=lambda: _NOTHING)
    area: float = math.nan
    band: Band | None = None


def roc_curves(
    probabilities: np.ndarray,
    labels: np.ndarray,
    draws: int = 0,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> list[ClassCurve]:
    """Sensitivity over the false positive rate, with AUROC.

    Args:
        probabilities: (n, C).
        labels: (n, C) of 1, 0 and NaN.
        draws: resamples of a bootstrap band of the sensitivity, see `roc_band`; 0 for none.
        level: its coverage at each false positive rate.
        seed: of the resamples.
        groups: (n,) patient of every case; whole patients are drawn.

    Returns:
        A curve for each of the C classes.
    """

    def curve(p: np.ndarray, y: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, Band | None]:
        fpr, tpr, _ = roc_curve(y[known], p[known])
        band = roc_band(p, y, draws, level, seed, groups) if draws else None
        return fpr, tpr, float(roc_auc_score(y[known], p[known])), band

    return _per_class(curve, probabilities, labels)


def pr_curves(probabilities: np.ndarray, labels: np.ndarray) -> list[ClassCurve]:
    """Precision over recall, with average precision.

    Args:
        probabilities: (n, C).
        labels: (n, C) of 1, 0 and NaN.

    Returns:
        A curve for each of the C classes, recall falling; between two recalls the precision is that of the lower one.
    """

    def curve(p: np.ndarray, y: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, Band | None]:
        precision, recall, _ = precision_recall_curve(y[known], p[known])
        return recall, precision, float(average_precision_score(y[known], p[known])), None

    return _per_class(curve, probabilities, labels)


def calibration_curves(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> list[ClassCurve]:
    """Observed share of positives over the predicted probability, with Wilson's 95 % interval of the share as band.

    Args:
        probabilities: (n, C).
        labels: (n, C) of 1, 0 and NaN.
        bins: see `reliability`.

    Returns:
        A curve for each of the C classes.
    """

    def curve(p: np.ndarray, y: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, Band | None]:
        mean, share, n = reliability(p, y, bins)
        return mean, share, math.nan, (mean, *wilson_interval(share, n))

    return _per_class(curve, probabilities, labels)


def roc_band(
    probabilities: np.ndarray,
    labels: np.ndarray,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Band:
    """Pointwise bootstrap band of the sensitivity at fixed false positive rates.

    Args:
        probabilities: (n,) of one class.
        labels: (n,) of 1, 0 and NaN, some of each kind.
        draws: resamples; those without a positive or a negative case are left out.
        level: coverage at each point.
        seed: of the resamples.
        groups: (n,) patient of every case.

    Returns:
        (101,) false positive rates, lower and upper ends of the sensitivity.

    Raises:
        ValueError: if no resample has both kinds of cases.
    """
    kept = np.flatnonzero(~np.isnan(labels))
    order = kept[np.argsort(-probabilities[kept], kind="stable")]
    score, positive = probabilities[order], labels[order] == 1
    last = np.append(np.diff(score) != 0, True)  # cells of equal score enter a curve together
    grid, curves = np.linspace(0, 1, 101), []
    for cases in resampled_cases(len(labels), draws, seed, groups):
        weights = np.bincount(cases, minlength=len(labels))[order]
        tp, fp = np.cumsum(weights * positive)[last], np.cumsum(weights * ~positive)[last]
        if tp[-1] and fp[-1]:
            # Of equal rates the highest sensitivity counts, as on the upper left of the steps.
            end = np.append(np.diff(fp) != 0, True)
            start = np.append(True, np.diff(fp) != 0)
            x = np.concatenate([[0], np.stack([fp[start], fp[end]], axis=1).ravel()]) / fp[-1]
            y = np.concatenate([[0], np.stack([tp[start], tp[end]], axis=1).ravel()]) / tp[-1]
            curves.append(np.interp(grid, x, y))
    if not curves:
        raise ValueError(f"None of {draws} resamples has positive and negative cases, expected more of either.")
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return grid, low, high


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of cases in bins that hold about equally many cases.

    Args:
        probabilities: (n,) of one class.
        labels: (n,) of 1, 0 and NaN, which is left out.
        bins: how many at most; cases of equal probability share one.

    Returns:
        Three arrays, an entry for each bin that holds a case.
    """
    kept = ~np.isnan(labels)
    probabilities, labels = probabilities[kept], labels[kept]
    inner = np.percentile(probabilities, np.linspace(0, 100, bins + 1)[1:-1])
    index = np.searchsorted(inner, probabilities)
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, of, minlength=bins) for of in (probabilities, labels)]
    used = counts > 0
    return sums[0][used] / counts[used], sums[1][used] / counts[used], counts[used]


def wilson_interval(share: np.ndarray, n: np.ndarray, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share of n cases (Wilson, JASA 22:209, 1927).

    Args:
        share: 0 to 1, of any shape.
        n: cases, 1 or more, of that shape.
        z: quantile of the normal distribution; that of 95 % by default.

    Returns:
        Lower and upper ends, of that shape.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def _per_class(curve: Callable, probabilities: np.ndarray, labels: np.ndarray) -> list[ClassCurve]:
    found = []
    for p, y in zip(probabilities.T, labels.T, strict=True):
        positives, negatives = int((y == 1).sum()), int((y == 0).sum())
        points = curve(p, y, ~np.isnan(y)) if positives and negatives else ()
        found.append(ClassCurve(positives, negatives, *points))
    return found
