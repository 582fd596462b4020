import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.prediction_table import write_predictions, write_truth
from common.evaluation.compare_models import compare_models, modality_benefit
from common.evaluation.comparison_tables import holm, modalities_of
from common.evaluation.error_cases import age_group, case_details
from common.io.bad_input import BadInput
from common.metrics.delong import delong_test
from common.metrics.multilabel import multilabel_comparison
from common.visualize.figures import picture_caption

LABELS = ("Atelectasis", "Cardiomegaly", "Edema", "Fracture")
SEPARATION = {"vision": 1.0, "text": 0.6, "clinical": 0.0, "all": 1.5}
"""Distance of the means of positive and negative cases in standard deviations; AUROC is its Phi(d / sqrt 2)."""


def write_split(folder, split, n, seed, *, dropped=True, blank=None, positives=(0.3, 0.3, 0.3, 0.0)):
    """Binormal predictions of every model, two cases per patient; Fracture never occurs."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < positives).astype(float)
    cases = [f"{split}{i:05d}" for i in range(n)]
    patients = [f"{split}-p{i // 2}" for i in range(n)]
    models = SEPARATION | ({"all_without_vision": 0.5, "all_without_text": 1.4} if dropped else {})
    for model, distance in models.items():
        write_predictions(
            folder / f"{model}_{split}.csv",
            cases,
            patients,
            LABELS,
            norm.cdf(rng.normal(size=(n, 4)) + distance * labels - 1),
        )
    if blank is not None:
        labels[blank] = np.nan
    write_truth(folder / f"labels_{split}.csv", cases, patients, LABELS, labels)
    return cases, labels


BUNDLE = Path(__file__).parents[2] / "bundles" / "mdfnet_cxr"
DOCUMENT = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())["evaluation"]["document"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A comparison, its folder, its cases and their labels."""
    folder = tmp_path_factory.mktemp("study")
    predictions = folder / "predictions"
    write_split(predictions, "val", 600, 1, dropped=False, positives=(0.3, 0.3, 0.0, 0.0))
    cases, labels = write_split(predictions, "test", 3000, 2, blank=(slice(0, 200), 1))
    Image.fromarray((np.random.default_rng(0).random((80, 70)) * 65535).astype(np.uint16)).save(folder / "x.png")
    known = [
        {"case": case, "image": str(folder / "x.png") if i % 2 else None, "note": f"Note {i} <b>&",
         "secret": "Jane Doe", "sex": "FM"[i % 2] if i % 5 else None, "age": 15.0 + i % 80}
        for i, case in enumerate(cases)
    ]  # fmt: skip
    result = compare_models(
        predictions, predictions / "labels_test.csv", folder / "out", draws=200, cases=known, seed=3, document=DOCUMENT
    )
    return folder / "out", result, cases, labels


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_aurocs_are_those_of_the_closed_form_and_lie_in_their_intervals(study):
    out, result, *_ = study
    assert [row["model"] for row in result["models"]] == ["vision", "text", "clinical", "all"]
    for row, mean in zip(rows(out / "results_summary.csv"), rows(out / "metrics_mean.csv"), strict=True):
        expected = norm.cdf(SEPARATION[row["model"]] / math.sqrt(2))
        for label in LABELS[:3]:
            assert float(row[f"auroc_{label}"]) == pytest.approx(expected, abs=0.03)
        assert float(row["mean_auroc"]) == pytest.approx(expected, abs=0.015)
        assert float(mean["auroc_low"]) < float(row["mean_auroc"]) < float(mean["auroc_high"])
        assert mean["labels"] == "3" and row["n"] == "3000"
    assert rows(out / "results_summary.csv")[3]["modalities"] == "vision+text+clinical"


def test_a_label_without_positives_is_named_and_in_no_mean(study):
    out, result, *_ = study
    assert result["undefined"] == {"Fracture": "all 3000 labelled cases are negative"}
    for row in rows(out / "results_summary.csv"):
        areas = [float(row[f"auroc_{label}"]) for label in LABELS[:3]]
        assert row["auroc_Fracture"] == ""
        assert float(row["mean_auroc"]) == pytest.approx(np.mean(areas), abs=1e-5)
        assert float(row["min_auroc"]) == pytest.approx(min(areas))
    assert "No AUROC for Fracture: all 3000 labelled cases are negative" in (out / "index.html").read_text()
    test = next(row for row in rows(out / "delong.csv") if row["label"] == "Fracture")
    assert test["undefined"].startswith("0 positive and 3000 negative cases") and test["p"] == ""


def cells(page: str, table: str, first: str) -> list[str]:
    """The row of a table of the page that begins with a text; the table is named by its caption."""
    part = page[page.index(f"<caption>{table}") :]
    row = re.search(rf"<tr><td>{first}</td>.*?</tr>", part[: part.index("</table>")]).group()
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


@pytest.mark.parametrize(("value", "kind"), [(0, "negative"), (1, "positive")])
def test_the_page_reports_a_label_of_one_class_and_leaves_it_out(tmp_path, value, kind):
    _, labels = write_split(tmp_path, "test", 80, 4, positives=(0.4, 0.4, 0.4, float(value)))
    assert set(labels[:, 3]) == {value}
    result = compare_models(tmp_path, tmp_path / "labels_test.csv", tmp_path / "out", None, draws=20)
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"No AUROC for Fracture: all 80 labelled cases are {kind}; it is left out of every mean." in page
    support = f"{80 * value} / {80 - 80 * value}"
    areas = cells(page, "AUROC of every label", "Fracture")
    assert areas == ["Fracture", support, *["-"] * (len(SEPARATION) + 1)]  # each model, and the interval
    assert cells(page, "AUROC of every label", "Edema")[2] != "-"
    assert set(cells(page, "AUROC minus that of", "Fracture")[1:]) == {"-"}
    mean = next(row for row in result["models"] if row["model"] == "all")
    known = [float(mean[f"auroc_{label}"]) for label in LABELS[:3]]
    assert mean["mean_auroc"] == pytest.approx(np.mean(known), abs=1e-6)
    assert cells(page, "Means over the labels", "all")[1] == f"{np.mean(known):.3f}"


def test_blanks_count_nowhere(study):
    out, _, _, labels = study
    row = next(row for row in rows(out / "metrics.csv") if (row["model"], row["label"]) == ("all", "Cardiomegaly"))
    assert (row["masked"], int(row["positive"])) == ("200", int(np.nansum(labels[:, 1])))


def test_thresholds_come_from_validation_and_one_without_positives_there_has_none(study):
    out, result, *_ = study
    chosen = json.loads((out / "thresholds.json").read_text())["all"]
    assert list(chosen) == ["Atelectasis", "Cardiomegaly"] and result["thresholds"]["all"] == chosen
    table = {row["label"]: row for row in rows(out / "metrics.csv") if row["model"] == "all"}
    assert float(table["Atelectasis"]["threshold"]) == pytest.approx(chosen["Atelectasis"], rel=1e-5)
    assert table["Edema"]["f1@chosen"] == "" and table["Edema"]["undefined"] == "no threshold was chosen for it"
    assert float(table["Edema"]["f1@0.5"]) > 0
    # best F1 at this prevalence, from the closed form of the two normal distributions
    t = np.linspace(-3, 4, 2000)
    recall, false = norm.sf(t, 1.5), norm.sf(t, 0)
    best = (2 * 0.3 * recall / (0.3 * recall + 0.7 * false + 0.3)).max()
    assert float(table["Atelectasis"]["f1@chosen"]) == pytest.approx(best, abs=0.04)
    assert "No threshold for Edema" in (out / "index.html").read_text()


def test_models_are_tested_against_the_reference_in_pairs(study):
    out, result, *_ = study
    tests = {(row["model"], row["label"]): row for row in rows(out / "delong.csv")}
    assert {row[0] for row in tests} == {"vision", "text", "clinical"}
    for model in ("vision", "text", "clinical"):
        expected = norm.cdf(SEPARATION[model] / math.sqrt(2)) - norm.cdf(1.5 / math.sqrt(2))
        difference = result["differences"][model]
        assert difference["low"] < expected < difference["high"] < 0
        row = tests[model, "Edema"]
        assert float(row["low"]) < expected < float(row["high"])
        assert float(row["p"]) <= float(row["p_holm"]) < 1e-6
    assert "all" not in result["differences"]


def test_what_is_lost_without_a_modality(study):
    out, result, *_ = study
    found = {row["without"]: row for row in result["contribution"]}
    assert list(found) == ["vision", "text"]
    for modality, left in (("vision", 0.5), ("text", 1.4)):
        expected = norm.cdf(left / math.sqrt(2)) - norm.cdf(1.5 / math.sqrt(2))
        assert found[modality]["low"] < expected < found[modality]["high"]
    assert (out / "pictures" / "contribution_all.png").is_file()
    assert all("without" not in row["model"] for row in result["models"])


def test_the_worst_errors_are_shown_by_case_alone(study):
    out, _, cases, labels = study
    errors = rows(out / "errors.csv")
    kinds = {(row["label"], row["kind"]) for row in errors}
    assert kinds == {(label, f"false {side}") for label in LABELS[:2] for side in ("positive", "negative")}
    for row in errors:
        truth = labels[cases.index(row["case"]), LABELS.index(row["label"])]
        positive = row["kind"] == "false negative"
        assert truth == positive and (float(row["probability"]) < float(row["threshold"])) == positive
    page = (out / "index.html").read_text()
    assert "Jane Doe" not in page and "-p1" not in page and "x.png" not in page and "<b>&" not in page
    index = cases.index(errors[0]["case"])
    assert f"Note: Note {index} &lt;b&gt;&amp;" in page and f"Case {errors[0]['case']}" in page


def test_groups_are_scored_on_the_labels_that_all_of_them_have(study):
    out, *_ = study
    table = {(row["column"], row["group"]): row for row in rows(out / "subgroups.csv")}
    groups = [group for column, group in table if column == "age"]
    assert groups == ["under 18", "18 to 39", "40 to 59", "60 to 79", "80 and over"]
    assert table["sex", "unknown"]["n"] == "600" and table["sex", "unknown"]["mean_auroc"] == ""
    assert table["sex", "F"]["labels"] == "3"
    assert float(table["sex", "F"]["mean_auroc"]) == pytest.approx(norm.cdf(1.5 / math.sqrt(2)), abs=0.03)
    assert ("view", "PA") not in table
    assert [age_group(age) for age in (17.9, 18, 80)] == ["under 18", "18 to 39", "80 and over"]


def test_the_page_is_one_file_and_quotes_the_document(study):
    out, *_ = study
    page = (out / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert "are from the document; they were not found in the cited paper" in page
    for mean, areas in ((row["mean"], row["auroc"]) for row in DOCUMENT["rows"].values()):
        assert f"{mean:.3f}" in page and all(f"{area:.3f}" in page for area in areas)
    names = sorted(path.stem for path in (out / "pictures").glob("*.png"))
    assert names == ["calibration", "confusion", "contribution_all", "mean_auroc", "precision_recall", "roc"]
    assert all(len(picture_caption(path)) > 40 for path in (out / "pictures").glob("*.png"))
    assert not list(out.glob(".*"))


def test_the_same_call_gives_the_same_tables(study, tmp_path):
    out, *_ = study
    predictions = out.parent / "predictions"
    compare_models(predictions, predictions / "labels_test.csv", tmp_path, draws=200, seed=3)
    for name in ("results_summary", "metrics", "metrics_mean", "delong", "contribution"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (out / f"{name}.csv").read_bytes()


def test_files_may_be_given_by_name_and_thresholds_left_out(study, tmp_path):
    predictions = study[0].parent / "predictions"
    (tmp_path / "subgroups.csv").write_text("of an earlier comparison\n")
    files = {"mine": predictions / "vision_test.csv", "base": predictions / "text_test.csv"}
    result = compare_models(
        files, predictions / "labels_test.csv", tmp_path, thresholds_from=None, draws=20, reference="base"
    )
    assert [row["model"] for row in result["models"]] == ["base", "mine"] and result["thresholds"] is None
    assert rows(tmp_path / "results_summary.csv")[0]["modalities"] == ""
    assert not (tmp_path / "thresholds.json").exists() and not (tmp_path / "subgroups.csv").exists()
    assert "f1@chosen" not in rows(tmp_path / "metrics.csv")[0]


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Six alike images of each of 30 patients: probabilities of three models, labels and patients."""
    folder = tmp_path_factory.mktemp("alike")
    rng, own = np.random.default_rng(0), np.arange(60).reshape(30, 2) // 3 % 2
    truth, patients = np.repeat(own, 6, axis=0).astype(float), [f"p{i // 6}" for i in range(180)]
    said = {}
    for model in ("all", "text", "all_without_vision"):
        of_patient = np.repeat(0.6 * rng.random((30, 2)) + 0.2 * own, 6, axis=0)
        said[model] = (of_patient + 0.02 * rng.random((180, 2))).round(6)
        write_predictions(
            folder / f"{model}_test.csv", [f"c{i}" for i in range(180)], patients, LABELS[:2], said[model]
        )
    write_truth(folder / "labels_test.csv", [f"c{i}" for i in range(180)], patients, LABELS[:2], truth)
    options = {"thresholds_from": None, "draws": 100, "seed": 4}
    result = compare_models(folder, folder / "labels_test.csv", folder / "out", **options)
    return folder / "out", result, said, truth, patients


def test_whole_patients_are_drawn(alike):
    out, result, said, truth, patients = alike

    def intervals(groups):
        scores, less = multilabel_comparison(said, truth, LABELS[:2], "all", draws=100, seed=4, groups=groups)
        return [one.scores["auroc"].macro for one in (scores["all"], less["text"], less["all_without_vision"])]

    mean = next(row for row in rows(out / "metrics_mean.csv") if row["model"] == "all")
    (left,) = result["contribution"]
    found = [
        (float(mean["auroc_low"]), float(mean["auroc_high"])),
        (result["differences"]["text"]["low"], result["differences"]["text"]["high"]),
        (left["low"], left["high"]),
    ]
    for ends, by_patient, by_image in zip(found, intervals(patients), intervals(None), strict=True):
        assert ends == pytest.approx((by_patient.low, by_patient.high), rel=1e-5)
        assert ends[1] - ends[0] > 1.5 * (by_image.high - by_image.low)


def test_the_test_of_each_label_takes_patients(alike):
    """A bug: patients were drawn whole for the intervals, and their images taken for independent in DeLong's test."""
    out, result, said, truth, patients = alike
    found = result["delong"]["text"][LABELS[0]]
    expected = delong_test(truth[:, 0], said["text"][:, 0], said["all"][:, 0], groups=patients)
    assert (found["variance"], found["p"]) == pytest.approx((expected.variance, expected.p))
    assert expected.variance > 3 * delong_test(truth[:, 0], said["text"][:, 0], said["all"][:, 0]).variance
    page = (out / "index.html").read_text()
    assert "images of one patient are not taken for independent (Obuchowski 1997)" in page


def test_other_cases_are_one_sentence(tmp_path):
    write_split(tmp_path, "test", 40, 0, dropped=False)
    lines = (tmp_path / "vision_test.csv").read_text().splitlines()
    (tmp_path / "vision_test.csv").write_text("\n".join([lines[0], *lines[3:]]) + "\n")
    with pytest.raises(BadInput) as error:
        compare_models(tmp_path, tmp_path / "labels_test.csv", tmp_path / "out", thresholds_from=None, draws=5)
    assert "vision_test.csv: lacks 2 cases such as 'test00000', expected the cases of" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_refused(tmp_path):
    write_split(tmp_path, "test", 40, 0, dropped=False)
    write_split(tmp_path, "val", 40, 0, dropped=False)
    truth = tmp_path / "labels_test.csv"

    def refused(words, kind=BadInput, labels=truth, **options):
        with pytest.raises(kind, match=words):
            compare_models(tmp_path, labels, tmp_path / "out", **({"draws": 5} | options))

    refused("holds no model 'both', expected one of all, clinical, text, vision", reference="both")
    refused("chosen on 'test', which is scored", ValueError, thresholds_from="test")
    refused("0 draws", ValueError, draws=0)
    refused("names no split", ValueError, labels=tmp_path / "truth.csv")
    (tmp_path / "text_val.csv").unlink()
    refused("text_val.csv: does not exist, expected the predictions of text on val")
    patients = [f"test-p{i}" for i in range(40)]
    write_truth(tmp_path / "labels_val.csv", [f"v{i}" for i in range(40)], patients, LABELS, np.zeros((40, 4)))
    refused("shares 20 patients with")
    (tmp_path / "best_without_text_test.csv").write_text((tmp_path / "all_test.csv").read_text())
    refused("belongs to a model 'best' without predictions", thresholds_from=None)


def test_a_name_says_its_modalities():
    assert modalities_of("all_stage2") == modalities_of("vision_text_clinical") == ("vision", "text", "clinical")
    assert modalities_of("vision_text_stage2") == ("vision", "text") and modalities_of("text") == ("text",)
    assert modalities_of("all_without_text") == ("vision", "text", "clinical")
    assert modalities_of("visionary") == modalities_of("allowed") == modalities_of("resnet") == ()


def test_holm_is_that_of_the_textbook():
    # Holm (1979): ordered p times 4, 3, 2, 1, never below the one before
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, math.nan, 0.02]), [0.9, math.nan, 0.04])
    assert holm([]) == []


def test_the_benefit_of_all_modalities_has_an_interval_over_the_seeds():
    def seed(values):
        return [
            {"model": m, "mean_auroc": v} for m, v in zip(("vision", "text", "clinical", "all"), values, strict=True)
        ]

    found = modality_benefit([seed((0.7, 0.6, 0.5, 0.8)), seed((0.7, 0.75, 0.5, 0.79)), seed((0.7, 0.6, 0.5, 0.77))])
    assert found["single"] == ["vision", "text", "vision"]
    np.testing.assert_allclose(found["differences"], [0.1, 0.04, 0.07])
    # 4.3027 is Student's t of two degrees of freedom at 97.5 %
    half = 4.3027 * 0.03 / math.sqrt(3)
    assert (found["low"], found["high"]) == (pytest.approx(0.07 - half, abs=1e-5), pytest.approx(0.07 + half, abs=1e-5))
    assert "low" not in modality_benefit([seed((0.7, 0.6, 0.5, 0.8))])
    with pytest.raises(ValueError, match="Summary 0 has no mean_auroc of 'text'"):
        modality_benefit([seed((0.7, None, 0.5, 0.8))])
    with pytest.raises(ValueError, match="no results summary"):
        modality_benefit([])


def test_details_of_prepared_cases(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "case,patient,split,image,study,view,Edema\n0001,p1,test,x.png,s1,PA,1.0\n0002,p2,train,,s2,AP,0.0\n"
    )
    (tmp_path / "notes.csv").write_text("study,note\ns1,cough\ns2,\n")
    values = {"age": "71", "sex": "0"}
    lines = [["study", *CLINICAL_COLUMNS], ["s1", *(values.get(name, "") for name in CLINICAL_COLUMNS)]]
    (tmp_path / "clinical.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    (one,) = case_details(tmp_path, "test")
    assert one == {
        "case": "0001", "image": str(tmp_path / "x.png"), "note": "cough", "view": "PA", "age": 71.0, "sex": "F",
    }  # fmt: skip
    assert case_details(tmp_path)[1] | {"case": ""} == {
        "case": "", "image": None, "note": None, "view": "AP", "age": None, "sex": None,
    }  # fmt: skip
