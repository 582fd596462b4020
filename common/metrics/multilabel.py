"""Multi-label classification with missing labels: AUROC, AUPRC, F1 and its parts, Brier score, calibration error.

Labels are 1, 0, or NaN where a case has none for a class; such a cell counts nowhere. A metric that a class cannot have
(AUROC without a negative case) is undefined: named, with the reason, and left out of the mean; it is never 0 and no NaN
enters a mean.

    auroc            area under the ROC curve; needs positive and negative cases
    auprc            average precision, the sum of precision times the step in recall; likewise
    brier            mean squared difference of probability and label
    ece              expected calibration error: sum over bins of |sum of (probability - label)| / cases. 15 bins of
                     equal width, (0, 1/15] and so on, the first with 0 (the bins of scikit-learn's calibration_curve)
    ece_equal_mass   the same with 15 bins between quantiles of the class's own probabilities
    f1, precision, recall, specificity, accuracy  @0.5: positive from 0.5 on; @chosen: from the thresholds that were
                     chosen on other cases. Recall, precision and F1 need a positive case, specificity a negative one;
                     precision is 0 where nothing was predicted positive, as in scikit-learn.

macro is the mean over the classes that have a value, micro pools the cells of all classes into one column.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from common.metrics.resampling import Interval, percentile_interval, resampled_cases
from common.metrics.weighted_labels import LabelCells

AREAS = ("auroc", "auprc")
_BLOCK = 1 << 20  # weights times draws held at once


@dataclass(frozen=True)
class ClassScores:
    """One metric.

    Attributes:
        per_class: class -> value and interval, NaN where undefined.
        macro: mean over the classes that have a value. A resample in which one of them has none is left out.
        micro: all labelled cells pooled.
        undefined: class -> why it has no value.
    """

    per_class: dict[str, Interval]
    macro: Interval
    micro: Interval
    undefined: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """For JSON, with the number of classes in the macro mean."""
        macro = {**self.macro.to_dict(), "classes": len(self.per_class) - len(self.undefined)}
        per_class = {
            name: {**interval.to_dict(), **({"reason": self.undefined[name]} if name in self.undefined else {})}
            for name, interval in self.per_class.items()
        }
        return {"macro": macro, "micro": self.micro.to_dict(), "per_class": per_class, "undefined": self.undefined}


@dataclass(frozen=True)
class MultilabelResult:
    """All metrics of one system, or their differences between two.

    Attributes:
        cases: number of cases.
        support: class -> numbers of positive, negative and masked cases.
        scores: metric -> its values; the metrics are listed at the top of this file.
        thresholds: operating point ("0.5", "chosen") -> class -> threshold.
        confusion: operating point -> class -> numbers tp, fp, fn, tn. Both are empty for differences.
    """

    cases: int
    support: dict[str, dict[str, int]]
    scores: dict[str, ClassScores]
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """For JSON: no NaN, None where undefined with the reason beside it."""
        return {
            "cases": self.cases,
            "support": self.support,
            "thresholds": self.thresholds,
            "confusion": self.confusion,
            "metrics": {name: scores.to_dict() for name, scores in self.scores.items()},
        }

    def summary(self) -> dict[str, float]:
        """Point values as one flat dictionary, `auroc_macro`, `auroc_micro`, `auroc_<class>`; undefined ones absent."""
        flat = {}
        for metric, scores in self.scores.items():
            named = {"macro": scores.macro, "micro": scores.micro, **scores.per_class}
            flat |= {f"{metric}_{name}": interval.value for name, interval in named.items()}
        return {name: float(value) for name, value in flat.items() if not math.isnan(value)}


def multilabel_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    thresholds: Mapping[str, float] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    bins: int = 15,
) -> MultilabelResult:
    """Score a system on cases whose labels may be missing.

    Args:
        probabilities: (n, C) within [0, 1]; ignored where there is no label.
        labels: (n, C) of 1, 0 and NaN (uncertain, not mentioned).
        names: the C classes.
        thresholds: class -> threshold that `choose_thresholds` chose on other cases; adds the metrics "@chosen". A
            class without one is undefined there.
        draws: bootstrap resamples of the cases, 0 for none. The bins of a calibration error stay those of all cases.
        level: coverage of the intervals.
        seed: of the resamples.
        groups: (n,) patient of every case; whole patients are drawn.
        bins: of the calibration errors.

    Returns:
        Every metric per class, macro and micro.

    Raises:
        ValueError: if shapes differ, there is no case, a label is not 0, 1 or NaN, a labelled cell has no probability
            within [0, 1], or a threshold is for no class.
    """
    chosen = None if thresholds is None else {"": thresholds}
    options = {"draws": draws, "level": level, "seed": seed, "groups": groups, "bins": bins}
    return multilabel_comparison({"": probabilities}, labels, names, "", thresholds=chosen, **options)[0][""]


def multilabel_comparison(
    systems: Mapping[str, np.ndarray],
    labels: np.ndarray,
    names: Sequence[str],
    reference: str,
    *,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    bins: int = 15,
) -> tuple[dict[str, MultilabelResult], dict[str, MultilabelResult]]:
    """Several systems on the same cases: each alone, and each against one of them, all on the same resamples (paired).

    Args:
        systems: system -> (n, C) probabilities.
        labels: (n, C) of 1, 0 and NaN (uncertain, not mentioned).
        names: the C classes.
        reference: the system that is subtracted from the others.
        thresholds: system -> those chosen for it on other cases; all systems have an entry, or none.
        draws: bootstrap resamples of the cases, 0 for none.
        level: coverage of the intervals.
        seed: of the resamples.
        groups: (n,) patient of every case; whole patients are drawn.
        bins: of the calibration errors.

    Returns:
        system -> scores, and other system -> its differences to the reference (system minus reference).

    Raises:
        ValueError: if the reference is no system, thresholds are given for some systems only, or as in
            `multilabel_scores`.
    """
    if reference not in systems:
        raise ValueError(f"The reference is {reference!r}, expected one of {', '.join(systems)}.")
    if thresholds is not None and set(thresholds) != set(systems):
        raise ValueError(f"There are thresholds for {', '.join(thresholds)}, expected some for {', '.join(systems)}.")
    cells = {
        system: _cells(probabilities, labels, names, thresholds and thresholds[system], bins)
        for system, probabilities in systems.items()
    }
    with ThreadPoolExecutor(min(len(cells), os.cpu_count() or 1)) as pool:  # NumPy lets other threads run meanwhile

        def weighted(weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
            results = pool.map(lambda one: one.weighted(weights), cells.values())
            return {
                (system, metric): values
                for system, result in zip(cells, results, strict=True)
                for metric, values in result.items()
            }

        drawn = _draw(weighted, cells[reference], draws, seed, groups)
    values = {system: one.values() for system, one in cells.items()}

    def resampled(system: str) -> dict[str, np.ndarray] | None:
        return None if drawn is None else {metric: drawn[system, metric] for metric in values[system]}

    scores, differences = {}, {}
    for system, one in cells.items():
        result = _result(one, values[system], resampled(system), level)
        scores[system] = replace(result, thresholds=one.thresholds, confusion=_confusions(one))
        if system != reference:
            difference = _less(resampled(system), resampled(reference))
            differences[system] = _result(one, _less(values[system], values[reference]), difference, level)
    return scores, differences


def choose_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], criterion: str = "f1"
) -> dict[str, float]:
    """Per class the threshold that is best on these cases, to be applied to others.

    Give the result to `multilabel_scores` of the test cases; thresholds chosen on the cases that are scored flatter.

    Args:
        probabilities: (n, C) within [0, 1], of validation cases.
        labels: (n, C) of 1, 0 and NaN.
        names: the C classes.
        criterion: "f1", or "youden" for recall + specificity - 1. Of equally good thresholds the highest is taken.

    Returns:
        class -> threshold, one of its probabilities. Classes without positive or without negative cases are absent.

    Raises:
        ValueError: for another criterion, or input as in `multilabel_scores`.
    """
    if criterion not in ("f1", "youden"):
        raise ValueError(f"The criterion is {criterion!r}, expected 'f1' or 'youden'.")
    cells = LabelCells(probabilities, labels, names, {})
    chosen = {}
    for c, name in enumerate(cells.names):
        if not cells.support[c].all():
            continue
        score, label = cells.score[cells.group == c], cells.label[cells.group == c]
        if criterion == "f1":
            precision, recall, threshold = precision_recall_curve(label, score)
            quality = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
            quality = quality[:-1]  # the last point predicts nothing and has no threshold
        else:
            false_positive_rate, recall, threshold = roc_curve(label, score, drop_intermediate=False)
            quality, threshold = (recall - false_positive_rate)[1:], threshold[1:]  # the first predicts nothing
        chosen[name] = float(threshold[np.isclose(quality, quality.max(), rtol=0, atol=1e-12)].max())
    return chosen


def _cells(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    thresholds: Mapping[str, float] | None,
    bins: int,
) -> LabelCells:
    unknown = [name for name in thresholds or () if name not in names]
    if unknown:
        raise ValueError(f"There is a threshold for {unknown[0]!r}, expected one of {', '.join(names)}.")
    if not len(labels) or bins < 1:
        raise ValueError(f"There are {len(labels)} cases and {bins} bins, expected at least 1 of each.")
    chosen = {} if thresholds is None else {"chosen": thresholds}
    return LabelCells(probabilities, labels, names, {"0.5": dict.fromkeys(names, 0.5), **chosen}, bins)


def _less(first: dict | None, second: dict | None) -> dict | None:
    """Metric by metric, first minus second; None without resamples."""
    return None if first is None else {metric: first[metric] - second[metric] for metric in first}


def _draw(
    weighted: Callable[[np.ndarray], dict[tuple[str, str], np.ndarray]],
    cells: LabelCells,
    draws: int,
    seed: int,
    groups: Sequence[Hashable] | None,
) -> dict[tuple[str, str], np.ndarray] | None:
    """System and metric -> (draws, C + 1), None without draws; in blocks, which bounds the memory."""
    if draws == 0:
        return None
    resamples = resampled_cases(cells.cases, draws, seed, groups)
    per_block = max(1, _BLOCK // max(cells.cases, len(cells.case)))
    blocks: dict[tuple[str, str], list[np.ndarray]] = {}
    while block := list(islice(resamples, per_block)):
        weights = np.stack([np.bincount(cases, minlength=cells.cases) for cases in block], axis=1).astype(float)
        for name, values in weighted(weights).items():
            blocks.setdefault(name, []).append(values.T)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def _result(
    cells: LabelCells, values: dict[str, np.ndarray], drawn: dict[str, np.ndarray] | None, level: float
) -> MultilabelResult:
    names, support = cells.names, cells.support.tolist()
    scores = {}
    for metric, value in values.items():
        resampled = np.empty((0, len(value))) if drawn is None else drawn[metric]
        defined = np.flatnonzero(~np.isnan(value[:-1]))
        # Without a defined class there is nothing to take the mean of.
        macro = value[defined].mean() if len(defined) else math.nan
        macro_drawn = resampled[:, defined].mean(axis=1) if len(defined) else np.full(len(resampled), math.nan)
        scores[metric] = ClassScores(
            {name: percentile_interval(value[c], resampled[:, c], level) for c, name in enumerate(names)},
            percentile_interval(macro, macro_drawn, level),
            percentile_interval(value[-1], resampled[:, -1], level),
            {name: _reason(metric, *support[c]) for c, name in enumerate(names) if np.isnan(value[c])},
        )
    counts = {
        name: {"positive": positive, "negative": negative, "masked": cells.cases - positive - negative}
        for name, (negative, positive) in zip(names, support, strict=False)  # the last row is that of all classes
    }
    return MultilabelResult(cells.cases, counts, scores)


def _confusions(cells: LabelCells) -> dict[str, dict[str, dict[str, int]]]:
    return {
        point: {
            name: dict(zip(("tp", "fp", "fn", "tn"), row, strict=True))
            for name, row in zip(cells.names, cells.confusion(point).tolist(), strict=False)
        }
        for point in cells.thresholds
    }


def _reason(metric: str, negatives: int, positives: int) -> str:
    """Why a class has no value."""
    if not negatives + positives:
        return "no case has a label"
    rate = metric.split("@")[0]
    if not positives and rate not in ("specificity", "accuracy"):
        return f"all {negatives} labelled cases are negative"
    if not negatives and (rate in AREAS or rate == "specificity"):
        return f"all {positives} labelled cases are positive"
    return "no threshold was chosen for it"
