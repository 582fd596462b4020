"""`predict` and `evaluate` of a classifier, with tiny weights that were never trained."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.apps.bundle import open_bundle
from common.apps.predict import predict
from common.apps.predict_labels import evaluate_labels
from common.cli import main
from common.data.bad_input import BadInput
from common.data.clinical_vector import CLINICAL_COLUMNS
from common.data.modalities import MODALITIES
from common.data.output_folder import csv_text
from common.data.prediction_table import align_predictions, read_predictions, read_truth
from common.data.study_files import saved_scaler, saved_tokenizer
from common.networks.slice_interpolator import MissingWeights
from common.networks.study_encoders import saved_network
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
    with pytest.raises(BadInput, match="holds no usable X-ray, the first of 1: is empty"):
        predict(BUNDLE, tmp_path / "in", tmp_path / "out", weights, QUICK)
    assert not (tmp_path / "out").exists()


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
    result = evaluate_labels(open_bundle(BUNDLE), data, out, weights, draws=10)
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
    with pytest.raises(BadInput, match="holds no manifest.csv, expected a folder that prepare wrote"):
        evaluate_labels(open_bundle(BUNDLE), tmp_path / "x", tmp_path / "out", weights)
    (tmp_path / "models").mkdir()
    with pytest.raises(MissingWeights, match="--scale demo, then --ckpt_dir RUN/models"):
        evaluate_labels(open_bundle(BUNDLE), data, tmp_path / "out", tmp_path / "models")
    where = ["--ckpt_dir", str(tmp_path / "models"), "--output_dir", str(tmp_path / "out")]
    assert main(["evaluate", str(BUNDLE), "--input", str(data), *where]) == 1
    assert "python -m common run bundles/mdfnet_cxr --scale demo" in capsys.readouterr().err
