"""Corpus metrics that depend on sums over reports: their value, bootstrap interval and paired test from one array.

Corpus BLEU is no mean of sentence scores, nor is micro-F1 a mean of anything; but both are functions of counts that add
up over the reports. Keeping those counts per report makes a resample one product of weights and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from common.metrics.resampling import Interval, paired_randomisation_test, percentile_interval, resampled_cases

_CHUNK = 1 << 22
"""Weights held at once while bootstrapping: 32 MB, however many reports there are."""


@dataclass(frozen=True)
class CorpusMetric:
    """One or several metrics that are a function of column sums.

    Attributes:
        names: of the metrics, e.g. `bleu_1` to `bleu_4`.
        columns: (reports, k) float64, what a report adds to the sums.
        score: sums (..., k) -> metrics (..., len(names)); NaN where a metric is undefined.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        if not len(self.columns):
            raise ValueError(f"There is no report to compute {', '.join(self.names)} of, expected at least one.")

    def __len__(self) -> int:
        """Number of reports."""
        return len(self.columns)

    def value(self) -> dict[str, float]:
        """Each metric over all reports; NaN where it is undefined."""
        return dict(zip(self.names, self.score(self.columns.sum(axis=0)).tolist(), strict=True))

    def per_report(self) -> np.ndarray:
        """(reports, names): the metric of a corpus of that report alone; NaN where it is undefined."""
        return self.score(self.columns)

    def intervals(
        self, draws: int = 1000, level: float = 0.95, seed: int = 0, groups: Sequence[Hashable] | None = None
    ) -> dict[str, Interval]:
        """Bootstrap percentile interval of each metric; arguments as in `resampling.bootstrap_intervals`."""
        n, weights, drawn = len(self), [], []
        for cases in resampled_cases(n, draws, seed, groups):
            weights.append(np.bincount(cases, minlength=n))
            if len(weights) * n >= _CHUNK:
                drawn.append(np.asarray(weights, float) @ self.columns)
                weights.clear()
        drawn += [np.asarray(weights, float) @ self.columns] if weights else []
        resamples = self.score(np.concatenate(drawn))
        value = self.value()
        return {
            name: percentile_interval(value[name], resamples[:, index], level) for index, name in enumerate(self.names)
        }

    def p_values(
        self, other: CorpusMetric, draws: int = 1000, seed: int = 0, groups: Sequence[Hashable] | None = None
    ) -> dict[str, float]:
        """Two-sided p of each metric's difference to another system on the same reports, in the same order.

        Whole reports are swapped between the systems (`resampling.paired_randomisation_test`), so the corpus metric is
        recomputed from its counts in every draw. NaN where the metric is undefined for one of the two.

        Raises:
            ValueError: if the two do not measure the same metrics on equally many reports.
        """
        if self.names != other.names or self.columns.shape != other.columns.shape:
            raise ValueError(
                f"Two systems are compared on {len(self)} and {len(other)} reports by {', '.join(self.names)} and "
                f"{', '.join(other.names)}, expected the same metrics of the same reports."
            )
        sums, others = self.columns.sum(axis=0), other.columns.sum(axis=0)
        change = other.columns - self.columns
        result = {}
        for index, name in enumerate(self.names):

            def difference(swapped: np.ndarray, index: int = index) -> float:
                moved = swapped @ change
                scores = self.score(np.stack([sums + moved, others - moved]))[:, index]
                return float(scores[0] - scores[1])

            defined = not np.isnan(difference(np.zeros(len(self), dtype=bool)))
            result[name] = (
                paired_randomisation_test(difference, len(self), draws, seed, groups) if defined else float("nan")
            )
        return result


def mean_metric(names: Sequence[str], values: np.ndarray) -> CorpusMetric:
    """Metrics that are means over the reports.

    Args:
        names: of the metrics.
        values: (reports, names); NaN where a report has no value, which leaves it out of that mean.
    """
    values = np.asarray(values, float).reshape(-1, len(names))
    undefined = np.isnan(values)

    def score(sums: np.ndarray) -> np.ndarray:
        return divide(sums[..., : len(names)], sums[..., len(names) :])

    return CorpusMetric(tuple(names), np.hstack([np.where(undefined, 0.0, values), ~undefined]), score)


def divide(a: np.ndarray, b: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    """`a / b` element by element, `undefined` where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    return np.divide(a, b, out=np.full(a.shape, float(undefined)), where=b != 0)
