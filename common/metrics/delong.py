"""Variance of an AUROC and the paired test of two AUROCs on the same cases (DeLong), by midranks.

DeLong, DeLong and Clarke-Pearson, Biometrics 44:837 (1988), computed as Sun and Xu, IEEE Signal Processing Letters
21:1389 (2014) do: the placement values are differences of midranks, so the cost is that of sorting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from common.metrics.resampling import json_value


@dataclass(frozen=True)
class DeLongInterval:
    """An AUROC with its variance and interval.

    Attributes:
        auroc: area under the ROC curve.
        variance: of the area.
        low: lower end of the normal interval, not below 0.
        high: upper end, not above 1.
    """

    auroc: float
    variance: float
    low: float
    high: float


@dataclass(frozen=True)
class DeLongTest:
    """Two AUROCs on the same cases.

    Attributes:
        auroc_a: of the first system.
        auroc_b: of the second.
        difference: first minus second.
        variance: of the difference, its covariance taken into account.
        low: lower end of the normal interval of the difference.
        high: upper end.
        z: difference over its standard deviation; 0 for equal areas, NaN where the variance is 0 and the areas differ.
        p: two-sided; NaN where z is.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    variance: float
    low: float
    high: float
    z: float
    p: float

    def to_dict(self) -> dict[str, object]:
        """For JSON: None instead of NaN, with a `reason`."""
        values: dict[str, object] = {name: json_value(value) for name, value in vars(self).items()}
        if math.isnan(self.p):
            values["reason"] = "the variance of the difference is 0: both rank so cleanly that the test has no scale"
        return values


def delong_interval(labels: Sequence[float], scores: Sequence[float], level: float = 0.95) -> DeLongInterval:
    """AUROC with DeLong's variance and normal interval.

    Args:
        labels: (n,) of 0 and 1, two of each at least.
        scores: (n,) finite; higher means positive.
        level: coverage of the interval.

    Raises:
        ValueError: for other labels, scores that are not finite, different lengths, or a level outside (0, 1).
    """
    area, covariance = _areas(labels, [scores])
    variance = float(covariance[0, 0])
    half = _z(level) * math.sqrt(variance)
    return DeLongInterval(float(area[0]), variance, max(0.0, area[0] - half), min(1.0, area[0] + half))


def delong_test(
    labels: Sequence[float],
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    labels_b: Sequence[float] | None = None,
    level: float = 0.95,
) -> DeLongTest:
    """Test whether two systems have the same AUROC on the same cases, in the same order.

    Args:
        labels: (n,) of 0 and 1, two of each at least.
        scores_a: (n,) of the first system, finite.
        scores_b: (n,) of the second system.
        labels_b: the labels that came with the second system's scores, if it brought its own: they must be `labels`,
            or the cases are not the same.
        level: coverage of the interval of the difference.

    Raises:
        ValueError: if lengths or labels differ, or as in `delong_interval`.
    """
    if labels_b is not None and not np.array_equal(np.asarray(labels), np.asarray(labels_b)):
        raise ValueError("The two systems come with different labels, expected scores of the same cases in one order.")
    area, covariance = _areas(labels, [scores_a, scores_b])
    difference = float(area[0] - area[1])
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    # Covariances of equal placement values cancel but for rounding.
    if variance <= 1e-15 * float(covariance.max(initial=0)):
        variance = 0.0
    if difference == 0:
        z = 0.0
    else:
        z = difference / math.sqrt(variance) if variance else math.nan
    half = _z(level) * math.sqrt(variance)
    p = float(2 * norm.sf(abs(z)))
    return DeLongTest(float(area[0]), float(area[1]), difference, variance, difference - half, difference + half, z, p)


def delong_by_class(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, names: Sequence[str], level: float = 0.95
) -> tuple[dict[str, DeLongTest], dict[str, str]]:
    """`delong_test` for every class, on the cases that have a label for it.

    Args:
        labels: (n, C) of 1, 0 and NaN where there is none.
        first: (n, C) scores of the first system.
        second: (n, C) scores of the second.
        names: the C classes.
        level: coverage of the intervals.

    Returns:
        class -> test, and class -> why there is none.

    Raises:
        ValueError: if shapes differ, or as in `delong_test`.
    """
    labels, first, second = (np.asarray(array, float) for array in (labels, first, second))
    if not labels.shape == first.shape == second.shape == (len(labels), len(names)):
        raise ValueError(
            f"Labels are {labels.shape}, scores {first.shape} and {second.shape}, names {len(names)}, "
            "expected (cases, classes) three times and a name for each class."
        )
    tests, undefined = {}, {}
    for c, name in enumerate(names):
        kept = ~np.isnan(labels[:, c])
        positives = int((labels[kept, c] == 1).sum())
        if min(positives, int(kept.sum()) - positives) < 2:
            undefined[name] = (
                f"{positives} positive and {kept.sum() - positives} negative cases, expected 2 of each at least"
            )
        else:
            tests[name] = delong_test(labels[kept, c], first[kept, c], second[kept, c], level=level)
    return tests, undefined


def _areas(labels: Sequence[float], systems: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Areas (systems,) and their covariance (systems, systems)."""
    label = np.asarray(labels, float)
    scores = [np.asarray(system, float) for system in systems]
    if label.ndim != 1 or any(score.shape != label.shape for score in scores):
        shapes = ", ".join(str(array.shape) for array in (label, *scores))
        raise ValueError(f"Labels and scores have the shapes {shapes}, expected one value for each case.")
    if not np.isin(label, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError("A label is neither 0 nor 1 or a score is not finite, expected labelled cases only.")
    positive = label == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise ValueError(f"There are {m} positive and {n} negative cases, expected 2 of each at least.")
    # The share of negatives that a positive outranks (a tie counts half), and of positives that outrank a negative.
    of_positives, of_negatives = np.empty((len(scores), m)), np.empty((len(scores), n))
    for row, score in enumerate(scores):
        rank = rankdata(score)
        of_positives[row] = (rank[positive] - rankdata(score[positive])) / n
        of_negatives[row] = 1 - (rank[~positive] - rankdata(score[~positive])) / m
    covariance = np.atleast_2d(np.cov(of_positives)) / m + np.atleast_2d(np.cov(of_negatives)) / n
    return of_positives.mean(axis=1), covariance


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval is {level}, expected a number between 0 and 1.")
    return float(norm.ppf((1 + level) / 2))
