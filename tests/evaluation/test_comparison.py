import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.data.prediction_table import (
    align_predictions,
    read_predictions,
    read_truth,
    write_predictions,
    write_truth,
)
from common.evaluation.comparison import RunComparison
from common.io.bad_input import BadInput
from common.metrics.multilabel import choose_thresholds
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.clients.packed_mdfnet import write_prepared

REFERENCES = ("all", "all_stage1")
MODELS = ("vision", "clinical", "all_stage1", "all", "all_without_vision")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("prepared"))


def write_run(folder, data, splits=("val", "test"), models=MODELS):
    random = np.random.default_rng(0)
    with (data / "manifest.csv").open(newline="") as file:
        manifest = list(csv.DictReader(file))
    kept = {}
    for split in splits:
        rows = [row for row in manifest if row["split"] == split]
        cases, patients = [row["case"] for row in rows], [row["patient"] for row in rows]
        y = np.array([[float(row[label]) for label in CHEXPERT_LABELS] for row in rows])
        write_truth(folder / "predictions" / f"labels_{split}.csv", cases, patients, CHEXPERT_LABELS, y)
        for model in models:
            p = random.random(y.shape)
            kept[model, split] = np.mean([roc_auc_score(y[:, k], p[:, k]) for k in range(14)])
            write_predictions(folder / "predictions" / f"{model}_{split}.csv", cases, patients, CHEXPERT_LABELS, p)
    return kept


def table(folder):
    with (folder / "results_summary.csv").open(newline="") as file:
        return {row["model"]: float(row["mean_auroc"]) for row in csv.DictReader(file)}


def test_every_model_of_a_run_on_the_test_cases(data, tmp_path):
    kept = write_run(tmp_path, data)
    RunComparison(tmp_path, data, REFERENCES, draws=10).run()
    found = table(tmp_path)
    assert found == pytest.approx(
        {model: kept[model, "test"] for model in MODELS if "_without_" not in model}, abs=1e-4
    )
    assert (tmp_path / "comparison" / "index.html").is_file()
    assert (tmp_path / "results_summary.csv").read_bytes() == (
        tmp_path / "comparison" / "results_summary.csv"
    ).read_bytes()


def test_thresholds_are_those_of_validation(data, tmp_path):
    write_run(tmp_path, data)
    found = RunComparison(tmp_path, data, REFERENCES, draws=10).run()["thresholds"]
    for model in ("vision", "all"):
        truth = read_truth(tmp_path / "predictions" / "labels_val.csv")
        p = align_predictions(read_predictions(tmp_path / "predictions" / f"{model}_val.csv"), truth)
        assert found[model] == pytest.approx(choose_thresholds(p, truth.values, truth.labels))
    assert json.loads((tmp_path / "comparison" / "thresholds.json").read_text()) == found
    for path in (tmp_path / "predictions").glob("*_val.csv"):
        path.unlink()
    assert RunComparison(tmp_path, data, REFERENCES, draws=10).run()["thresholds"] is None
    assert not (tmp_path / "comparison" / "thresholds.json").exists()


def test_a_run_without_test_cases_is_compared_on_validation_cases(data, tmp_path):
    kept = write_run(tmp_path, data, ("val",), ("vision", "text"))
    RunComparison(tmp_path, data, REFERENCES, draws=10).run()
    assert table(tmp_path) == pytest.approx({model: kept[model, "val"] for model in ("vision", "text")}, abs=1e-4)


def test_predictions_of_other_cases_are_named(data, tmp_path):
    write_run(tmp_path, data)
    path = tmp_path / "predictions" / "vision_test.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(BadInput, match="vision_test.csv: lacks 1 cases such as"):
        RunComparison(tmp_path, data, REFERENCES, draws=10).run()


def test_a_model_older_than_a_stage_before_it_is_left_out(data, tmp_path):
    """A bug: after stage 1 had run again, the predictions of the old stage 2 stayed the reference."""
    write_run(tmp_path, data)
    stages = {"features": None, "vision": "vision", "clinical": "clinical", "stage1": "all_stage1", "stage2": "all"}
    for i, ((stage, model), minute) in enumerate(zip(stages.items(), (1, 2, 3, 9, 5), strict=True)):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "config.json").write_text(json.dumps({} if model is None else {"model_name": model}))
        finish(tmp_path / stage, minute, list(stages)[:i])
    found = RunComparison(tmp_path, data, REFERENCES, draws=10).run()
    assert set(table(tmp_path)) == {"vision", "clinical", "all_stage1"} and found["reference"] == "all_stage1"
    (tmp_path / "vision" / "finished.json").unlink()  # it is being trained again
    RunComparison(tmp_path, data, REFERENCES, draws=10).run()
    assert set(table(tmp_path)) == {"clinical", "all_stage1"}
    finish(tmp_path / "features", 30, [])
    assert RunComparison(tmp_path, data, REFERENCES, draws=10).run() == {}


def finish(folder, minute, before):
    facts = {"finished_at": f"2026-01-01T00:{minute:02}:00+00:00", "after": before}
    (folder / "finished.json").write_text(json.dumps(facts))
