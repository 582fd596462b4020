"""Every label metric for many weightings of the same cases at once: what makes 1,000 bootstrap draws take seconds.

A resample of the cases is a weight for each of them, how often it was drawn. Scores are sorted once, not once per draw;
everything else is a sum over cases. Rows of all results are the classes in order, then "micro": all labelled cells of
all classes pooled into one column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score, roc_auc_score

_TP, _FP, _FN, _TN = range(4)


class LabelCells:
    """Probabilities and labels of the labelled cells (case x class), prepared for weighting the cases.

    Attributes:
        names: the C classes.
        cases: number of cases, labelled or not.
        support: (C + 1, 2) numbers of negative and positive cells.
        thresholds: as given.

    Args:
        probabilities: (n, C) within [0, 1] wherever there is a label.
        labels: (n, C) of 0 and 1, NaN where there is none.
        names: the C classes.
        thresholds: operating point -> class -> threshold; a cell is predicted positive if its probability is at least
            that. A class without one has no rates at that operating point.
        bins: of the calibration error.

    Raises:
        ValueError: if shapes differ, a name occurs twice, a label is neither 0, 1 nor NaN, or a labelled cell has no
            probability within [0, 1].
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        thresholds: Mapping[str, Mapping[str, float]],
        bins: int = 15,
    ) -> None:
        probabilities, labels = np.asarray(probabilities, float), np.asarray(labels, float)
        _check(probabilities, labels, names)
        self.names, self.cases = tuple(names), len(labels)
        self.case, self.group = np.nonzero(~np.isnan(labels))
        self.score, self.label = probabilities[self.case, self.group], labels[self.case, self.group]
        n_classes = len(self.names)
        by_class = [self.group == c for c in range(n_classes)]
        self._columns = [*by_class, np.ones(len(self.case), dtype=bool)]
        self.support = np.array([[(self.label[rows] == side).sum() for side in (0, 1)] for rows in self._columns])
        self._rankings = [
            _Ranking(self.score[rows], self.label[rows] == 1, self.case[rows], self.cases) for rows in self._columns
        ]

        self._labelled = self._summing(self.group, np.ones(len(self.case)), n_classes)
        self._squared = self._summing(self.group, (self.score - self.label) ** 2, n_classes)
        self._gaps = {
            "ece": self._binned(bins, equal_mass=False),
            "ece_equal_mass": self._binned(bins, equal_mass=True),
        }
        self._bins = bins
        self.thresholds = {point: dict(chosen) for point, chosen in thresholds.items()}
        self._confusions = {point: self._confusion(chosen) for point, chosen in thresholds.items()}

    def values(self) -> dict[str, np.ndarray]:
        """Each metric with every case counted once: metric -> (C + 1,), NaN where undefined; areas by scikit-learn."""
        values = {name: rows[:, 0] for name, rows in self.weighted(np.ones((self.cases, 1))).items()}
        for name, measure in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            for row, cells in enumerate(self._columns):
                if self.support[row].all():
                    values[name][row] = measure(self.label[cells], self.score[cells])
        return values

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric under every weighting.

        Args:
            weights: (n, draws) >= 0.

        Returns:
            metric -> (C + 1, draws), NaN where undefined.
        """
        areas = np.stack([ranking.areas(weights) for ranking in self._rankings])
        labelled = _and_pooled(self._labelled @ weights)
        results = {"auroc": areas[:, 0], "auprc": areas[:, 1]}
        with np.errstate(invalid="ignore"):  # 0 / 0 is the undefined value
            results["brier"] = _and_pooled(self._squared @ weights) / labelled
            for name, gaps in self._gaps.items():
                per_bin = (gaps @ weights).reshape(len(labelled), self._bins, -1)
                results[name] = np.abs(per_bin).sum(axis=1) / labelled
        for point, confusion in self._confusions.items():
            counts = _and_pooled((confusion @ weights).reshape(len(self.names), 4, -1))
            results |= {f"{rate}@{point}": value for rate, value in _rates(counts).items()}
        return results

    def confusion(self, point: str) -> np.ndarray:
        """(C + 1, 4) numbers of true positives, false positives, false negatives, true negatives at a threshold."""
        counts = (self._confusions[point] @ np.ones((self.cases, 1))).reshape(-1, 4)
        return _and_pooled(counts).astype(int)

    def _summing(self, row: np.ndarray, value: np.ndarray, rows: int) -> csr_matrix:
        """The matrix (rows, n) that, times weights, sums `value` of the cells of each row."""
        return csr_matrix((value, (row, self.case)), shape=(rows, self.cases))

    def _binned(self, bins: int, equal_mass: bool) -> csr_matrix:
        """Sums of (probability - label) per column and bin, ((C + 1) * bins, n)."""
        rows, cells = [], []
        for column, in_column in enumerate(self._columns):
            score = self.score[in_column]
            if len(score):
                parts = np.linspace(0, 1, bins + 1)[1:-1]
                inner = np.percentile(score, parts * 100) if equal_mass else parts
                rows.append(column * bins + np.searchsorted(inner, score))
                cells.append(np.flatnonzero(in_column))
        row, cell = (np.concatenate(parts) if parts else np.empty(0, int) for parts in (rows, cells))
        gap = (self.score - self.label)[cell]
        return csr_matrix((gap, (row, self.case[cell])), shape=(len(self._columns) * bins, self.cases))

    def _confusion(self, chosen: Mapping[str, float]) -> csr_matrix:
        threshold = np.array([chosen.get(name, np.nan) for name in self.names], dtype=float)[self.group]
        predicted, positive = self.score >= threshold, self.label == 1
        kind = np.select([predicted & positive, predicted, positive], [_TP, _FP, _FN], _TN)
        return self._summing(self.group * 4 + kind, (~np.isnan(threshold)).astype(float), len(self.names) * 4)


class _Ranking:
    """Cells of one column, ranked once.

    Both curves are sums over the distinct scores of positive cells, of which there are few: at each one needs the
    weight of its positives, of the negatives that tie with it, and of those between it and the next higher one.
    """

    def __init__(self, score: np.ndarray, positive: np.ndarray, case: np.ndarray, cases: int) -> None:
        steps, step = np.unique(-score[positive], return_inverse=True)  # descending scores
        below = np.searchsorted(steps, -score[~positive])  # the first step that a negative is not above
        tied = below < len(steps)
        tied[tied] = steps[below[tied]] == -score[~positive][tied]

        def sums(row: np.ndarray, of: np.ndarray, rows: int) -> csr_matrix:
            return csr_matrix((np.ones(len(row)), (row, of)), shape=(rows, cases))

        negative = case[~positive]
        self._positives = sums(step, case[positive], len(steps))
        # The last row holds the negatives that lie below every positive.
        self._between = sums(below[~tied], negative[~tied], len(steps) + 1)
        self._tied = sums(below[tied], negative[tied], len(steps)) if tied.any() else None

    def areas(self, weights: np.ndarray) -> np.ndarray:
        """(2, draws): area under the ROC curve (trapezoids) and average precision (steps), (n, draws) weights."""
        more_tp, between = self._positives @ weights, self._between @ weights
        positives, negatives = more_tp.sum(axis=0), between.sum(axis=0)
        tp, fp, half = np.cumsum(more_tp, axis=0), np.cumsum(between[:-1], axis=0), 0.0
        if self._tied is not None:
            tied = self._tied @ weights
            negatives += tied.sum(axis=0)
            fp += np.cumsum(tied, axis=0)
            half = tied / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc = (more_tp * (negatives - fp + half)).sum(axis=0) / (positives * negatives)
            precision = tp / np.maximum(tp + fp, np.finfo(float).tiny)
            auprc = (more_tp * precision).sum(axis=0) / positives
        return np.where(positives * negatives > 0, [auroc, auprc], np.nan)


def _rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Rates of (columns, 4, draws) counts, NaN where a column lacks the cells that a rate is about."""
    tp, fp, fn, tn = (counts[:, kind] for kind in (_TP, _FP, _FN, _TN))
    with np.errstate(invalid="ignore"):
        rates = {
            "f1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / np.maximum(tp + fp, np.finfo(float).tiny),
            "recall": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
        }
    for name in ("f1", "precision"):
        rates[name] = np.where(tp + fn > 0, rates[name], np.nan)
    return rates


def _and_pooled(columns: np.ndarray) -> np.ndarray:
    """Append the sum over the first axis: "micro"."""
    return np.concatenate([columns, columns.sum(axis=0, keepdims=True)])


def _check(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    if labels.shape != probabilities.shape or labels.ndim != 2 or labels.shape[1] != len(names):
        raise ValueError(
            f"Probabilities are {probabilities.shape}, labels {labels.shape}, names {len(names)}, "
            "expected (cases, classes) twice and a name for each class."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"The names are {list(names)}, expected each once.")
    labelled = ~np.isnan(labels)
    wrong = labelled & ~np.isin(labels, (0, 1))
    if wrong.any():
        case, group = np.argwhere(wrong)[0]
        raise ValueError(f"Label {names[group]!r} of case {case} is {labels[case, group]}, expected 0, 1 or NaN.")
    wrong = labelled & ~((probabilities >= 0) & (probabilities <= 1))
    if wrong.any():
        case, group = np.argwhere(wrong)[0]
        raise ValueError(
            f"Probability {names[group]!r} of case {case} is {probabilities[case, group]}, "
            "expected a number from 0 to 1 (a sigmoid is not applied here)."
        )
