import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from common.apps.run.bundle import UsageError
from common.apps.text.score_labels import score_labels
from common.io.bad_input import BadInput
from common.metrics.delong import delong_test
from common.text.cxr_labeller import CHEXPERT_LABELS

GOLD = Path(__file__).parents[3].parent / "shared" / "data" / "reports" / "openi_gld_std14.csv"
NAMES = ("Edema", "Fracture", "Pleural Effusion")
IDS = [f"{number:06d}" for number in range(60)]


def write(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def cell(value):
    return "" if np.isnan(value) else f"{value:.1f}"


@pytest.fixture
def tables(tmp_path):
    """A reference with -1 and blanks, and probabilities with the columns and rows in another order."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0.0, 1.0, -1.0, np.nan], (60, 3), p=[0.5, 0.3, 0.1, 0.1])
    probabilities = np.clip(0.3 * (truth == 1) + 0.6 * rng.random((60, 3)), 0, 1)
    ref = write(
        tmp_path / "ref.csv",
        ("subject_id", "study_id", *NAMES),
        [(f"p{i // 2}", case, *map(cell, truth[i])) for i, case in enumerate(IDS)],
    )
    pred = write(
        tmp_path / "pred.csv",
        ("case", *NAMES[::-1], "Cardiomegaly"),
        [(IDS[i], *probabilities[i, ::-1].tolist(), 0.5) for i in rng.permutation(60)],
    )
    return pred, ref, probabilities, truth


@pytest.mark.parametrize(
    ("policy", "positive"), [("ignore", (1,)), ("zeros", (1,)), ("ones", (1, -1))], ids=["ignore", "zeros", "ones"]
)
def test_scores_by_name_and_id_under_each_policy(tables, policy, positive):
    pred, ref, probabilities, truth = tables
    result = score_labels(pred, ref, draws=20, uncertain=policy)
    assert (result["cases"], result["labels"], result["kind"]) == (60, list(NAMES), "probabilities")
    areas = []
    for c, name in enumerate(NAMES):
        kept = ~np.isnan(truth[:, c]) & ((truth[:, c] != -1) | (policy != "ignore"))
        areas.append(sk.roc_auc_score(np.isin(truth[kept, c], positive), probabilities[kept, c]))
        assert result["metrics"]["auroc"]["per_class"][name]["value"] == pytest.approx(areas[-1], abs=1e-9)
        assert result["support"][name]["masked"] == 60 - kept.sum()
    macro = result["metrics"]["auroc"]["macro"]
    assert macro["value"] == pytest.approx(np.mean(areas)) and macro["low"] < macro["value"] < macro["high"]
    assert result["cells"]["ref"] == {"uncertain": (truth == -1).sum(), "blank": np.isnan(truth).sum()}
    assert result["id_columns"] == {"ref": "study_id", "pred": "case"}
    assert result["columns_not_scored"] == {"ref": ["subject_id"], "pred": ["Cardiomegaly"]}


def test_blanks_of_the_reference_may_be_zeros(tables):
    pred, ref, probabilities, truth = tables
    result = score_labels(pred, ref, draws=5, uncertain="zeros", not_mentioned="zeros")
    assert result["metrics"]["auprc"]["micro"]["value"] == pytest.approx(
        sk.average_precision_score((truth == 1).ravel(), probabilities.ravel())
    )


def test_predicted_labels_have_uncertain_and_blank_too(tmp_path):
    # Cells of Edema in order: hit, false positive, uncertain (left out), blank (a miss), true negative.
    ref = write(tmp_path / "ref.csv", ("id", "Edema"), [("a", 1), ("b", 0), ("c", 1), ("d", 1), ("e", 0)])
    pred = write(tmp_path / "pred.csv", ("id", "Edema"), [("a", 1), ("b", "1.0"), ("c", "-1.0"), ("d", ""), ("e", 0)])
    result = score_labels(pred, ref, draws=5)
    assert result["kind"] == "labels" and result["cells"]["pred"] == {"uncertain": 1, "blank": 1}
    assert result["confusion"]["0.5"]["Edema"] == {"tp": 1, "fp": 1, "fn": 1, "tn": 1}
    assert result["support"]["Edema"] == {"positive": 2, "negative": 2, "masked": 1}
    ones = score_labels(pred, ref, draws=5, uncertain="ones")["confusion"]["0.5"]["Edema"]
    assert ones == {"tp": 2, "fp": 1, "fn": 1, "tn": 1}
    zeros = score_labels(pred, ref, draws=5, uncertain="zeros")["confusion"]["0.5"]["Edema"]
    assert zeros == {"tp": 1, "fp": 1, "fn": 2, "tn": 1}
    assert "thresholds_for_other_cases" not in result


def test_result_is_json_without_nan_and_is_written(tables, tmp_path):
    pred, _, _, _ = tables
    ref = write(tmp_path / "zero.csv", ("id", "Edema", "Fracture"), [(case, 0, i % 2) for i, case in enumerate(IDS)])
    result = score_labels(pred, ref, tmp_path / "new" / "scores.json", draws=10)
    text = (tmp_path / "new" / "scores.json").read_text()
    assert "NaN" not in text and json.loads(text) == result
    auroc = result["metrics"]["auroc"]
    assert auroc["per_class"]["Edema"]["value"] is None and "negative" in auroc["undefined"]["Edema"]
    assert auroc["macro"]["value"] == auroc["per_class"]["Fracture"]["value"] and auroc["macro"]["classes"] == 1


def test_thresholds_come_from_other_cases(tables, tmp_path):
    pred, ref, probabilities, truth = tables

    def part(path, name, cases):
        with path.open() as file:
            header, *rows = csv.reader(file)
        return write(tmp_path / name, header, [row for row in rows if set(row) & set(cases)])

    validation = part(pred, "vp.csv", IDS[:30]), part(ref, "vr.csv", IDS[:30])
    test = part(pred, "tp.csv", IDS[30:]), part(ref, "tr.csv", IDS[30:])
    chosen = score_labels(*validation, tmp_path / "validation.json", draws=5)["thresholds_for_other_cases"]
    result = score_labels(*test, thresholds=tmp_path / "validation.json", draws=5)
    assert result["thresholds"]["chosen"] == chosen
    kept = np.isin(truth[30:, 0], (0, 1))
    expected = sk.f1_score(truth[30:][kept, 0], probabilities[30:][kept, 0] >= chosen["Edema"])
    assert result["metrics"]["f1@chosen"]["per_class"]["Edema"]["value"] == pytest.approx(expected)
    assert score_labels(*test, thresholds=chosen, draws=5)["metrics"] == result["metrics"]
    with pytest.raises(BadInput, match="other cases"):
        score_labels(*validation, thresholds=tmp_path / "validation.json", draws=5)


def test_two_systems_are_compared_on_the_same_cells(tables, tmp_path):
    pred, ref, probabilities, truth = tables
    worse = np.random.default_rng(1).random((60, 3))
    pred2 = write(tmp_path / "worse.csv", ("id", *NAMES), [(case, *worse[i]) for i, case in enumerate(IDS)])
    result = score_labels(pred, ref, pred2=pred2, draws=50)
    kept = np.isin(truth[:, 1], (0, 1))
    expected = delong_test(truth[kept, 1], probabilities[kept, 1], worse[kept, 1])
    assert result["delong"]["per_class"]["Fracture"]["p"] == pytest.approx(expected.p)
    difference = result["difference"]["auroc"]["per_class"]["Fracture"]
    assert difference["value"] == pytest.approx(expected.difference)
    assert difference["low"] == pytest.approx(expected.low, abs=0.05)
    assert result["difference"]["auroc"]["macro"]["value"] == pytest.approx(
        result["metrics"]["auroc"]["macro"]["value"] - result["pred2"]["metrics"]["auroc"]["macro"]["value"]
    )


def test_patients_are_resampled_whole(tables):
    pred, ref, _, _ = tables
    by_case = score_labels(pred, ref, draws=30)["metrics"]["brier"]["micro"]
    by_patient = score_labels(pred, ref, draws=30, patient_column="subject_id")["metrics"]["brier"]["micro"]
    assert by_case["value"] == by_patient["value"] and by_case["low"] != by_patient["low"]


def test_the_test_of_two_systems_sums_over_patients(tables, tmp_path):
    """A bug: whole patients were drawn for the intervals, and their cases taken for independent in DeLong's test."""
    pred, ref, probabilities, truth = tables
    worse = np.random.default_rng(3).random(probabilities.shape)
    pred2 = write(tmp_path / "worse.csv", ("id", *NAMES), [(case, *worse[i]) for i, case in enumerate(IDS)])
    kept, patients = np.isin(truth[:, 1], (0, 1)), np.arange(60) // 2
    found = score_labels(pred, ref, pred2=pred2, draws=5, patient_column="subject_id")["delong"]["per_class"]
    expected = delong_test(truth[kept, 1], probabilities[kept, 1], worse[kept, 1], groups=patients[kept])
    assert found["Fracture"]["variance"] == pytest.approx(expected.variance)
    alone = score_labels(pred, ref, pred2=pred2, draws=5)["delong"]["per_class"]
    assert alone["Fracture"]["variance"] != pytest.approx(expected.variance, rel=1e-3)


def test_ids_with_and_without_nii_gz_are_one(tmp_path):
    names = ("Medical material", "Lung nodule")
    ref = write(tmp_path / "ref.csv", ("VolumeName", *names), [("valid_1_a_1.nii.gz", 1, 0), ("valid_2_a_1", 0, 1)])
    pred = write(tmp_path / "pred.csv", ("case", *names), [("valid_1_a_1", 0.9, 0.2), ("valid_2_a_1.nii.gz", 0.1, 0.7)])
    assert score_labels(pred, ref, draws=2)["metrics"]["auroc"]["macro"]["value"] == 1


def test_labels_beyond_the_two_vocabularies(tmp_path):
    ref = write(tmp_path / "ref.csv", ("filename", "split", "Rib notch", "COVID"), [("a", "t", 1, 0), ("b", "t", 0, 1)])
    pred = write(tmp_path / "pred.csv", ("filename", "COVID", "Rib notch"), [("b", 0.8, 0.3), ("a", 0.1, 0.7)])
    assert score_labels(pred, ref, draws=2)["labels"] == ["Rib notch", "COVID"]
    assert score_labels(pred, ref, draws=2, labels="COVID")["labels"] == ["COVID"]


def test_three_label_orders_score_alike(tmp_path):
    rng = np.random.default_rng(0)
    orders = [CHEXPERT_LABELS, CHEXPERT_LABELS[::-1], tuple(rng.permutation(CHEXPERT_LABELS))]
    truth = {name: rng.integers(0, 2, 20) for name in CHEXPERT_LABELS}
    said = {name: rng.random(20) for name in CHEXPERT_LABELS}
    scores = []
    for k, order in enumerate(orders):
        rows = [(case, *(truth[name][i] for name in CHEXPERT_LABELS)) for i, case in enumerate(IDS[:20])]
        ref = write(tmp_path / f"ref{k}.csv", ("id", *CHEXPERT_LABELS), rows)
        rows = [(case, *(said[name][i] for name in order)) for i, case in enumerate(IDS[:20])]
        pred = write(tmp_path / f"pred{k}.csv", ("id", *order), rows)
        scores.append(score_labels(pred, ref, draws=5)["metrics"])
    assert scores[0] == scores[1] == scores[2]


GOOD = (("id", "Edema"), [("a", 1), ("b", 0)])


@pytest.mark.parametrize(
    ("pred", "ref", "words"),
    [
        ((("id", "Edema"), [("a", 0.5)]), GOOD, "lacks 1 ids, such as 'b'"),
        ((("id", "Edema"), [("a", 0.5), ("b", 0.4), ("c", 0.4)]), GOOD, "adds 1 ids, such as 'c'"),
        ((("id", "Edema"), [("a", 0.5), ("b", 0.4), ("a", 0.4)]), GOOD, "'a' again"),
        ((("id", "Fracture"), [("a", 0.5), ("b", 0.4)]), GOOD, "has no column 'Edema'"),
        ((("Edema", "name"), [(0.5, "a"), (0.4, "b")]), GOOD, "names the case"),
        ((("id", "Edema"), [("a", 0.5), ("b", 1.4)]), GOOD, "Edema = '1.4'"),
        ((("id", "Edema"), [("a", 0.5), ("b", "nan")]), GOOD, "'nan'"),
        ((("id", "Edema"), [("a", 0.5), ("b", "")]), GOOD, "no probability of Edema for 'b'"),
        ((("id", "Edema"), [("a", 0.5), ("b", -1)]), GOOD, "no probability of Edema for 'b'"),
        ((("id", "Edema"), [("a", 0.5), ("", 0.4)]), GOOD, "expected an id"),
        ((("id", "Edema"), []), GOOD, "no rows"),
        ((("id", "Edema"), [("a", 0.5), ("b",)]), GOOD, "1 fields"),
        (GOOD, (("id", "Edema"), [("a", 0.7), ("b", 0)]), "Edema = '0.7'"),
        (GOOD, (("id", "Edema"), [("a", "yes"), ("b", 0)]), "'yes'"),
        (GOOD, (("id", "subject_id"), [("a", 1), ("b", 0)]), "has no label"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path, pred, ref, words):
    files = write(tmp_path / "pred.csv", *pred), write(tmp_path / "ref.csv", *ref)
    with pytest.raises(BadInput, match=words) as caught:
        score_labels(*files)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("[0.5]", "holds a list"),
        ('{"Fracture": 0.5}', "no threshold for Edema"),
        ('{"Edema": 5}', "from 0 to 1"),
        ('{"Edema": "0.5"}', "from 0 to 1"),
    ],
)
def test_bad_thresholds_are_refused(tmp_path, content, words):
    files = write(tmp_path / "pred.csv", *GOOD), write(tmp_path / "ref.csv", *GOOD)
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(BadInput, match=words):
        score_labels(*files, thresholds=tmp_path / "t.json")


@pytest.mark.parametrize(
    "options", [{"uncertain": "maybe"}, {"not_mentioned": "ones"}, {"draws": 0}, {"out": "pred.csv"}]
)
def test_wrong_usage_is_refused(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    write(Path("pred.csv"), *GOOD)
    with pytest.raises(UsageError, match="expected"):
        score_labels("pred.csv", write(Path("ref.csv"), *GOOD), **options)


def test_human_labels_against_themselves():
    if not GOLD.is_file():
        pytest.skip("the gold labels of Open-i are not here")
    with GOLD.open() as file:
        names = next(csv.reader(file))[1:]
    result = score_labels(GOLD, GOLD, draws=20, labels=names)
    assert result["cases"] > 2000 and len(result["labels"]) == 15
    assert result["metrics"]["f1@0.5"]["macro"]["value"] == result["metrics"]["auroc"]["micro"]["value"] == 1
