"""The bundle as a whole: sizes of the document, ids that clients rely on, and one smoke recipe from data to picture."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser

from common.apps.predict import predict
from common.apps.run.evaluate import evaluate
from common.apps.run.recipe import run_recipe
from common.data.ct.reader import read_ct
from common.data.ct.volume import write_nifti
from common.data.virtual.files import Cohort
from common.data.virtual.layouts import write_dicom
from common.data.virtual.patient import make_virtual_patient, thick_reconstruction
from common.evaluation.slice_interpolation import COLUMNS, COMPARED
from common.io.bad_input import BadInput
from common.networks.weights import MissingWeights, read_state
from common.transforms.windows import WINDOWS
from tests import processes
from tests.bundles.meta_schema import schema_errors

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "ct_slice_interpolation"
CONFIGS = BUNDLE / "configs"


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


# ---- sizes and ids ------------------------------------------------------------------------------------------------


def test_paper_size_parameter_counts():
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.json")])
    with torch.device("meta"):
        vae, unet = (parser.get_parsed_content(name) for name in ("vae_def", "unet_def"))
    assert sum(p.numel() for p in vae.parameters()) == 20_944_897 and len(vae.state_dict()) == 130
    n_unet = sum(p.numel() for p in unet.parameters())
    assert abs(n_unet / 264_616_708 - 1) < 0.01, n_unet


def test_training_and_inference_build_the_same_parts():
    train, inference = config("train"), config("inference")
    for part in ("vae_def", "unet_def", "refiner_def"):
        sizes = {k: v for k, v in inference[part].items() if k != "_disabled_"}
        trained = {k: v for k, v in train[part].items() if k != "gradient_checkpointing"}
        assert sizes == trained, part


def test_the_documents_hyperparameters():
    train, full = config("train"), config("full_medium")
    for c in (train, train | full):
        assert (c["learning_rate"], c["weight_decay"], c["warmup_epochs"], c["max_epochs"]) == (1e-4, 0.01, 5, 100)
        assert (c["val_interval"], c["ckpt_interval"], c["val_cases"], c["sampling_steps"]) == (500, 2000, 2, 20)
        assert (c["encode_chunk"], c["decode_chunk"], c["batch_size"], c["resolution"]) == (32, 8, 1, 512)
    assert train["accumulation_steps"] == 8
    schedule = train["noise_schedule"]
    assert (schedule["schedule"], schedule["num_train_timesteps"]) == ("cosine", 1000)


def test_metadata_is_valid():
    meta = config("metadata")
    assert meta["version"] in meta["changelog"]
    assert next(iter(meta["network_data_format"]["inputs"])) == "image"
    assert next(iter(meta["network_data_format"]["outputs"])) == "pred"
    assert schema_errors(meta) == []


@pytest.mark.parametrize("name", sorted(p.name for p in CONFIGS.glob("*.json")))
def test_every_overlay_changes_something_that_exists(name):
    """An overlay's `a#b` must find its `a` in the files it goes over."""
    if name in ("metadata.json", "recipe.json", "inference.json"):
        return
    base = config("train") | config("refiner") | config("vae") | (config("demo") if name == "smoke.json" else {})
    for key in json.loads((CONFIGS / name).read_text()):
        node = base
        for part in key.split("#")[:-1]:
            assert part in node, key
            node = node[part]


def test_standard_ids_are_there():
    train, inference = config("train"), config("inference")
    for key in ("bundle_root", "device", "dataset_dir", "val_interval", "network_def", "initialize", "run"):
        assert key in train
    for key in ("trainer", "dataset", "inferer", "handlers", "preprocessing", "postprocessing", "key_metric"):
        assert key in train["train"]
    for key in ("evaluator", "dataset", "dataloader", "handlers", "inferer", "key_metric"):
        assert key in train["validate"]
    for key in ("bundle_root", "device", "dataset_dir", "dataset", "evaluator", "network_def", "inferer"):
        assert key in inference


# ---- the smoke recipe ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(smoke_run, tmp_path_factory):
    """The folder of the smoke recipe, a copy that this module may change, and what the recipe returned."""
    out, first = smoke_run(BUNDLE)
    return shutil.copytree(out, tmp_path_factory.mktemp("run"), dirs_exist_ok=True), first


@pytest.fixture(scope="module")
def thick_case(tmp_path_factory):
    patient = make_virtual_patient(77, (16, 32, 32), (6, 6, 6))
    folder = tmp_path_factory.mktemp("thick")
    hu, affine = thick_reconstruction(patient, 4)
    return write_nifti(folder / "case.1.nii.gz", hu, affine), hu, affine


def test_every_stage_leaves_its_part(run):
    out, first = run
    assert first["ran"] == ["vae", "latents", "diffusion", "refiner"]
    assert {name.split(".")[0] for name in read_state(out / "models" / "model.pt")} == {
        "vae",
        "unet",
        "refiner",
        "scale_factor",
    }
    summary = json.loads((out / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == first["ran"]
    assert "psnr" in str(summary["stages"][2]["metrics"]) and (out / "index.html").is_file()


def test_only_the_unet_is_in_the_optimizer(run):
    out, _ = run
    report = json.loads((out / "diffusion" / "startup.json").read_text())
    unet = sum(t.numel() for name, t in read_state(out / "models" / "model.pt").items() if name.startswith("unet."))
    assert report["parameters"]["trainable"] == unet
    assert [group["parameters"] for group in report["optimizer"]] == [unet]
    assert report["parameters"]["parts"]["VAE"]["trainable"] == 0


def test_a_second_run_does_nothing_and_a_change_reruns_what_follows(run):
    out, _ = run
    again = run_recipe(BUNDLE, "demo+smoke", output_dir=out)
    assert again["ran"] == [] and len(again["skipped"]) == 4


def test_latents_are_encoded_once(run):
    out, _ = run
    metrics = json.loads((out / "latents" / "history.json").read_text())["metrics"]
    assert metrics["misses"] == metrics["volumes_encoded"] > 0
    (out / "latents" / "finished.json").unlink()
    run_recipe(BUNDLE, "demo+smoke", stages="latents", output_dir=out)
    again = json.loads((out / "latents" / "history.json").read_text())["metrics"]
    assert again["volumes_encoded"] == 0 and again["hits"] == metrics["misses"]


@pytest.mark.parametrize("mode", ["linear", "refiner", "diffusion"])
def test_prediction_covers_the_extent_and_returns_the_acquired_slices(run, thick_case, tmp_path, mode):
    path, hu, affine = thick_case
    settings = {"mode": mode, "target_spacing": 4.0, "sampling_steps": 2}
    result = predict(BUNDLE, path, tmp_path, ckpt_dir=run[0] / "models", overrides=settings)
    assert result["outputs"] == [str(tmp_path / "case.1.nii.gz")]
    thin = nib.load(tmp_path / "case.1.nii.gz")
    assert thin.shape == (32, 32, 24) and thin.get_data_dtype() == np.float32
    means = thin.get_fdata().reshape(32, 32, 4, 6).mean(3)
    assert np.abs(means - hu).max() < 0.5
    outer = [affine @ [0, 0, z, 1] for z in (-0.5, 3.5)], [thin.affine @ [0, 0, z, 1] for z in (-0.5, 23.5)]
    np.testing.assert_allclose(outer[0], outer[1], atol=1e-4)


def test_several_samples_give_an_uncertainty_map(run, thick_case, tmp_path):
    settings = {"mode": "diffusion", "target_slices": 16, "target_spacing": None, "n_samples": 2, "sampling_steps": 2}
    predict(BUNDLE, thick_case[0], tmp_path, ckpt_dir=run[0] / "models", overrides=settings | {"dtype": "int16"})
    spread = nib.load(tmp_path / "case.1_uncertainty.nii.gz").get_fdata()
    assert spread.shape == (32, 32, 16) and spread.min() >= 0 and spread.max() > 0
    assert nib.load(tmp_path / "case.1.nii.gz").get_data_dtype() == np.int16


def test_plain_monai_runs_the_same_inference(run, thick_case, tmp_path):
    predict(BUNDLE, thick_case[0], tmp_path / "ours", ckpt_dir=run[0] / "models", overrides={"target_spacing": 6.0})
    files = [str(CONFIGS / "inference.json"), str(run[0] / "models" / "network.json")]
    command = ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(BUNDLE)]
    command += ["--input", str(thick_case[0]), "--output_dir", str(tmp_path / "monai"), "--target_spacing", "6.0"]
    command += ["--ckpt_dir", str(run[0] / "models")]
    processes.run_python(command, {}, tmp_path, tmp_path / "log")
    ours, monai = (nib.load(tmp_path / d / "case.1.nii.gz") for d in ("ours", "monai"))
    np.testing.assert_array_equal(ours.get_fdata(), monai.get_fdata())
    np.testing.assert_array_equal(ours.affine, monai.affine)


def test_evaluation_writes_every_mode_and_window(run, tmp_path):
    out = run[0]
    result = evaluate(BUNDLE, out / "data", tmp_path, out / "models", {"ratio": 4, "sampling_steps": 2})
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {(row["mode"], row["window"]) for row in rows} == {(m, w) for m in COMPARED for w in WINDOWS}
    assert {row["case"] for row in rows} == {
        row["case"] for row in csv.DictReader((out / "data" / "manifest.csv").open()) if row["split"] == "test"
    }
    by_mode = {row["mode"]: row for row in result["metrics"] if row["window"] == "wide"}
    assert by_mode["linear_projected"]["psnr"] >= by_mode["linear"]["psnr"]
    assert by_mode["linear"]["consistency_hu"] > 1 > by_mode["refiner"]["consistency_hu"]
    assert (tmp_path / "index.html").is_file() and list((tmp_path / "pictures").glob("*.png"))


def test_missing_weights_name_the_command(thick_case, tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(MissingWeights, match="python -m common run"):
        predict(BUNDLE, thick_case[0], tmp_path / "out", ckpt_dir=tmp_path / "models")


def test_bad_cases_of_a_folder_are_listed_and_the_rest_predicted(run, thick_case, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(thick_case[0].read_bytes())
    (folder / "broken.nii.gz").write_bytes(b"")
    result = predict(BUNDLE, folder, tmp_path / "out", run[0] / "models", {"mode": "linear", "target_spacing": 6.0})
    assert [Path(p).name for p in result["outputs"]] == ["a.nii.gz"]
    assert "broken.nii.gz" in (tmp_path / "out" / "excluded.csv").read_text()
    with pytest.raises(BadInput, match="input itself"):
        predict(BUNDLE, folder / "a.nii.gz", folder, run[0] / "models", {"mode": "linear", "target_spacing": 6.0})
    assert read_ct(folder / "a.nii.gz").hu.shape[2] == 4


def test_several_processes_predict_the_same(run, tmp_path):
    folder = tmp_path / "thick"
    folder.mkdir()
    for seed in (81, 82):
        patient = make_virtual_patient(seed, (16, 24, 24), (6, 8, 8))
        write_nifti(folder / f"case{seed}.nii.gz", *thick_reconstruction(patient, 2))
    settings = {"mode": "refiner", "target_slices": 24, "tta": False}
    results = [
        predict(BUNDLE, folder, tmp_path / f"by{workers}", run[0] / "models", settings, workers) for workers in (1, 2)
    ]
    for one, two in zip(*(sorted(result["outputs"]) for result in results), strict=True):
        assert np.array_equal(nib.load(one).get_fdata(), nib.load(two).get_fdata())
    assert len(results[1]["outputs"]) == 2


def test_series_folders_named_alike_do_not_overwrite_each_other(tmp_path):
    write_dicom(tmp_path / "in", Cohort(2, 0, (8, 24, 24), (10, 8, 8)))
    settings = {"mode": "nearest", "target_spacing": 5.0}
    result = predict(BUNDLE, tmp_path / "in" / "dicom", tmp_path / "out", overrides=settings)
    assert len({Path(path).name for path in result["outputs"]}) == 2
    assert all(nib.load(path).shape == (24, 24, 16) for path in result["outputs"])


def test_every_format_side_by_side_is_predicted_alike(tmp_path):
    (patient,) = write_dicom(tmp_path / "in", Cohort(1, 0, (8, 24, 24), (10, 8, 8)))
    folder = (tmp_path / "in" / patient["image"]).parent
    volume = read_ct(tmp_path / "in" / patient["image"])
    write_nifti(folder / "a.nii", volume.hu, volume.affine)
    image = sitk.ReadImage(str(folder / "a.nii"))
    for name in ("a.nrrd", "b.nhdr", "a.mha", "c.mhd", "d.nii.gz"):
        sitk.WriteImage(image, str(folder / name))
    result = predict(BUNDLE, folder, tmp_path / "out", overrides={"mode": "linear", "target_spacing": 5.0})
    names = ["a_mha", "a_nii", "a_nrrd", "b", "c", "d", "series_001"]
    assert [Path(path).name for path in result["outputs"]] == [f"{name}.nii.gz" for name in names]
    first, *others = (nib.load(path) for path in result["outputs"])
    for other in others:
        assert np.array_equal(other.get_fdata(), first.get_fdata())
        assert np.allclose(other.affine, first.affine, atol=1e-5)


def test_samples_can_be_evaluated_without_the_refiner_beside_it(run, tmp_path):
    settings = {"sampling_steps": 2, "refine_samples": False, "ratio": 4, "modes": "refiner,diffusion", "pictures": 0}
    result = evaluate(BUNDLE, run[0] / "data", tmp_path, run[0] / "models", settings)
    assert {row["mode"] for row in result["metrics"]} == {"refiner", "diffusion"} and not result["not_run"]


def test_evaluate_json_validates_the_trained_weights(run):
    out = run[0]
    parser = ConfigParser()
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "demo", "evaluate")]
    parser.read_config([*files, str(out / "models" / "network.json")])
    places = {"dataset_dir": str(out / "data"), "output_dir": str(out), "ckpt_dir": str(out / "models")}
    parser.update(places | {"sampling_steps": 2, "precision": "float32"})
    for step in ("initialize", "run"):
        parser.get_parsed_content(step)
    found = parser.get_parsed_content("validate#evaluator").state.metrics
    history = json.loads((out / "diffusion" / "history.json").read_text())
    # what training saw at its end, with the averaged weights that it saved
    assert found["psnr"] == pytest.approx(history["validations"][-1]["psnr"], abs=1e-4)
