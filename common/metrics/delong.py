"""Variance of an AUROC and the paired test of two AUROCs on the same cases (DeLong), by midranks.

DeLong, DeLong and Clarke-Pearson, Biometrics 44:837 (1988), computed as Sun and Xu, IEEE Signal Processing Letters
21:1389 (2014) do: the placement values are differences of midranks, so the cost is that of sorting.

Cases of one patient are alike, so with `groups` the variance is that of Obuchowski, Biometrics 53:567 (1997): placement
values are summed within a patient, and patients are independent. With one case for each patient it is DeLong's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from common.metrics.resampling import group_numbers, json_value


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


def delong_test(
    labels: Sequence[float],
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> DeLongTest:
    """Test whether two systems have the same AUROC on the same cases, in the same order.

    Args:
        labels: (n,) of 0 and 1, two of each at least.
        scores_a: (n,) of the first system, finite.
        scores_b: (n,) of the second system.
        level: coverage of the interval of the difference.
        groups: (n,) patient of every case, two with a positive and two with a negative case at least; None takes the
            cases for independent.

    Raises:
        ValueError: for other labels, scores that are not finite, different lengths, or a level outside (0, 1).
    """
    area, covariance = _areas(labels, [scores_a, scores_b], groups)
    difference = float(area[0] - area[1])
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    # Covariances of equal placement values cancel but for rounding.
    if variance <= 1e-15 * float(covariance.max(initial=0)):
        variance = 0.0
    if difference == 0:
        z = 0.0
    else:
        z = difference / math.sqrt(variance) if variance else math.nan
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval is {level}, expected a number between 0 and 1.")
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    p = float(2 * norm.sf(abs(z)))
    return DeLongTest(float(area[0]), float(area[1]), difference, variance, difference - half, difference + half, z, p)


def delong_by_class(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    names: Sequence[str],
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> tuple[dict[str, DeLongTest], dict[str, str]]:
    """`delong_test` for every class, on the cases that have a label for it.

    Args:
        labels: (n, C) of 1, 0 and NaN where there is none.
        first: (n, C) scores of the first system.
        second: (n, C) scores of the second.
        names: the C classes.
        level: coverage of the intervals.
        groups: (n,) patient of every case, as in `delong_test`.

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
    group = group_numbers(len(labels), groups)
    tests, undefined = {}, {}
    for c, name in enumerate(names):
        kept = ~np.isnan(labels[:, c])
        few = _too_few(labels[kept, c] == 1, group[kept])
        if few:
            undefined[name] = few
        else:
            tests[name] = delong_test(labels[kept, c], first[kept, c], second[kept, c], level=level, groups=group[kept])
    return tests, undefined


def _areas(
    labels: Sequence[float], systems: Sequence[Sequence[float]], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Areas (systems,) and their covariance (systems, systems)."""
    label = np.asarray(labels, float)
    scores = [np.asarray(system, float) for system in systems]
    if label.ndim != 1 or any(score.shape != label.shape for score in scores):
        shapes = ", ".join(str(array.shape) for array in (label, *scores))
        raise ValueError(f"Labels and scores have the shapes {shapes}, expected one value for each case.")
    if not np.isin(label, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError("A label is neither 0 nor 1 or a score is not finite, expected labelled cases only.")
    positive, group = label == 1, group_numbers(len(label), groups)
    few = _too_few(positive, group)
    if few:
        raise ValueError(f"There are {few}.")
    m, n = int(positive.sum()), int((~positive).sum())
    # The share of negatives that a positive outranks (a tie counts half), and of positives that outrank a negative.
    of_positives, of_negatives = np.empty((len(scores), m)), np.empty((len(scores), n))
    for row, score in enumerate(scores):
        rank = rankdata(score)
        of_positives[row] = (rank[positive] - rankdata(score[positive])) / n
        of_negatives[row] = 1 - (rank[~positive] - rankdata(score[~positive])) / m
    area = of_positives.mean(axis=1)
    # Of every patient the sum of its placement values less the area; 0 of one without such a case.
    by_positives = _sums_by_group(of_positives - area[:, None], group[positive], group.max() + 1) / m
    by_negatives = _sums_by_group(of_negatives - area[:, None], group[~positive], group.max() + 1) / n
    both = _unbiased(len(np.unique(group))) * by_positives @ by_negatives.T
    covariance = _unbiased(len(np.unique(group[positive]))) * by_positives @ by_positives.T
    covariance += _unbiased(len(np.unique(group[~positive]))) * by_negatives @ by_negatives.T
    return area, covariance + both + both.T


def _too_few(positive: np.ndarray, group: np.ndarray) -> str:
    """Why there is no variance; nothing if there is one."""
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        return f"{m} positive and {n} negative cases, expected 2 of each at least"
    m, n = len(np.unique(group[positive])), len(np.unique(group[~positive]))
    if min(m, n) < 2:
        return f"{m} patients with a positive and {n} with a negative case, expected 2 of each at least"
    return ""


def _sums_by_group(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(systems, groups) sums of the values (systems, cases) of every group."""
    return np.stack([np.bincount(group, row, groups) for row in values])


def _unbiased(groups: int) -> float:
    return groups / (groups - 1)
