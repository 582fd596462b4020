from pathlib import Path

import numpy as np

from common.data.prediction_table import PredictionTable
from common.evaluation.error_cases import find_errors, subgroup_rows
from common.metrics.multilabel import multilabel_scores


def table(values, patients=None):
    cases = tuple(f"c{i}" for i in range(len(values)))
    labels = ("Edema", "Fracture")[: values.shape[1]]
    return PredictionTable(Path("labels_test.csv"), cases, patients or cases, labels, values)


def test_the_worst_errors_come_first():
    """False positives of highest and false negatives of lowest probability, and not those nearest to the threshold."""
    truth = np.array([[0, 1], [0, 1], [0, 1], [0, np.nan], [1, 0], [1, 0], [1, 0], [np.nan, 0]])
    said = np.array([[0.6, 0.9], [0.9, 0.1], [0.7, 0.4], [0.2, 0.0], [0.3, 0.6], [0.1, 0.8], [0.45, 0.1], [1.0, 0.3]])
    found = [(e.label, e.kind, e.case, e.probability) for e in find_errors(table(truth), said, per_label=2)]
    assert found == [
        ("Edema", "false positive", "c1", 0.9), ("Edema", "false positive", "c2", 0.7),
        ("Edema", "false negative", "c5", 0.1), ("Edema", "false negative", "c4", 0.3),
        ("Fracture", "false positive", "c5", 0.8), ("Fracture", "false positive", "c4", 0.6),
        ("Fracture", "false negative", "c1", 0.1), ("Fracture", "false negative", "c2", 0.4),
    ]  # fmt: skip
    chosen = find_errors(table(truth), said, {"Edema": 0.65})
    assert [(e.label, e.case) for e in chosen if e.kind == "false positive"] == [("Edema", "c1"), ("Edema", "c2")]


def test_subgroups_are_resampled_by_patient():
    rng = np.random.default_rng(0)
    own = rng.integers(0, 2, (30, 1)).astype(float)
    truth = np.repeat(own, 6, axis=0)
    said = np.clip(np.repeat(rng.random((30, 1)) * 0.6 + 0.3 * own, 6, axis=0) + 0.02 * rng.random((180, 1)), 0, 1)
    patients = tuple(f"p{i // 6}" for i in range(180))
    cases = [{"case": f"c{i}", "sex": "F" if i < 120 else "M"} for i in range(180)]
    row = subgroup_rows(table(truth, patients), said, cases, ["sex"], draws=100, seed=4)[0]

    def interval(groups):
        area = multilabel_scores(said[:120], truth[:120], ["Edema"], draws=100, seed=4, groups=groups).scores["auroc"]
        return area.macro.low, area.macro.high

    assert (row["group"], row["low"], row["high"]) == ("F", *interval(patients[:120]))
    single = interval(None)
    assert row["high"] - row["low"] > 1.5 * (single[1] - single[0])
