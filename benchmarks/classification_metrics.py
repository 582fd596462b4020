"""Label and detection metrics against scikit-learn, MONAI and definitions, and the speed of the bootstrap.

Prints one JSON line per claim: {name, input, ours, reference, ratio, machine}. For a difference, `ours` is the largest
one met and `reference` what is allowed; for seconds, both are medians of rounds in alternation on this machine.

    OMP_NUM_THREADS=1 python benchmarks/classification_metrics.py      # about a minute on one core
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from monai.metrics import compute_froc_curve_data, compute_froc_score
from sklearn import metrics as sk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.metrics.delong import delong_test  # noqa: E402
from common.metrics.detection import FALSE_POSITIVES, ScanBoxes, froc, match_detections  # noqa: E402
from common.metrics.multilabel import multilabel_scores  # noqa: E402
from common.metrics.resampling import resampled_cases  # noqa: E402
from common.metrics.weighted_labels import LabelCells  # noqa: E402

ALLOWED = 1e-6
ORACLES: dict[str, Callable[..., float]] = {
    "auroc": sk.roc_auc_score,
    "auprc": sk.average_precision_score,
    "brier": sk.brier_score_loss,
    "f1@0.5": lambda y, p, **weight: sk.f1_score(y, p >= 0.5, **weight),
    "precision@0.5": lambda y, p, **weight: sk.precision_score(y, p >= 0.5, zero_division=0, **weight),
    "recall@0.5": lambda y, p, **weight: sk.recall_score(y, p >= 0.5, **weight),
    "specificity@0.5": lambda y, p, **weight: sk.recall_score(y, p >= 0.5, pos_label=0, **weight),
    "accuracy@0.5": lambda y, p, **weight: sk.accuracy_score(y, p >= 0.5, **weight),
}


def report(name: str, given: str, ours: float, reference: float) -> None:
    ours, reference = float(f"{ours:.3g}"), float(f"{reference:.3g}")
    machine = f"{platform.machine()}, numpy {np.__version__}"
    line = {"name": name, "input": given, "ours": ours, "reference": reference}
    print(json.dumps(line | {"ratio": float(f"{ours / reference:.3g}"), "machine": machine}), flush=True)


def problem(seed: int, n: int, classes: int, decimals: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of which a fifth is missing; prevalences from 2 to 60 %."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, classes)) < np.linspace(0.02, 0.6, classes)
    probabilities = np.clip(0.3 * truth * rng.random((n, classes)) + 0.7 * rng.random((n, classes)), 0, 1)
    labels = np.where(rng.random((n, classes)) < 0.2, np.nan, truth)
    return probabilities.round(decimals), labels


def values() -> None:
    """The weighted metrics that the bootstrap is made of, with scikit-learn's `sample_weight`."""
    names = tuple("abcde")
    worst = dict.fromkeys(ORACLES, 0.0)
    for seed in range(60):
        probabilities, labels = problem(seed, 200, 5, decimals=16 if seed % 2 else 1)
        weights = np.random.default_rng(seed).integers(0, 4, 200) if seed % 3 else np.ones(200)
        cells = LabelCells(probabilities, labels, names, {"0.5": dict.fromkeys(names, 0.5)})
        ours = {metric: rows[:, 0] for metric, rows in cells.weighted(weights[:, None].astype(float)).items()}
        for row in range(6):  # five classes, then all cells
            columns = [row] if row < 5 else list(range(5))
            case, column = np.nonzero(~np.isnan(labels[:, columns]))
            y, p = labels[:, columns][case, column], probabilities[:, columns][case, column]
            if len(set(y[weights[case] > 0])) == 2:
                for metric, oracle in ORACLES.items():
                    difference = ours[metric][row] - oracle(y, p, sample_weight=weights[case])
                    worst[metric] = max(worst[metric], abs(difference))
    for metric, difference in worst.items():
        given = "60 masked problems, 200 x 5, half with ties, two thirds with weights: per class, micro"
        report(f"classification.{metric}: largest difference to scikit-learn", given, difference, ALLOWED)


def intervals() -> None:
    worst = 0.0
    for seed in range(3):
        probabilities, labels = problem(seed, 150, 4, decimals=2)
        scores = multilabel_scores(probabilities, labels, tuple("abcd"), draws=100, seed=seed).scores
        for metric in ("auroc", "auprc", "f1@0.5"):
            drawn = []
            for cases in resampled_cases(150, 100, seed):
                p, y = probabilities[cases], labels[cases]
                drawn.append(ORACLES[metric](y[~np.isnan(y)], p[~np.isnan(y)]))
            expected = np.quantile(drawn, [0.025, 0.975])
            ours = scores[metric].micro.low, scores[metric].micro.high
            worst = max(worst, float(np.abs(expected - ours).max()))
    given = "micro AUROC, AUPRC, F1; 3 problems, 100 draws"
    report("classification.bootstrap: largest difference to a loop over scikit-learn", given, worst, ALLOWED)


def bootstrap_seconds(rounds: int = 3, looped: int = 4) -> None:
    probabilities, labels = problem(0, 2000, 14)
    names = tuple(f"label {c}" for c in range(14))
    vectorised, loop = [], []
    for seed in range(rounds):
        start = time.perf_counter()
        multilabel_scores(probabilities, labels, names, draws=1000, seed=seed)
        vectorised.append(time.perf_counter() - start)
        start = time.perf_counter()
        for cases in resampled_cases(2000, looped, seed):
            p, y = probabilities[cases], labels[cases]
            for cells in [(slice(None), c) for c in range(14)] + [(slice(None), slice(None))]:
                kept = ~np.isnan(y[cells])
                for oracle in ORACLES.values():
                    oracle(y[cells][kept], p[cells][kept])
        loop.append((time.perf_counter() - start) / looped * 1000)
    given = (
        f"1,000 draws x 14 labels and micro x 2,000 cases, all metrics; loop: {looped} draws, times {1000 // looped}"
    )
    report("classification.bootstrap: seconds", given, statistics.median(vectorised), statistics.median(loop))


def definition(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference of two AUROCs and its variance from every pair of a positive and a negative case."""
    won = []
    for score in (a, b):
        positive, negative = score[labels == 1][:, None], score[labels == 0]
        won.append((positive > negative) + 0.5 * (positive == negative))
    of_positives, of_negatives = (np.array([w.mean(axis=axis) for w in won]) for axis in (1, 0))
    covariance = np.cov(of_positives) / of_positives.shape[1] + np.cov(of_negatives) / of_negatives.shape[1]
    difference = of_positives.mean(axis=1)
    return difference[0] - difference[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


def delong() -> None:
    worst = 0.0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = (rng.random(150) < 0.3).astype(float)
        a, b = ((rng.random(150) + 0.3 * labels).round(1 + 15 * (seed % 2)) for _ in range(2))
        test = delong_test(labels, a, b)
        difference, variance = definition(labels, a, b)
        worst = max(worst, abs(test.difference - difference), abs(test.variance - variance))
    report("classification.delong: largest difference to the definition", "100 pairs, half with ties", worst, ALLOWED)
    rng = np.random.default_rng(0)
    labels = (rng.random(10000) < 0.3).astype(float)
    a, b = (rng.random(10000) + 0.3 * labels for _ in range(2))
    ours, brute = [], []
    for _ in range(3):
        for function, seconds in ((delong_test, ours), (definition, brute)):
            start = time.perf_counter()
            function(labels, a, b)
            seconds.append(time.perf_counter() - start)
    report(
        "classification.delong: seconds, against all pairs",
        "10,000 cases",
        statistics.median(ours),
        statistics.median(brute),
    )


def detection() -> None:
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scans = []
        for _ in range(50):
            corners = rng.uniform(0, 300, (rng.integers(0, 4), 3))
            truth = np.c_[corners, np.full_like(corners, 10)]
            near = truth[rng.random(len(truth)) < 0.7] + np.r_[rng.uniform(-2, 2, 3), 0, 0, 0]
            corners = rng.uniform(0, 300, (rng.integers(0, 4), 3))
            boxes = np.r_[near, np.c_[corners, np.full_like(corners, 10)]]
            scans.append(ScanBoxes(boxes, rng.random(len(boxes)).round(2), truth))
        found = [match_detections(scan) for scan in scans]
        hits = np.concatenate([s.probabilities[f >= 0] for s, f in zip(scans, found, strict=True)])
        misses = np.concatenate([[-1.0], *(s.probabilities[f < 0] for s, f in zip(scans, found, strict=True))])
        curve = compute_froc_curve_data(misses, hits, sum(len(scan.truth) for scan in scans), len(scans))
        expected = compute_froc_score(*curve, FALSE_POSITIVES)
        worst = max(worst, abs(froc(scans, draws=0).mean.value - expected))
    report("detection.froc: largest difference to MONAI", "20 x 50 scans, lowest threshold let in", worst, ALLOWED)


if __name__ == "__main__":
    values()
    intervals()
    bootstrap_seconds()
    delong()
    detection()
