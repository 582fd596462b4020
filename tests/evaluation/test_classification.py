"""`predict` and `evaluate` of a classifier, with tiny weights that were never trained."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.apps.predict import predict
from common.apps.run.evaluate import evaluate
from common.cli.main import main
from common.data.cxr.study_files import saved_scaler, saved_tokenizer
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.modalities import MODALITIES
from common.data.prediction_table import align_predictions, read_predictions, read_truth
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text
from common.metrics.multilabel import choose_thresholds
from common.networks.study_encoders import saved_network
from common.networks.weights import MissingWeights
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.transforms.xray_io import xray_tensor
from tests.clients.packed_mdfnet import BUNDLE, SIZE, write_prepared, write_weights, write_xray

NOTE = "Cough and fever since Monday."
VALUES = {"age": 61, "o2sat": 93, "sbp": 140}
QUICK = {"pictures": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"), data)


@pytest.fixture
def inputs(tmp_path):
    """An X-ray, a note and a table of values of one case."""
    note, values = tmp_path / "p.1.txt", tmp_path / "p.1.csv"
    note.write_text(NOTE)
    values.write_text(csv_text(["case", *VALUES], [{"case": "p.1", **VALUES}]))
    return {"vision": write_xray(tmp_path / "p.1.png"), "text": note, "clinical": values}


@torch.no_grad()
def direct(weights, inputs):
    """What the network says of the inputs that are given, without bundle, data set or batch."""
    network, given = saved_network(str(weights)).eval(), {}
    if "vision" in inputs:
        given["image"] = xray_tensor(inputs["vision"], SIZE, network.vision.mean, network.vision.std)[None]
    if "text" in inputs:
        given["note"] = saved_tokenizer(str(weights), 64)([NOTE])
    if "clinical" in inputs:
        raw = np.full((1, len(CLINICAL_COLUMNS)), np.nan)
        for name, value in VALUES.items():
            raw[0, CLINICAL_COLUMNS.index(name)] = value
        given["clinical"] = torch.from_numpy(saved_scaler(str(weights)).transform(raw))
    p = network(**given)[0].sigmoid().tolist()
    return dict(zip(CHEXPERT_LABELS, p, strict=True))


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


SUBSETS = [("vision",), ("text",), ("clinical",), ("vision", "text"), ("vision", "clinical"), ("text", "clinical"),
           MODALITIES]  # fmt: skip


@pytest.mark.parametrize("subset", SUBSETS, ids="_".join)
def test_one_case_with_any_subset_of_its_inputs(weights, inputs, tmp_path, subset):
    """The first input is the case; a note and values may stand beside it."""
    chosen = {name: inputs[name] for name in subset}
    first, *others = subset
    names = {"text": "note", "clinical": "clinical"}
    settings = QUICK | {names[name]: str(chosen[name]) for name in others}
    result = predict(BUNDLE, chosen[first], tmp_path / "out", weights, settings)
    assert (result["cases"], result["excluded"]) == (1, [])
    content = json.loads((tmp_path / "out" / "p.1.json").read_text())
    assert content["case"] == "p.1" and content["modalities"] == list(subset)
    assert content["labels"] == pytest.approx(direct(weights, chosen), abs=2e-5)
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert list(row) == ["case", *CHEXPERT_LABELS] and row["case"] == "p.1"
    assert [float(row[label]) for label in CHEXPERT_LABELS] == pytest.approx(list(content["labels"].values()))


def test_the_note_itself_and_a_file_of_it_are_the_same(weights, inputs, tmp_path):
    for name, note in (("text", NOTE), ("file", str(inputs["text"]))):
        predict(BUNDLE, inputs["vision"], tmp_path / name, weights, QUICK | {"note": note})
    predict(BUNDLE, inputs["vision"], tmp_path / "none", weights, QUICK)
    text, file, none = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("text", "file", "none"))
    assert text == file != none


def test_a_picture_of_a_case(weights, inputs, tmp_path):
    result = predict(BUNDLE, inputs["vision"], tmp_path / "out", weights)
    assert [Path(path).name for path in result["outputs"]] == ["predictions.csv", "p.1.json", "p.1.png"]
    assert (tmp_path / "out" / "p.1.png").read_bytes().startswith(b"\x89PNG")
    result = predict(BUNDLE, inputs["vision"], tmp_path / "note", weights, {"note": NOTE})
    assert [Path(path).name for path in result["outputs"]][1:] == ["p.1.json", "p.1.png", "p.1_note.html"]
    page = (tmp_path / "note" / "p.1_note.html").read_text()
    assert "Attention of the first token" in page and re.findall(r'title="[\d.]+">(\w+)</span>', page)[0] == "Cough"


def test_a_folder_with_a_broken_image(weights, tmp_path, capsys):
    for i in range(3):
        write_xray(tmp_path / "in" / f"x{i}.png", seed=i)
    (tmp_path / "in" / "x1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "in" / "x3.jpg").write_bytes(b"")
    words = [str(BUNDLE), "--input", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    assert main(["predict", *words, "--ckpt_dir", str(weights), "--pictures", "false", "--batch_size", "1"]) == 0
    assert [row["case"] for row in rows(tmp_path / "out" / "predictions.csv")] == ["x0", "x2"]
    excluded = rows(tmp_path / "out" / "excluded.csv")
    assert [Path(row["path"]).name for row in excluded] == ["x1.png", "x3.jpg"] and all(
        row["reason"] for row in excluded
    )
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["x0.json", "x2.json"]
    # each case is what it is alone
    for i, row in ((0, 0), (2, 1)):
        predict(BUNDLE, tmp_path / "in" / f"x{i}.png", tmp_path / f"alone{i}", weights, QUICK)
        (alone,), found = rows(tmp_path / f"alone{i}" / "predictions.csv"), rows(tmp_path / "out" / "predictions.csv")
        assert [float(v) for v in list(alone.values())[1:]] == pytest.approx(
            [float(v) for v in list(found[row].values())[1:]], abs=1e-5
        )


def test_a_folder_of_nothing_usable(weights, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"")
    with pytest.raises(BadInput, match="x.png: is empty"):
        predict(BUNDLE, tmp_path / "in", tmp_path / "out", weights, QUICK)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def of_text(data, tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("of_text"), data, ["text"])


def test_a_case_without_any_input_of_the_network_is_excluded(data, of_text, inputs, tmp_path):
    """A bug: a network that reads notes alone gave probabilities for X-rays, from what it learned for no note."""
    with pytest.raises(BadInput, match="p.1.png: has no input of this network, expected a note"):
        predict(BUNDLE, inputs["vision"], tmp_path / "out", of_text, QUICK)
    words = ["predict", str(BUNDLE), "--input", str(inputs["vision"]), "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--ckpt_dir", str(of_text)]) == 1 and not (tmp_path / "out").exists()
    result = predict(BUNDLE, data, tmp_path / "out", of_text, QUICK | {"split": "test"})
    left_out = {f"test{i:02d}" for i in range(8) if i % 3 == 2}  # their notes are blank
    assert {Path(row["path"]).stem for row in rows(tmp_path / "out" / "excluded.csv")} == left_out
    assert {row["reason"] for row in result["excluded"]} == {"has no input of this network, expected a note"}
    assert result["cases"] == 6 and not left_out & {row["case"] for row in rows(tmp_path / "out" / "predictions.csv")}
    assert all(json.loads(path.read_text())["modalities"] == ["text"] for path in (tmp_path / "out").glob("test*.json"))


def test_an_xray_that_is_not_read_need_not_be_one(of_text, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    assert predict(BUNDLE, tmp_path / "x.png", tmp_path / "out", of_text, QUICK | {"note": NOTE})["cases"] == 1


def change_manifest(data, folder, **changed):
    """A copy of prepared data, with other values of columns in the first rows of the test split, or without columns."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("files"))
    table = rows(data / "manifest.csv")
    of_test = [row for row in table if row["split"] == "test"]
    for name, values in changed.items():
        for row in table if values is None else ():
            del row[name]
        for row, value in zip(of_test, values or (), strict=False):
            row[name] = value
    (folder / "manifest.csv").write_text(csv_text(list(table[0]), table))
    return folder


def test_other_views_are_counted_and_the_weights_say_which_are_theirs(data, weights, tmp_path, caplog):
    """A bug: a network that was trained on other views was applied to PA and AP alone, and nothing said so."""
    folder = change_manifest(data, tmp_path / "data", view=["LATERAL", "", "LATERAL"])
    result = predict(BUNDLE, folder, tmp_path / "out", weights, QUICK | {"split": "test"})
    assert (result["cases"], len(result["excluded"])) == (5, 3)
    assert [(Path(row["path"]).stem, row["reason"]) for row in rows(tmp_path / "out" / "excluded.csv")][:2] == [
        ("test00", "has the view 'LATERAL', expected PA or AP (--views)"),
        ("test01", "has the view '', expected PA or AP (--views)"),
    ]
    assert "3 inputs are left out" in caplog.text
    trained = shutil.copytree(weights, tmp_path / "weights")
    content = json.loads((trained / "network.json").read_text())
    (trained / "network.json").write_text(json.dumps(content | {"views": ["LATERAL"]}))
    predict(BUNDLE, folder, tmp_path / "lateral", trained, QUICK | {"split": "test"})
    assert [row["case"] for row in rows(tmp_path / "lateral" / "predictions.csv")] == ["test00", "test02"]
    predict(BUNDLE, folder, tmp_path / "out", weights, QUICK | {"split": "test", "views": None})
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 8 and not (tmp_path / "out" / "excluded.csv").exists()


def test_a_label_that_prepared_data_lack_is_predicted_and_not_scored(data, weights, tmp_path):
    """A bug: `predict` refused data without one of the network's labels."""
    folder = change_manifest(data, tmp_path / "data", Fracture=None)
    assert predict(BUNDLE, folder, tmp_path / "out", weights, QUICK | {"split": "test"})["cases"] == 8
    with pytest.raises(BadInput, match="manifest.csv: has no column 'Fracture', expected every label of the network"):
        evaluate(BUNDLE, folder, tmp_path / "scored", weights, {"draws": 2})
    assert not (tmp_path / "scored").exists()


def test_missing_weights_end_with_1_and_the_command(inputs, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    where = ["--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "out")]
    assert main(["predict", str(BUNDLE), "--input", str(inputs["vision"]), *where]) == 1
    said = capsys.readouterr().err
    assert "python -m common run bundles/mdfnet_cxr --scale demo" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["clinical.json", "tokenizer"])
def test_what_belongs_to_the_weights_is_named_when_it_is_missing(weights, inputs, tmp_path, name):
    folder = shutil.copytree(weights, tmp_path / "weights")
    shutil.rmtree(folder / name) if name == "tokenizer" else (folder / name).unlink()
    with pytest.raises(BadInput, match=f"{name}.*expected the .* of a training"):
        predict(BUNDLE, inputs["vision"], tmp_path / "out", folder, QUICK)


def test_weights_of_a_part_that_is_missing_are_not_replaced_by_random_ones(weights, inputs, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "weights")
    state = torch.load(folder / "model.pt", weights_only=True)
    torch.save({name: t for name, t in state.items() if not name.startswith("vision.")}, folder / "model.pt")
    with pytest.raises(ValueError, match="tensors missing"):
        predict(BUNDLE, inputs["vision"], tmp_path / "out", folder, QUICK)


# ---- evaluate -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(data, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    result = evaluate(BUNDLE, data, out, weights, {"draws": 10})
    return out, result


def test_evaluation_on_prepared_data(evaluated, data, weights):
    out, result = evaluated
    truth = read_truth(out / "predictions" / "labels_test.csv")
    manifest = {row["case"]: row for row in rows(data / "manifest.csv") if row["split"] == "test"}
    assert list(truth.cases) == list(manifest)
    expected = [[float(manifest[case][label]) for label in CHEXPERT_LABELS] for case in truth.cases]
    np.testing.assert_array_equal(truth.values, expected)
    models = ["model", *(f"model_without_{name}" for name in MODALITIES)]
    for split in ("val", "test"):
        assert {path.stem for path in (out / "predictions").glob(f"model*_{split}.csv")} == {
            f"{model}_{split}" for model in models
        }
    assert (out / "index.html").is_file() and result["not_run"] == {}
    (row,) = [row for row in rows(out / "results_summary.csv") if row["model"] == "model"]
    from sklearn.metrics import roc_auc_score

    p = align_predictions(read_predictions(out / "predictions" / "model_test.csv"), truth)
    each = [roc_auc_score(truth.values[:, k], p[:, k]) for k in range(14)]
    assert float(row["mean_auroc"]) == pytest.approx(np.mean(each), abs=1e-4)
    assert float(row["min_auroc"]) == pytest.approx(min(each), abs=1e-4)
    summary = json.loads((out / "summary.json").read_text())
    total = sum(p.numel() for p in saved_network(str(weights)).parameters())
    assert summary["scale"] == "evaluate" and summary["parameters"] == {"total": total, "trainable": 0}


def test_evaluation_shows_where_the_encoders_looked(evaluated):
    out, _ = evaluated
    page = (out / "index.html").read_text()
    assert "Where the encoders looked" in page and "attention of the image encoder" in page
    assert 'class="note-attention"' in page and (out / "pictures" / "looked_1.png").is_file()


def test_evaluation_of_a_label_with_one_class_reports_it(data, weights, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    table = rows(data / "manifest.csv")
    table = [row | {"Fracture": "0.0"} if row["split"] == "test" else row for row in table]
    (tmp_path / "data" / "manifest.csv").write_text(csv_text(list(table[0]), table))
    result = evaluate(BUNDLE, tmp_path / "data", tmp_path / "out", weights, {"draws": 5})
    assert result["undefined"] == {"Fracture": "all 8 labelled cases are negative"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "No AUROC for Fracture: all 8 labelled cases are negative; it is left out of every mean." in page
    (row,) = [row for row in rows(tmp_path / "out" / "results_summary.csv") if row["model"] == "model"]
    others = [float(row[f"auroc_{label}"]) for label in CHEXPERT_LABELS if label != "Fracture"]
    assert row["auroc_Fracture"] == "" and float(row["mean_auroc"]) == pytest.approx(np.mean(others), abs=1e-5)


def test_thresholds_are_those_of_validation(evaluated):
    out, result = evaluated
    truth = read_truth(out / "predictions" / "labels_val.csv")
    p = align_predictions(read_predictions(out / "predictions" / "model_val.csv"), truth)
    assert result["thresholds"] == {"model": pytest.approx(choose_thresholds(p, truth.values, truth.labels))}
    table = [row for row in rows(out / "metrics.csv") if row["model"] == "model"]
    assert len(table) == 14 and all(row["f1@chosen"] for row in table)


def test_an_evaluation_of_fewer_inputs_is_not_mixed_with_the_one_before_it(evaluated, data, of_text, tmp_path):
    """A bug: the new network's predictions were compared with those that the old one made without an input."""
    folder = change_manifest(data, tmp_path / "data", view=["LATERAL"])
    out = shutil.copytree(evaluated[0], tmp_path / "out")
    shutil.copyfile(out / "predictions" / "model_test.csv", out / "predictions" / "mine_test.csv")
    result = evaluate(BUNDLE, folder, out, of_text, {"draws": 2})
    assert result["contribution"] == [] and [row["model"] for row in result["models"]] == ["model"]
    assert not (out / "contribution.csv").exists() and not list((out / "predictions").glob("*_without_*"))
    assert [Path(row["path"]).stem for row in rows(out / "excluded.csv")] == ["test00"]
    assert result["excluded"] == rows(out / "excluded.csv")


def test_predict_on_the_prepared_folder_says_the_same(evaluated, data, weights, tmp_path):
    out, _ = evaluated
    predict(BUNDLE, data, tmp_path, weights, QUICK | {"split": "test"})
    ours = {row["case"]: row for row in rows(tmp_path / "predictions.csv")}
    theirs = {row["case"]: row for row in rows(out / "predictions" / "model_test.csv")}
    assert ours.keys() == theirs.keys()
    for case, row in theirs.items():
        assert [float(row[x]) for x in CHEXPERT_LABELS] == pytest.approx(
            [float(ours[case][x]) for x in CHEXPERT_LABELS], abs=1e-5
        )


def test_evaluation_asks_for_prepared_data_and_weights(data, weights, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    with pytest.raises(BadInput, match="does not exist, expected the manifest.csv of a folder that prepare wrote"):
        evaluate(BUNDLE, tmp_path / "x", tmp_path / "out", weights)
    (tmp_path / "models").mkdir()
    with pytest.raises(MissingWeights, match="--scale demo, then --ckpt_dir RUN/models"):
        evaluate(BUNDLE, data, tmp_path / "out", tmp_path / "models")
    where = ["--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "out")]
    assert main(["evaluate", str(BUNDLE), "--input", str(data), *where]) == 1
    assert "python -m common run bundles/mdfnet_cxr --scale demo" in capsys.readouterr().err
