"""F1 of the findings that a labeller reads in generated reports against those it reads in the references.

Labels have four values (CheXpert): 1.0 positive, 0.0 negative, -1.0 uncertain, None not mentioned. F1 asks which
findings are there, so negative and not mentioned are alike; what becomes of the uncertain ones moves the figure by
several points and is therefore an argument (`UNCERTAIN_POLICIES`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric, divide

CHEXPERT_5 = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five competition labels of CheXpert (Irvin et al., AAAI 2019), over which "F1-5" is computed."""

UNCERTAIN_POLICIES = ("ignore", "positive", "negative", "own")
"""ignore: a cell uncertain on either side is left out. positive: uncertain counts as there (U-Ones; what F1CheXbert
does). negative: as not there (U-Zeros). own: uncertain is a class beside positive, so a label becomes two columns."""

Labels = Mapping[str, float | None]


def finding_f1(
    predictions: Sequence[Labels],
    references: Sequence[Labels],
    labels: Sequence[str],
    uncertain: str = "positive",
    undefined: float = math.nan,
) -> CorpusMetric:
    """Micro, macro and example-based F1 over labels, as scikit-learn's `f1_score` with those averages.

    With true positives, false positives and false negatives: ``F1 = 2 TP / (2 TP + FP + FN)``; micro over all cells,
    macro the mean over the labels, example-based (`samples`) the mean over the reports.

    Args:
        predictions: the labels of each generated report.
        references: the labels of each reference, in the same order.
        labels: those that count, e.g. all 14 or `CHEXPERT_5`; 1 and 0 for labels without uncertainty (CT-RATE).
        uncertain: one of `UNCERTAIN_POLICIES`.
        undefined: F1 of a label, or of a report, without a positive on either side. NaN leaves it out of the mean
            (`zero_division=nan`); 0.0 is scikit-learn's default, which punishes a label for being absent.

    Returns:
        Metrics `micro_f1`, `macro_f1`, `example_f1`, `micro_precision`, `micro_recall`, each within [0, 1] or NaN.

    Raises:
        ValueError: if there are not as many references as predictions, a label is missing or has an unknown value.
    """
    predicted, true, counted, _ = _cells(predictions, references, labels, uncertain)
    return _f1_metric(predicted & counted, true & counted, undefined)


def finding_table(
    predictions: Sequence[Labels], references: Sequence[Labels], labels: Sequence[str], uncertain: str = "positive"
) -> dict[str, dict[str, float]]:
    """Each label's `precision`, `recall` and `f1` (NaN where undefined) and counts; arguments as in `finding_f1`.

    Counts are `positives` in the references, `predicted`, and `counted` cells, which only the policy `ignore` lowers.
    """
    predicted, true, counted, names = _cells(predictions, references, labels, uncertain)
    predicted, true = predicted & counted, true & counted
    both, predicted_sum, true_sum = (np.sum(x, axis=0, dtype=float) for x in (predicted & true, predicted, true))
    precision, recall = divide(both, predicted_sum), divide(both, true_sum)
    f1 = divide(2 * both, predicted_sum + true_sum)
    return {
        name: {
            "precision": float(precision[c]),
            "recall": float(recall[c]),
            "f1": float(f1[c]),
            "positives": int(true_sum[c]),
            "predicted": int(predicted_sum[c]),
            "counted": int(counted[:, c].sum()),
        }
        for c, name in enumerate(names)
    }


def icd_f1(
    predictions: Sequence[Collection[str]],
    references: Sequence[Collection[str]],
    characters: int | None = None,
    undefined: float = math.nan,
) -> CorpusMetric:
    """Micro, macro and example-based F1 of sets of ICD codes (or of names of ICD groups).

    The classes are all codes that occur on either side; a code that no reference holds counts as a false positive.
    Codes are compared in upper case without dots and blanks; the ICD version is the caller's, since a code says nothing
    about it.

    Args:
        predictions: the codes predicted for each case, e.g. `[{"I50.9", "J90"}, set()]`.
        references: the true codes, in the same order.
        characters: compare only so many leading characters, e.g. 3 for categories; None for whole codes.
        undefined: as in `finding_f1`.

    Returns:
        Metrics as `finding_f1`.

    Raises:
        ValueError: if there are not as many references as predictions, none, or a code is blank.
    """
    _check_counts(predictions, references)
    sets = [[_normal_code(code, characters) for code in codes] for codes in [*predictions, *references]]
    column = {code: c for c, code in enumerate(sorted({code for codes in sets for code in codes}))}
    cells = np.zeros((len(sets), max(1, len(column))), dtype=bool)
    for row, codes in enumerate(sets):
        cells[row, [column[code] for code in codes]] = True
    return _f1_metric(cells[: len(predictions)], cells[len(predictions) :], undefined)


def _f1_metric(predicted: np.ndarray, true: np.ndarray, undefined: float) -> CorpusMetric:
    """The metrics of two (reports, classes) bool arrays."""
    both, only_predicted, only_true = predicted & true, predicted & ~true, ~predicted & true
    per_example = divide(2 * both.sum(axis=1), predicted.sum(axis=1) + true.sum(axis=1), undefined)[:, None]
    in_mean = ~np.isnan(per_example)
    columns = np.hstack([both, only_predicted, only_true, np.where(in_mean, per_example, 0.0), in_mean]).astype(float)
    n = predicted.shape[1]

    def score(sums: np.ndarray) -> np.ndarray:
        tp, fp, fn = sums[..., :n], sums[..., n : 2 * n], sums[..., 2 * n : 3 * n]
        f1 = divide(2 * tp, 2 * tp + fp + fn, undefined)
        defined = ~np.isnan(f1)
        macro = divide(np.where(defined, f1, 0).sum(axis=-1), defined.sum(axis=-1))
        tp, fp, fn = (x.sum(axis=-1) for x in (tp, fp, fn))
        micro = divide(2 * tp, 2 * tp + fp + fn, undefined)
        example = divide(sums[..., 3 * n], sums[..., 3 * n + 1])
        precision, recall = divide(tp, tp + fp, undefined), divide(tp, tp + fn, undefined)
        return np.stack([micro, macro, example, precision, recall], axis=-1)

    return CorpusMetric(("micro_f1", "macro_f1", "example_f1", "micro_precision", "micro_recall"), columns, score)


def _cells(
    predictions: Sequence[Labels], references: Sequence[Labels], labels: Sequence[str], uncertain: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(reports, classes) bool: predicted, true, counted; and the names of the classes."""
    if uncertain not in UNCERTAIN_POLICIES:
        raise ValueError(f"The policy for uncertain labels is {uncertain!r}, expected one of {UNCERTAIN_POLICIES}.")
    _check_counts(predictions, references)
    p, t = label_array(predictions, labels), label_array(references, labels)
    if uncertain == "own":
        names = [*labels, *(f"{label} (uncertain)" for label in labels)]
        p, t = np.hstack([p == 1, p == -1]), np.hstack([t == 1, t == -1])
        return p, t, np.ones(p.shape, dtype=bool), names
    counted = (p != -1) & (t != -1) if uncertain == "ignore" else np.ones(p.shape, dtype=bool)
    there = [1, -1] if uncertain == "positive" else [1]
    return np.isin(p, there), np.isin(t, there), counted, list(labels)


def label_array(rows: Sequence[Labels], labels: Sequence[str]) -> np.ndarray:
    """(reports, labels) float64: 1, 0, -1, and NaN for not mentioned.

    Raises:
        ValueError: naming the row and label that is missing or has another value.
    """
    values = np.full((len(rows), len(labels)), np.nan)
    for i, row in enumerate(rows):
        for c, label in enumerate(labels):
            if label not in row:
                raise ValueError(
                    f"The labels of report {i} lack {label!r}, expected a value for each of {len(labels)}."
                )
            value = row[label]
            if value is None or value != value:
                continue
            if value not in (1, 0, -1):
                raise ValueError(f"{label} of report {i} is {value!r}, expected 1, 0, -1 or None.")
            values[i, c] = value
    return values


def _check_counts(predictions: Sequence[object], references: Sequence[object]) -> None:
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"The labels of {len(predictions)} reports are compared with those of {len(references)} references, "
            "expected as many, at least one."
        )


def _normal_code(code: str, characters: int | None) -> str:
    normal = "".join(code.split()).replace(".", "").upper()
    if not normal:
        raise ValueError(f"An ICD code is {code!r}, expected letters and digits.")
    return normal[:characters]
