"""How far a metric would move on other cases (bootstrap), and whether two systems differ (paired randomisation)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_TIE = 1e-9
"""Two sums of the same numbers in another order differ by rounding; a difference within this share is a tie."""


@dataclass(frozen=True)
class Interval:
    """A metric on the cases at hand and its bootstrap percentile interval.

    Attributes:
        value: the metric on all cases; NaN where it is undefined.
        low: lower end; NaN where `value` is undefined or fewer than two draws were defined.
        high: upper end, likewise.
        level: share of the draws between the ends, e.g. 0.95.
        draws: how many resamples were drawn; 0 if no interval was asked for.
        undefined: how many of them had no value and were left out.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    draws: int = 1000
    undefined: int = 0

    def to_dict(self) -> dict[str, object]:
        """For JSON: None instead of NaN, with a `reason`; `undefined_draws` says how many resamples were left out."""
        result: dict[str, object] = {"value": json_value(self.value)}
        if self.draws:
            ends = {"low": json_value(self.low), "high": json_value(self.high), "level": self.level}
            result |= {**ends, "draws": self.draws, "undefined_draws": self.undefined}
        if math.isnan(self.value):
            result["reason"] = "the metric is undefined on these cases"
        elif self.draws and math.isnan(self.low):
            result["reason"] = "the metric is undefined on all but at most one resample"
        return result


def json_value(value: float | np.ndarray) -> object:
    """A number or array as JSON can hold it: nested lists of floats, None for what is not finite."""
    if np.ndim(value) == 0:
        return float(value) if math.isfinite(value) else None
    return [json_value(item) for item in np.asarray(value)]


def percentile_interval(value: float, drawn: np.ndarray, level: float = 0.95) -> Interval:
    """The interval from the values of the resamples, for a metric that is computed for all of them at once.

    Args:
        value: the metric on all cases.
        drawn: (draws,), NaN where a resample has no value.
        level: coverage between 0 and 1.

    Raises:
        ValueError: if level is not within (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval is {level}, expected a number between 0 and 1.")
    defined = drawn[~np.isnan(drawn)]
    ends = [math.nan, math.nan]
    if len(defined) >= 2 and not math.isnan(value):
        ends = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(float(value), *ends, level, len(drawn), len(drawn) - len(defined))


def bootstrap_intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
    n: int,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of several metrics under resampling of the cases with replacement.

    Args:
        statistic: indices of the drawn cases, (n,) integers or another length with `groups` -> (len(names),) metrics on
            them, NaN where one is undefined.
        names: of the metrics.
        n: number of cases.
        draws: number of resamples, 0 for the values alone.
        level: coverage between 0 and 1.
        seed: equal seeds draw equal cases, whatever the statistic, so that metrics of several calls are comparable.
        groups: (n,) group of every case, e.g. its patient. Whole groups are drawn, since cases of a patient are alike.

    Returns:
        name -> the value on all cases and the interval. Resamples without a value are left out and counted.

    Raises:
        ValueError: if n is below 1, level is not within (0, 1), or `groups` has not n members.
    """
    value = statistic(np.arange(n))
    drawn = [statistic(cases) for cases in (resampled_cases(n, draws, seed, groups) if draws else ())]
    columns = np.reshape(drawn, (len(drawn), len(names)))
    return {name: percentile_interval(value[i], columns[:, i], level) for i, name in enumerate(names)}


def resampled_cases(
    n: int, draws: int, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Iterator[np.ndarray]:
    """Yield the indices of the drawn cases of every resample; arguments as in `bootstrap_intervals`.

    ``np.bincount(cases, minlength=n)`` are the weights by which a weighted metric gives the value of the resample.
    """
    if n < 1 or draws < 1:
        raise ValueError(
            f"A bootstrap of {n} cases with {draws} draws has nothing to draw, expected at least 1 of each."
        )
    number = group_numbers(n, groups)
    rng = np.random.default_rng(seed)
    if groups is None:
        return (rng.integers(0, n, n) for _ in range(draws))
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    drawn = (rng.integers(0, len(members), len(members)) for _ in range(draws))
    return (np.concatenate([members[group] for group in chosen]) for chosen in drawn)


def paired_randomisation_test(
    difference: Callable[[np.ndarray], float],
    n: int,
    draws: int = 1000,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> float:
    """Two-sided p-value of the difference of a corpus metric between two systems on the same cases.

    Under the hypothesis that the systems are alike, swapping their outputs on any case changes nothing; every draw
    swaps each case with probability 1/2. p = (k + 1) / (draws + 1), k the draws whose absolute difference is at least
    the observed one, never 0 (Davison and Hinkley, Bootstrap Methods, 1997, section 4.2).

    Args:
        difference: (n,) bool, True where the two systems' outputs are swapped -> metric of A minus metric of B. A draw
            without a value (NaN) counts as at least as large, which can only raise p.
        n: number of cases.
        draws: number of random swaps.
        seed: of the swaps.
        groups: (n,) group of every case, e.g. its patient; the cases of a group are swapped together.

    Returns:
        p within [1 / (draws + 1), 1]. Systems with equal outputs have p = 1.

    Raises:
        ValueError: if n or draws is below 1, `groups` has not n members, or the observed difference is NaN.
    """
    if n < 1 or draws < 1:
        raise ValueError(f"A test of {n} cases with {draws} draws has nothing to swap, expected at least 1 of each.")
    observed = abs(float(difference(np.zeros(n, dtype=bool))))
    if math.isnan(observed):
        raise ValueError("The observed difference of the two systems is undefined, expected a metric with a value.")
    number = group_numbers(n, groups)
    rng = np.random.default_rng(seed)
    as_large = 0
    for _ in range(draws):
        drawn = abs(float(difference((rng.random(number.max() + 1) < 0.5)[number])))
        as_large += not drawn < observed * (1 - _TIE) - _TIE
    return (as_large + 1) / (draws + 1)


def group_numbers(n: int, groups: Sequence[Hashable] | None) -> np.ndarray:
    """(n,) number of the group of every case, from 0 in the order in which they first occur; by itself without groups.

    Raises:
        ValueError: if `groups` has not n members.
    """
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"The groups have {len(groups)} members, expected one for each of the {n} cases.")
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(group, len(number)) for group in groups], np.intp)
