import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from common.metrics.report.finding_f1 import CHEXPERT_5, finding_f1, finding_table, icd_f1
from common.text.cxr_labeller import CHEXPERT_LABELS

VALUES = (1.0, 0.0, -1.0, None)


def rows(seed, n=80, labels=CHEXPERT_LABELS, rare=()):
    rng = np.random.default_rng(seed)
    return [
        {name: None if name in rare else VALUES[rng.choice(4, p=[0.3, 0.3, 0.2, 0.2])] for name in labels}
        for _ in range(n)
    ]


def positives(rows, labels, there=(1,)):
    return np.array([[row[name] in there for name in labels] for row in rows])


@pytest.mark.parametrize("labels", [CHEXPERT_LABELS, CHEXPERT_5])
@pytest.mark.parametrize(("policy", "there"), [("positive", (1, -1)), ("negative", (1,))])
@pytest.mark.parametrize("undefined", [0.0, math.nan])
def test_equal_to_scikit_learn(labels, policy, there, undefined):
    predictions, references = rows(0, rare=("Edema",)), rows(1, rare=("Edema",))
    y_pred, y_true = positives(predictions, labels, there), positives(references, labels, there)
    value = finding_f1(predictions, references, labels, policy, undefined).value()
    for name, average in (("micro", "micro"), ("macro", "macro"), ("example", "samples")):
        expected = f1_score(y_true, y_pred, average=average, zero_division=undefined)
        assert value[f"{name}_f1"] == pytest.approx(expected, abs=1e-12)
    assert value["micro_precision"] == pytest.approx(precision_score(y_true, y_pred, average="micro"))
    assert value["micro_recall"] == pytest.approx(recall_score(y_true, y_pred, average="micro"))


def test_ignored_cells_are_left_out_on_both_sides():
    predictions, references = rows(2), rows(3)
    counted = [
        (p[name] == 1, r[name] == 1)
        for p, r in zip(predictions, references, strict=True)
        for name in CHEXPERT_LABELS
        if -1.0 not in (p[name], r[name])
    ]
    y_pred, y_true = np.array(counted).T
    value = finding_f1(predictions, references, CHEXPERT_LABELS, "ignore").value()
    assert value["micro_f1"] == pytest.approx(f1_score(y_true, y_pred))


def test_uncertain_as_a_class_of_its_own():
    predictions, references = rows(4), rows(5)
    y_pred, y_true = (
        np.hstack([positives(side, CHEXPERT_LABELS), positives(side, CHEXPERT_LABELS, (-1,))])
        for side in (predictions, references)
    )
    value = finding_f1(predictions, references, CHEXPERT_LABELS, "own").value()
    assert value["macro_f1"] == pytest.approx(f1_score(y_true, y_pred, average="macro"))
    assert list(finding_table(predictions, references, ["Edema"], "own")) == ["Edema", "Edema (uncertain)"]


def test_per_report_values_are_those_of_the_report_alone():
    predictions, references = rows(6, n=5), rows(7, n=5)
    metric = finding_f1(predictions, references, CHEXPERT_LABELS)
    for i in range(5):
        alone = finding_f1(predictions[i : i + 1], references[i : i + 1], CHEXPERT_LABELS).value()
        assert metric.per_report()[i] == pytest.approx(list(alone.values()), nan_ok=True)


def test_a_label_that_is_nowhere_is_undefined_and_not_0():
    references = [{"Edema": 1.0, "Fracture": None}, {"Edema": 0.0, "Fracture": 0.0}]
    value = finding_f1(references, references, ["Edema", "Fracture"]).value()
    assert value["macro_f1"] == 1
    assert value["example_f1"] == 1
    assert finding_f1(references, references, ["Edema", "Fracture"], undefined=0.0).value()["macro_f1"] == 0.5
    assert math.isnan(finding_table(references, references, ["Fracture"])["Fracture"]["f1"])
    assert all(map(math.isnan, finding_f1(references, references, ["Fracture"]).value().values()))


def test_table():
    predictions = [{"Edema": 1.0}, {"Edema": 1.0}, {"Edema": -1.0}, {"Edema": None}]
    references = [{"Edema": 1.0}, {"Edema": 0.0}, {"Edema": 1.0}, {"Edema": -1.0}]
    row = finding_table(predictions, references, ["Edema"])["Edema"]
    assert row == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "positives": 3, "predicted": 3, "counted": 4}
    assert finding_table(predictions, references, ["Edema"], "ignore")["Edema"]["counted"] == 2


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match="report 1 lack 'Edema'"):
        finding_f1([{"Edema": 1}, {}], [{"Edema": 1}] * 2, ["Edema"])
    with pytest.raises(ValueError, match="Edema of report 0 is 2"):
        finding_f1([{"Edema": 2}], [{"Edema": 1}], ["Edema"])
    with pytest.raises(ValueError, match="'maybe', expected one of"):
        finding_f1([{"Edema": 1}], [{"Edema": 1}], ["Edema"], "maybe")
    with pytest.raises(ValueError, match="labels of 1 reports are compared with those of 2"):
        finding_f1([{"Edema": 1}], [{"Edema": 1}] * 2, ["Edema"])


def test_icd_codes():
    predictions, references = [{"I50.9", "j90"}, set(), {"J18.9"}], [{"I509"}, {"R07.9"}, {"J18.1"}]
    value = icd_f1(predictions, references).value()
    classes = ["I509", "J90", "J189", "R079", "J181"]
    y_pred = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    y_true = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    assert len(classes) == y_pred.shape[1]
    assert value["micro_f1"] == pytest.approx(f1_score(y_true, y_pred, average="micro"))
    assert value["macro_f1"] == pytest.approx(f1_score(y_true, y_pred, average="macro"))
    assert value["example_f1"] == pytest.approx(f1_score(y_true, y_pred, average="samples"))
    assert icd_f1(predictions, references, characters=3).value()["micro_recall"] == pytest.approx(2 / 3)
    assert math.isnan(icd_f1([set()], [set()]).value()["micro_f1"])
    with pytest.raises(ValueError, match="ICD code is ' '"):
        icd_f1([{" "}], [{"I509"}])
