"""The bundle as a whole: one smoke recipe from data to table, resume, and two processes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from filelock import FileLock
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.apps.predict import predict
from common.apps.run.bundle import first_error, open_bundle
from common.apps.run.recipe import merged_stage, run_recipe
from common.data.modalities import MODALITIES
from common.data.prediction_table import align_predictions, find_predictions, read_predictions, read_truth
from common.networks.modality_fusion import SUBSETS
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.bundles.test_mdfnet_configs import BUNDLE, CONFIGS, ROOT, STAGES, stage_config

# ---- the smoke recipe ---------------------------------------------------------------------------------------------

TOKENS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
SIZES = {
    "image_size": 32,
    "max_tokens": 64,
    "vocab_size": 400,
    "vision_config": {
        "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "patch_size": 16, "image_size": 32,
    },
    "text_config": {
        "model_type": "modernbert", "vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64, **TOKENS,
    },
    "vision_def#embedding": 12,
    "clinical_def#hidden": [8, 8],
    "fusion_def#width": 16,
    "fusion_def#heads": 2,
    "fusion_def#hidden": [16, 8],
    "fusion_def#sizes": {"vision": 12, "text": 16, "clinical": 8},
}  # fmt: skip
SHORT = {"max_epochs": 2, "warmup_epochs": 0}
TINY = SIZES | SHORT | {
    "virtual#n": 12,
    "virtual#shape": [16, 32, 32],
    "virtual#spacing": [9, 10, 11],
    "virtual#seed": 0,
    "batch_size": 4,
    "comparison#draws": 10,
}  # fmt: skip
TINY |= {f"stage_overrides#{name}#{key}": SHORT[key] for name in ("encoders", "stage2") for key in SHORT}

RUN = [*STAGES[: STAGES.index("stage2") + 1], "comparison"]  # of the demo; what comes after them is asked for by name
SCALE = re.compile(r"projections\.(vision|text)\.0\.")  # measured, not trained


@pytest.fixture(scope="module")
def run(smoke_run):
    """The folder of the smoke recipe, which others read too, and what the recipe returned."""
    return smoke_run(BUNDLE)


def weights(folder, name="model"):
    return torch.load(folder / f"{name}.pt", weights_only=True)


def test_every_stage_leaves_its_part(run):
    out, first = run
    assert first["ran"] == RUN
    assert {name.split(".")[0] for name in weights(out / "models")} == {*MODALITIES, "fusion"}
    assert {path.name for path in (out / "models").iterdir()} == {
        "model.pt", "model_final.pt", "network.json", "encoders.pt", "encoders.json", "clinical.json", "tokenizer",
        "baselines",
    }  # fmt: skip
    for subset in SUBSETS[:-1]:
        found = {name.split(".")[0] for name in weights(out / "models" / "baselines" / subset)}
        assert found == {"fusion", *subset.split("_")}
    summary = json.loads((out / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == RUN
    assert "mean_auroc" in str(summary["stages"][-2]["metrics"]) and (out / "index.html").is_file()


@pytest.mark.parametrize("stage", ["stage1", "stage2", "vision"])
def test_the_final_model_is_written_before_the_weights_of_the_best_validation_return(run, stage):
    """MONAI's federated client asks for it by its name."""
    final, model = weights(run[0] / "models", "model_final"), weights(run[0] / "models")
    assert final.keys() == model.keys()
    names = [name.replace("::", "#") for name in stage_config(stage)["train"]["following"]["handlers"]]
    assert names.index("@train#final_part") < names.index("@best")
    assert not list((run[0] / "models" / "baselines").rglob("model_final*"))


def test_the_table_has_every_model(run):
    out, _ = run
    with (out / "results_summary.csv").open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    models = {*SUBSETS, "all_stage1", *(f"all_without_{m}" for m in MODALITIES)}
    # what is left without a modality is no model of its own
    assert set(rows) == {name for name in models if "_without_" not in name}
    assert (out / "comparison" / "index.html").is_file()
    assert set(find_predictions(out / "predictions", "test")) == models
    truth = read_truth(out / "predictions" / "labels_test.csv")
    assert truth.labels == CHEXPERT_LABELS
    with (out / "data" / "virtual" / "manifest.csv").open(newline="") as file:
        cases = [row for row in csv.DictReader(file) if row["split"] == "test" and row["view"] in ("PA", "AP")]
    assert list(truth.cases) == [row["case"] for row in cases]  # frontal test cases and no others
    for model in models:
        align_predictions(read_predictions(out / "predictions" / f"{model}_test.csv"), truth)


def test_stage_1_trains_fusion_alone_and_stage_2_everything(run):
    out, _ = run
    parts = {name: x for name, x in weights(out / "models").items() if not SCALE.search(name)}
    own = sum(tensor.numel() for name, tensor in parts.items() if name.startswith(("clinical.", "fusion.")))
    reports = {name: json.loads((out / name / "startup.json").read_text()) for name in ("stage1", "stage2")}
    assert reports["stage1"]["parameters"]["trainable"] == own
    assert reports["stage2"]["parameters"]["trainable"] == sum(tensor.numel() for tensor in parts.values())
    assert [group["name"] for group in reports["stage2"]["optimizer"]] == ["encoders", "fusion", "head"]
    metrics = json.loads((out / "features" / "history.json").read_text())["metrics"]
    assert metrics["images_encoded"] > 0 and metrics["notes_encoded"] > 0 and metrics["hits"] == 0


def test_logged_are_loss_parts_rates_norms_and_all_curves(run):
    out, _ = run
    history = json.loads((out / "stage2" / "history.json").read_text())
    seen = {key for row in history["iterations"] for key in row}
    assert {
        "loss", "bce_loss", "focal_loss", "lr/encoders", "lr/fusion", "lr/head", "grad_norm", "samples_per_second",
        "memory_gib",
    } <= seen  # fmt: skip
    found = {key for row in history["validations"] for key in row}
    assert {"mean_auroc", "pooled_auroc", "min_auroc", "mean_auprc", "macro_f1", "micro_f1", "loss"} <= found
    assert any(key.startswith("auroc/") for key in found)


def test_tensorboard_has_the_pictures_and_the_settings_of_every_stage(run):
    out, first = run
    for stage in [name for name in first["ran"] if name not in ("features", "comparison")]:
        board = EventAccumulator(str(out / stage / "tensorboard"))
        board.Reload()
        assert set(board.Tags()["images"]) == {"validation/roc", "validation/calibration"}, stage
        text = board.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "| precision |" in text and '"_target_": "SupervisedTrainer"' in text
        assert "val/mean_auroc" in board.Tags()["scalars"]


def test_the_page_shows_where_the_encoders_looked(run):
    out, _ = run
    page = (out / "comparison" / "index.html").read_text()
    assert "attention of the image encoder" in page and 'class="note-attention"' in page
    assert list((out / "comparison" / "pictures").glob("looked_*.png"))


def test_outputs_carry_no_identifier_of_a_patient_but_the_case(run):
    out, _ = run
    with (out / "data" / "virtual" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {row[key].removeprefix("s") for row in rows for key in ("patient", "study")}
    assert len(known) >= 20 and all(len(name) == 8 for name in known)
    files = [path for path in out.rglob("*") if path.is_file() and out / "data" not in path.parents]
    assert {path.suffix for path in files} >= {".csv", ".json", ".html", ".log", ".pt", ".safetensors", ".png"}
    for path in files:
        found = set(re.findall(r"(?<!\d)\d{8}(?!\d)", path.read_bytes().decode("latin-1"))) & known
        assert not found, path


CXR = ROOT.parent / "shared" / "data" / "cxr"


@pytest.mark.skipif(not CXR.is_dir(), reason="the real X-rays are not here")
@pytest.mark.parametrize("folder", ["covid_cdc", "nih"])
def test_a_real_x_ray_is_predicted(run, tmp_path, folder):
    image = sorted(path for path in (CXR / folder).iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))[0]
    result = predict(BUNDLE, image, tmp_path, run[0] / "models", {"note": "Cough and fever for 3 days."})
    assert result["cases"] == 1 and result["excluded"] == []
    content = json.loads((tmp_path / f"{image.stem}.json").read_text())
    assert content["modalities"] == ["vision", "text"] and list(content["labels"]) == list(CHEXPERT_LABELS)
    assert all(0 < p < 1 for p in content["labels"].values())
    assert read_predictions(tmp_path / "predictions.csv").cases == (image.stem,)
    picture = np.asarray(Image.open(tmp_path / f"{image.stem}.png"))
    assert picture.std() > 10 and (tmp_path / f"{image.stem}_note.html").is_file()


def test_a_second_run_does_nothing(run):
    out, _ = run
    with FileLock(f"{out}.lock"):
        again = run_recipe(BUNDLE, "demo+smoke", output_dir=out)
    assert again["ran"] == [] and again["skipped"] == RUN


def test_features_are_encoded_once(run, tmp_path):
    """Started again, the stage finds the features in the cache."""
    train(run[0], tmp_path, "features")
    first = json.loads((tmp_path / "features" / "history.json").read_text())["metrics"]
    written = {path.name: path.read_bytes() for path in (tmp_path / "features").glob("*.safetensors")}
    assert first["images_encoded"] > 0 and first["notes_encoded"] > 0 and len(written) == 3
    train(run[0], tmp_path, "features")
    again = json.loads((tmp_path / "features" / "history.json").read_text())["metrics"]
    assert again["images_encoded"] == again["notes_encoded"] == again["misses"] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").glob("*.safetensors")} == written


class Killed(BaseException):
    pass


def train(run_dir, out, name, kill=None, **settings):
    """Run a stage on the data and weights of the smoke recipe, up to an iteration."""
    if not (out / "models").is_dir():
        shutil.copytree(run_dir / "models", out / "models")
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(run_dir / "data" / "virtual"), "output_dir": str(out)}
    places |= {"ckpt_dir": str(out / "models"), "seed": 0}
    if name != "features":
        settings = {"feature_dir": str(run_dir / "features"), "ckpt_interval": 1} | settings
    sizes = {key: value for key, value in SIZES.items()} | settings
    job = merged_stage(open_bundle(BUNDLE), name, "demo", places, sizes)
    workflow = ConfigWorkflow(job.files, logging_file=False, **job.overrides)
    workflow.initialize()
    if kill is not None:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(kill, lambda _: (_ for _ in ()).throw(Killed()))
    workflow.run()
    workflow.finalize()


RESUMED = SHORT | {"max_epochs": 3, "batch_size": 3, "accumulation_steps": 2, "early_stopping": 50}


@pytest.fixture(scope="module", params=["stage1", "stage2"])
def uninterrupted(request, run, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    train(run[0], out, request.param, **RESUMED)
    return request.param, out


@pytest.mark.parametrize(
    "kill",
    [
        Events.ITERATION_COMPLETED(once=2),
        Events.ITERATION_COMPLETED(once=5),
        Events.EPOCH_COMPLETED(once=2),
        Events.COMPLETED,  # the last weights are there, the best ones are not yet back
    ],
    ids=["iteration 2", "iteration 5", "epoch 2", "the end"],
)
def test_ended_at_any_moment_it_resumes_to_the_same_weights(run, uninterrupted, tmp_path, kill):
    name, whole = uninterrupted
    with pytest.raises(Killed):
        train(run[0], tmp_path, name, kill, **RESUMED)
    assert list((tmp_path / name / "resume").glob("iteration_*.pt"))
    train(run[0], tmp_path, name, **RESUMED)
    found, expected = weights(tmp_path / "models"), weights(whole / "models")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    for path in (whole / name / "checkpoints").glob("best_*.pt"):
        ours, theirs = weights(tmp_path / name / "checkpoints", path.stem), weights(path.parent, path.stem)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for path in (whole / "predictions").glob("*.csv"):
        assert (tmp_path / "predictions" / path.name).read_bytes() == path.read_bytes()


def test_other_settings_are_not_taken_up(run, tmp_path):
    with pytest.raises(Killed):
        train(run[0], tmp_path, "stage1", Events.ITERATION_COMPLETED(once=4), **RESUMED)
    with pytest.raises(RuntimeError) as caught:
        train(run[0], tmp_path, "stage1", **RESUMED | {"lr_stage1": 0.002})
    assert "learning_rate#fusion 0.001 (now 0.002)" in str(first_error(caught.value))


def test_background_passages_from_features_to_prediction(run, tmp_path):
    """Asked for in training, they are what a prediction adds without being asked."""
    settings = {"background_passages": 2, "max_tokens": 192, "text_config#max_position_embeddings": 192}
    settings |= {"max_epochs": 1, "warmup_epochs": 0}
    settings |= {"lr_encoders_stage2": 0.1, "lr_fusion_stage2": 0.1}  # so that words make a difference
    for name in ("encoders", "features", "stage1", "stage2"):
        # features of this run, not those that the smoke recipe made without background
        own = settings if name == "features" else settings | {"feature_dir": str(tmp_path / "features")}
        train(run[0], tmp_path, name, **own)
    models, data = tmp_path / "models", run[0] / "data" / "virtual"
    saved = json.loads((models / "network.json").read_text())
    assert (saved["background_passages"], saved["max_tokens"]) == (2, 192)
    assert "background" in json.loads((models / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    trained = read_predictions(tmp_path / "predictions" / "all_test.csv")
    asked = {"split": "test", "pictures": False}
    for folder, other in (("as trained", {}), ("without", {"background_passages": 0})):
        predict(BUNDLE, data, tmp_path / folder, models, asked | other)
    said, without = (read_predictions(tmp_path / name / "predictions.csv") for name in ("as trained", "without"))
    assert said.cases == trained.cases
    np.testing.assert_allclose(said.values, trained.values, atol=1e-6)  # the digits of the table
    assert np.abs(without.values - trained.values).max() > 1e-5  # little, as one step teaches little
    with pytest.raises(RuntimeError) as caught:
        train(run[0], tmp_path, "stage1", **settings | {"background_passages": 1, "resume": False})
    assert "has background_passages 2 (now 1), expected the same" in str(first_error(caught.value))


@pytest.mark.parametrize("policy", ["zeros", "ones", "lsr"])
def test_every_label_policy_trains(run, tmp_path, policy):
    train(run[0], tmp_path, "stage2", label_policy=policy, **RESUMED | {"max_epochs": 1})
    assert (tmp_path / "predictions" / "all_test.csv").is_file()


def test_the_small_sample_switch(run, tmp_path):
    """A bug: the documented words ended with an error, and every case was encoded and validated."""
    (words,) = re.findall(r"`--use-small-sample[^|]*\| `([^`]*)`", (BUNDLE / "docs" / "README.md").read_text())
    settings = {key: int(value) for key, value in re.findall(r"--(\w+) (\d+)", words)}
    assert settings["small_sample"] == 64 and settings["max_epochs"] == 3
    settings |= {"small_sample": 3, "batch_size": 2, "accumulation_steps": 1}
    for name in ("features", "stage1", "stage2"):
        own = {} if name == "features" else {"feature_dir": str(tmp_path / "features")}
        train(run[0], tmp_path, name, **settings | own)
    metrics = json.loads((tmp_path / "features" / "history.json").read_text())["metrics"]
    assert metrics["cases"] == 9 and metrics["images_encoded"] <= 9
    for model, split in (("all_stage1", "val"), ("all", "val"), ("all", "test")):
        assert len(read_predictions(tmp_path / "predictions" / f"{model}_{split}.csv").cases) == 3
    assert json.loads((tmp_path / "stage1" / "history.json").read_text())["metrics"]["iterations"] == 6


@pytest.mark.parametrize("name", ["stage1", "stage2", "encoders"])
def test_class_weights_train(run, tmp_path, name):
    """A bug: images had no counts of their labels, only features had."""
    train(run[0], tmp_path, name, balanced=True, **RESUMED | {"max_epochs": 1})
    assert (tmp_path / name / "history.json").is_file()


def test_another_image_size_in_stage_2_is_that_of_its_inference(run, tmp_path):
    """A bug: predict read the size of the features."""
    train(run[0], tmp_path, "stage2", **RESUMED | {"image_size": 48, "max_epochs": 1, "lr_encoders_stage2": 0.01})
    saved = json.loads((tmp_path / "models" / "network.json").read_text())
    assert saved["image_size"] == saved["vision_def"]["image_size"] == 48
    same_as_predicted(run[0] / "data" / "virtual", tmp_path / "models", tmp_path / "predictions" / "all_test.csv")


def same_as_predicted(data, models, table):
    """What `predict` says of test cases is what training wrote of them."""
    predict(BUNDLE, data, table.parent / "again", models, {"split": "test", "pictures": False})
    trained, said = (read_predictions(path) for path in (table, table.parent / "again" / "predictions.csv"))
    assert said.cases == trained.cases
    np.testing.assert_allclose(said.values, trained.values, atol=2e-6)  # the digits of the table


@pytest.mark.parametrize("name", SUBSETS[:-1])
def test_a_baseline_predicts(run, name):
    """A bug: it held its head alone, and no verb could use it."""
    out, _ = run
    folder = out / "models" / "baselines" / name
    assert json.loads((folder / "network.json").read_text())["modalities"] == name.split("_")
    same_as_predicted(out / "data" / "virtual", folder, out / "predictions" / f"{name}_test.csv")


@pytest.mark.parametrize("name", ["vision", "text_clinical"])
def test_stage_2_of_a_subset(run, tmp_path, name):
    """A bug: all encoders trained whatever modalities were asked for, and the row was named `all`."""
    shutil.copytree(run[0] / "models", tmp_path / "models")
    before = (tmp_path / "models" / "model.pt").read_bytes()
    train(run[0], tmp_path, f"{name}_stage2", **RESUMED | {"max_epochs": 1, "lr_encoders_stage2": 0.01})
    assert (tmp_path / "models" / "model.pt").read_bytes() == before
    folder = tmp_path / "models" / "baselines" / f"{name}_stage2"
    tuned, start = weights(folder), weights(tmp_path / "models" / "baselines" / name)
    assert tuned.keys() == start.keys() and {key.split(".")[0] for key in tuned} == {"fusion", *name.split("_")}
    for part in name.split("_"):
        keys = [key for key in tuned if key.startswith(f"{part}.") and tuned[key].is_floating_point()]
        assert any(not torch.equal(tuned[key], start[key]) for key in keys), part
    written = {path.name for path in (tmp_path / "predictions").glob("*_test.csv")} - {"labels_test.csv"}
    parts = name.split("_")
    dropped = {f"{name}_stage2_without_{part}_test.csv" for part in parts if len(parts) > 1}
    assert written == {f"{name}_stage2_test.csv"} | dropped
    same_as_predicted(run[0] / "data" / "virtual", folder, tmp_path / "predictions" / f"{name}_stage2_test.csv")
    with pytest.raises(RuntimeError) as caught:
        train(run[0], tmp_path, "stage2", **RESUMED | {"modalities": name.split("_")})
    assert "--stages vision_stage2" in str(first_error(caught.value))


@pytest.mark.parametrize(("name", "rate"), [("stage1", "lr_stage1"), ("stage2", "lr_encoders_stage2")])
def test_a_training_that_diverges_names_its_learning_rate(run, tmp_path, name, rate):
    with pytest.raises(RuntimeError) as caught:
        train(run[0], tmp_path, name, **RESUMED | {rate: 1e12})
    expected = rf"{name}: in the validation of epoch \d the network says .*--{rate}"
    assert re.match(expected, str(first_error(caught.value)))


def test_the_properties_of_a_workflow(run):
    out, _ = run
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(out / "data" / "virtual"), "output_dir": str(out)}
    places |= {"ckpt_dir": str(out / "models")}
    for name in ("stage1", "stage2"):
        sizes = {k: v for k, v in SIZES.items() if k in stage_config(name) or "#" in k}
        files = [str(CONFIGS / f"{part}.json") for part in ("train", name)]
        workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **places, **sizes)
        workflow.initialize()
        assert workflow.check_properties() == [], name
    image = next((out / "data" / "virtual" / "files").rglob("*.jpg"))
    files = [str(CONFIGS / "inference.json"), str(out / "models" / "network.json")]
    places = {"bundle_root": str(BUNDLE), "ckpt_dir": str(out / "models"), "input": str(image)}
    workflow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, **places)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", ["stage2", "text_clinical"])
def test_evaluate_json_validates_the_trained_weights(run, name):
    out, _ = run
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{part}.json") for part in ("train", name, "demo", "evaluate")])
    places = {"dataset_dir": str(out / "data" / "virtual"), "output_dir": str(out), "ckpt_dir": str(out / "models")}
    parser.update(places | SIZES)
    for step in ("initialize", "run"):
        parser.get_parsed_content(step)
    found = parser.get_parsed_content("validate#evaluator").state.metrics
    # what training saw at its end, with the best weights back in the network
    expected = json.loads((out / name / "history.json").read_text())["validations"][-1]
    assert found["mean_auroc"] == pytest.approx(expected["mean_auroc"], abs=1e-6)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)


# ---- several processes --------------------------------------------------------------------------------------------

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# What is drawn at random differs between processes, so nothing is.
STEADY = {"dropout_fusion": 0.0, "dropout_head": 0.0, "modality_dropout": 0.0, "clinical_def#dropout": 0.0}
TWO = STEADY | {"max_epochs": 3, "warmup_epochs": 0, "accumulation_steps": 1, "precision": "float32", "seed": 0}
TWO |= {"optimizer#eps": 1e-3}  # AdamW divides by gradients, some of which are nothing but rounding
TWO |= {"lr_fusion_stage2": 5e-4, "lr_head_stage2": 5e-4}  # in three steps the document's rates hardly move anything
TWO |= {"small_sample": 4}  # as many as a step takes: a sampler of two processes would repeat some of an odd number


def distributed(run_dir, out, name, processes, **settings):
    """Run a stage by MONAI's own command; two processes halve the batch."""
    shutil.copytree(run_dir / "models", out / "models")
    sizes = json.loads((out / "models" / "network.json").read_text())  # of which stage 2 builds its network
    sizes["clinical_def"]["dropout"] = 0.0
    sizes["fusion_def"] |= {key: value for key, value in STEADY.items() if key in sizes["fusion_def"]}
    (out / "models" / "network.json").write_text(json.dumps(sizes))
    names = ["train", name, "demo", *(["multi_gpu_train"] if processes == 2 else [])]
    options = SIZES | TWO | {"batch_size": 4 // processes, "feature_dir": str(run_dir / "features")} | settings
    options |= {"bundle_root": str(BUNDLE), "dataset_dir": str(run_dir / "data" / "virtual"), "output_dir": str(out)}
    options |= {"ckpt_dir": str(out / "models")}
    command = [sys.executable, *(TORCHRUN if processes == 2 else []), "-m", "monai.bundle", "run", "--config_file"]
    command += [str([str(CONFIGS / f"{part}.json") for part in names])]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return weights(out / "models"), json.loads((out / name / "history.json").read_text())["validations"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_two_processes_give_what_one_does(run, tmp_path, name):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    (one, expected), (two, found) = (
        distributed(run[0], tmp_path / folder, name, n) for n, folder in ((1, "one"), (2, "two"))
    )
    assert one.keys() == two.keys()
    before = weights(run[0] / "models")
    steps = {key: (one[key] - before[key]).abs().max() for key in one if one[key].is_floating_point()}
    assert sum(step > 1e-5 for step in steps.values()) > 10
    for key in steps:  # to a hundredth of what training changes
        limit = max(1e-6, 0.01 * float(steps[key]))
        assert (two[key] - one[key]).abs().max() < limit, key
    assert found["mean_auroc"] == pytest.approx(expected["mean_auroc"], abs=0.01)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    model = "all_stage1" if name == "stage1" else "all"
    p, q = (read_predictions(tmp_path / folder / "predictions" / f"{model}_test.csv") for folder in ("one", "two"))
    assert p.cases == q.cases
    np.testing.assert_allclose(p.values, q.values, atol=1e-3)
