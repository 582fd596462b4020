"""The CRG score, by which the VLM3D challenge ranks CT reports (Hamamci et al., arXiv:2505.17167)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric, divide
from common.metrics.report.finding_f1 import Labels, label_array

CRG_FLOOR = 1 / 3
"""What a predictor gets that does not look: that names nothing, all, or every label with the same probability."""


def crg(predictions: Sequence[Labels], references: Sequence[Labels], labels: Sequence[str]) -> CorpusMetric:
    """Clinically relevant generation score of binary labels, as the challenge's `crg_score.py` computes it.

    Over all reports and labels, with X cells, A of them positive in the references, and w = (X - A) / 2A: ``s = w TP -
    w FN - FP``, ``U = A w``, ``CRG = U / (2U - s)``. All right is 1, all wrong 1/5, and a report written without the
    image is `CRG_FLOOR` = 1/3, so .40 is not far from nothing. True negatives do not enter.

    The floor is exact for predicting nothing or everything, and in expectation for every label at the same rate. A
    predictor that knows which labels are common beats it without looking: see `crg_best_constant`.

    Args:
        predictions: 1 or 0 for each label of each generated report.
        references: likewise for the references, in the same order.
        labels: those that count; the challenge takes the 18 of CT-RATE.

    Returns:
        Metric `crg`, within [1/5, 1]; NaN where no reference, or every cell, is positive.

    Raises:
        ValueError: if there are not as many references as predictions, a label is missing or neither 1 nor 0.
    """
    p, t = _binary(predictions, labels), _binary(references, labels)
    if p.shape != t.shape:
        raise ValueError(f"The labels of {len(p)} reports are compared with those of {len(t)} references.")
    counts = [(p & t).sum(axis=1), (~p & t).sum(axis=1), (p & ~t).sum(axis=1), np.full(len(p), len(labels))]

    def score(sums: np.ndarray) -> np.ndarray:
        tp, fn, fp, cells = (sums[..., i] for i in range(4))
        positive = tp + fn
        weight = divide(cells - positive, 2 * positive)
        best = positive * weight
        return divide(best, 2 * best - (weight * (tp - fn) - fp))[..., None]

    return CorpusMetric(("crg",), np.stack(counts, axis=1).astype(float), score)


def crg_best_constant(references: Sequence[Labels], labels: Sequence[str]) -> float:
    """CRG of the best report that is the same for every case: the baseline that a system must beat.

    Naming a label always pays when it is more frequent than the labels are on average, because then its true positives,
    weighted, outnumber its false ones; the labels contribute independently of each other.
    """
    t = _binary(references, labels)
    frequent = t.sum(axis=0) * len(labels) > t.sum()
    constant = dict(zip(labels, frequent.astype(int).tolist(), strict=True))
    return crg([constant] * len(t), references, labels).value()["crg"]


def _binary(rows: Sequence[Labels], labels: Sequence[str]) -> np.ndarray:
    values = label_array(rows, labels)
    bad = np.argwhere(~np.isin(values, (0, 1)))
    if len(bad):
        row, column = bad[0]
        raise ValueError(f"{labels[column]} of report {row} is {rows[row][labels[column]]!r}, expected 1 or 0.")
    return values == 1
