"""A packed bundle is run by MONAI alone, in processes where `common` cannot be imported."""

import ast
import json
import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.apps.packaging.check import check_bundle
from common.apps.packaging.pack import pack_bundle
from common.apps.packaging.vendored import modules_of_config, packages_of, vendored_files, with_vendored_targets
from common.apps.predict import predict
from common.cli.main import main
from common.io.bad_input import BadInput
from common.networks.slice_refiner import SliceRefiner
from common.networks.weights import save_parts
from tests.bundles.meta_schema import schema_errors
from tests.clients.packed_mdfnet import BUNDLE as CLASSIFIER
from tests.clients.packed_mdfnet import make_packed, write_prepared, write_weights
from tests.data.ct.thin_ct import write_thin_ct
from tests.processes import run_python

BUNDLE = Path("bundles/ct_slice_interpolation").resolve()
SIZES = {"refiner_def#context": 3, "refiner_def#channels": [8, 16], "refiner_def#blocks": [1, 1]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    refiner = SliceRefiner(3, [8, 16], [1, 1])
    torch.nn.init.normal_(refiner.body.head.weight, std=0.1)
    save_parts(folder / "model.pt", {"refiner": refiner})
    (folder / "network.json").write_text(json.dumps(SIZES))
    return folder


@pytest.fixture(scope="module")
def packed(weights, tmp_path_factory):
    return pack_bundle(BUNDLE, tmp_path_factory.mktemp("packed"), weights)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of a process in which importing `common` fails."""
    folder = tmp_path_factory.mktemp("shadow")
    (folder / "common.py").write_text("raise ImportError('common was imported')\n")
    return os.environ | {"PYTHONPATH": str(folder)}


def test_the_zip_has_the_same_bytes_twice(packed, weights, tmp_path):
    copy = shutil.copytree(BUNDLE, tmp_path / BUNDLE.name, ignore=shutil.ignore_patterns("models", "runs", "eval"))
    again = pack_bundle(copy, tmp_path / "out", weights)
    assert Path(again["zip"]).name == f"{BUNDLE.name}_v0.1.0.zip"
    assert Path(again["zip"]).read_bytes() == Path(packed["zip"]).read_bytes() and again["sha256"] == packed["sha256"]
    with zipfile.ZipFile(packed["zip"]) as archive:
        assert archive.testzip() is None
        names = {name.removeprefix(f"{BUNDLE.name}/") for name in archive.namelist()}
    folder = Path(packed["folder"])
    assert names == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_is_complete_and_names_the_vendored_library(packed):
    folder = Path(packed["folder"])
    assert check_bundle(folder) == check_bundle(packed["zip"]) == []
    for file in folder.rglob("configs/*.json"):
        assert not json.dumps(json.loads(file.read_text())).replace("scripts.common.", "").count("common.data."), file
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["checksum"]["models/model.pt"].startswith("sha256:")
    assert metadata["pytorch_version"] == "2.13.0" and metadata["required_packages_version"]["fire"] == "0.7.1"
    # the networks have the sizes of the weights
    for name in ("inference", "train"):
        config = json.loads((folder / "configs" / f"{name}.json").read_text())
        assert config["refiner_def"]["channels"] == [8, 16] and config["unet_def"]["num_channels"][0] == 128
    assert "apps/pack.py" not in packed["modules"] and "networks/slice_refiner.py" in packed["modules"]


def test_metadata_fits_monais_schema(packed):
    metadata = json.loads((Path(packed["folder"]) / "configs" / "metadata.json").read_text())
    assert schema_errors(metadata) == []


def test_monai_alone_gives_the_same_bits_from_anywhere(packed, weights, environment, tmp_path):
    ct = write_thin_ct(tmp_path / "ct.nii.gz", spacing=(1.5, 1.5, 5.0))
    predict(BUNDLE, ct, tmp_path / "ours", weights, {"tta": False})
    folder = packed["folder"]
    words = ["-m", "monai.bundle", "run", "--config_file", f"{folder}/configs/inference.json"]
    words += ["--bundle_root", folder, "--input", str(ct), "--output_dir", str(tmp_path / "theirs"), "--tta", "False"]
    run_python(words, environment, "/", tmp_path / "log")
    ours, theirs = (nib.load(tmp_path / name / "ct.nii.gz") for name in ("ours", "theirs"))
    assert np.array_equal(ours.affine, theirs.affine)
    assert np.array_equal(ours.get_fdata(), theirs.get_fdata())


TWO = """
import importlib, sys
from monai.bundle import ConfigWorkflow

def load(root):  # as MONAI Label does
    sys.path.insert(0, root)
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    workflow = ConfigWorkflow(f"{root}/configs/inference.json", workflow_type="infer", bundle_root=root,
                              logging_file=False, input=sys.argv[3], output_dir=sys.argv[4], tta=False)
    workflow.initialize()
    return workflow, workflow.network_def

a, first = load(sys.argv[1])
b, second = load(sys.argv[2])
print(*(type(network).load.__code__.co_filename for network in (first, second)))
import torch
thick = torch.randn(4, 8, 8)
print(float(first.refiner.refine(thick, 8).sum()), float(second.refiner.refine(thick, 8).sum()))
"""


def test_two_bundles_in_one_process_do_not_mix(packed, environment, tmp_path):
    other = shutil.copytree(packed["folder"], tmp_path / "other")
    module = other / "scripts" / "common" / "networks" / "slice_refiner.py"
    text = module.read_text()
    assert "HU_SCALE = 1000.0" in text
    module.write_text(text.replace("return (HU_SCALE * (base", "return (0 * (base"))
    ct = write_thin_ct(tmp_path / "ct.nii.gz", spacing=(1.5, 1.5, 5.0))
    words = ["-c", TWO, packed["folder"], str(other), str(ct), str(tmp_path / "out")]
    files, sums = run_python(words, environment, "/", tmp_path / "log").strip().splitlines()[-2:]
    assert [Path(file).parents[3] for file in files.split()] == [Path(packed["folder"]), other]
    assert float(sums.split()[0]) != 0 and float(sums.split()[1]) == 0


ALTERNATING = """
import sys
from monai.bundle import ConfigWorkflow
import nibabel as nib

def run(root, out):  # as anybody would, without a thought of the other bundle
    workflow = ConfigWorkflow(f"{root}/configs/inference.json", workflow_type="infer", bundle_root=root,
                              logging_file=False, input=sys.argv[3], output_dir=out, tta=False, project=False)
    workflow.initialize()
    return workflow

a, b = run(sys.argv[1], sys.argv[4] + "/a"), run(sys.argv[2], sys.argv[4] + "/b")
a.run(), b.run(), a.run(), run(sys.argv[1], sys.argv[4] + "/c").run(), b.run()
ct = nib.load(sys.argv[3]).shape
print(*(abs(nib.load(f"{sys.argv[4]}/{name}/ct.nii.gz").get_fdata()).max() > 0 for name in "abc"))
"""


def test_two_bundles_of_plain_monai_take_turns(packed, environment, tmp_path):
    other = shutil.copytree(packed["folder"], tmp_path / "other")
    module = other / "scripts" / "common" / "networks" / "slice_refiner.py"
    module.write_text(module.read_text().replace("return (HU_SCALE * (base", "return (0 * (base"))
    ct = write_thin_ct(tmp_path / "ct.nii.gz", spacing=(1.5, 1.5, 5.0))
    words = ["-c", ALTERNATING, packed["folder"], str(other), str(ct), str(tmp_path)]
    said = run_python(words, environment, "/", tmp_path / "log")
    assert said.strip().splitlines()[-1] == "True False True"


def test_vendored_code_imports_nothing_of_the_library_inside_functions(packed):
    # Such an import would find another bundle's copy if one has been loaded in between.
    for path in (Path(packed["folder"]) / "scripts").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                inner = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                assert not any((node.module or "").startswith("scripts") for node in inner), path


def test_weights_are_asked_for(tmp_path):
    with pytest.raises(BadInput, match="expected weights to pack; `python -m common run"):
        pack_bundle(BUNDLE, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_none_and_sizes_of_nothing_are_named(weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "weights")
    (folder / "network.json").write_text('{"refiner_def#no_such": 1}')
    with pytest.raises(BadInput, match="network.json: sets refiner_def#no_such, expected ids of"):
        pack_bundle(BUNDLE, tmp_path / "out", folder)
    (folder / "model.pt").write_text("not weights")
    with pytest.raises(BadInput, match="model.pt: cannot be read as a file of weights"):
        pack_bundle(BUNDLE, tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


def test_weights_can_be_remote(tmp_path):
    copy = shutil.copytree(BUNDLE, tmp_path / BUNDLE.name, ignore=shutil.ignore_patterns("models", "runs", "eval"))
    entry = {"path": "models/model.pt", "url": "https://host/model.pt", "hash_val": "ab", "hash_type": "sha256"}
    (copy / "large_files.yml").write_text(json.dumps({"large_files": [entry]}))  # JSON is YAML
    result = pack_bundle(copy, tmp_path / "out")
    assert check_bundle(result["folder"]) == [] and not (Path(result["folder"]) / "models").exists()


def test_what_is_no_packed_bundle_is_not_replaced(packed, weights, tmp_path):
    mine = tmp_path / BUNDLE.name / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(BadInput, match="is no packed bundle"):
        pack_bundle(BUNDLE, tmp_path, weights)
    assert mine.read_text() == "mine"
    shutil.rmtree(mine.parent)
    for _ in range(2):
        pack_bundle(BUNDLE, tmp_path, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == [BUNDLE.name, f"{BUNDLE.name}_v0.1.0.zip"]


def test_a_version_needs_its_change(weights, tmp_path):
    copy = shutil.copytree(BUNDLE, tmp_path / BUNDLE.name, ignore=shutil.ignore_patterns("models", "runs", "eval"))
    file = copy / "configs" / "metadata.json"
    file.write_text(file.read_text().replace('"version": "0.1.0"', '"version": "0.2.0"'))
    with pytest.raises(BadInput, match="has version '0.2.0', expected one that its changelog explains"):
        pack_bundle(copy, tmp_path / "out", weights)


def test_what_a_configuration_names():
    config = {
        "a": {"_target_": "common.data.seeds.seeded_generator"},
        "b": ["$from common.losses.vae_loss import VAELoss", "$common.nothing", "uncommon.data.seeds"],
        "c": {"_target_": "scripts.common.losses.slab_loss.SlabLoss"},
    }
    assert modules_of_config(config) == {"data/seeds.py", "losses/vae_loss.py", "losses/slab_loss.py"}
    written = with_vendored_targets(config)
    assert written["a"]["_target_"] == "scripts.common.data.seeds.seeded_generator"
    assert written["c"] == config["c"] and written["b"][2] == "uncommon.data.seeds"
    files = vendored_files(["transforms/thick.py"])
    assert {"scripts/__init__.py", "scripts/common/__init__.py", "scripts/common/transforms/slabs.py"} <= {*files}
    assert b"from scripts.common.transforms.slabs import" in files["scripts/common/transforms/thick.py"]
    assert packages_of(files)["torch"] == "2.13.0"


def test_the_command(weights, tmp_path, capsys):
    assert main(["pack", str(BUNDLE), "--out", str(tmp_path), "--ckpt_dir", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["zip"] == str(tmp_path / f"{BUNDLE.name}_v0.1.0.zip")


def test_a_module_is_packed_with_the_data_files_it_names() -> None:
    files = vendored_files(["text/cxr_labeller.py"])
    lexicons = {path for path in files if path.endswith(".yaml")}
    assert lexicons == {f"scripts/common/text/{name}_lexicon.yaml" for name in ("cxr", "context")}


def test_sizes_of_the_weights_leave_what_an_overlay_changes(tmp_path):
    folder = make_packed(tmp_path, write_prepared(tmp_path / "data"))
    config = json.loads((folder / "configs" / "train.json").read_text())
    assert config["vision_def"]["config"]["hidden_size"] == 16 and config["fusion_def"]["sizes"]["clinical"] == 8
    assert config["fusion_def"]["modalities"] == "@modalities" and config["fusion_def"]["labels"] == "$len(@labels)"
    sizes = json.loads((folder / "models" / "network.json").read_text())  # the second stage builds its network from it
    assert sizes["fusion_def"]["modalities"] == ["vision", "text", "clinical"]
    assert sizes["fusion_def"]["_target_"].startswith("scripts.common.")
    assert check_bundle(folder) == []


# ---- a classifier -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A packed classifier, and the prepared folder and the weights that it was packed with."""
    data = write_prepared(tmp_path_factory.mktemp("prepared"))
    weights = write_weights(tmp_path_factory.mktemp("classifier"), data)
    shutil.copytree(weights, weights / "baselines" / "text")
    for name, source in (("pt", "model.pt"), ("json", "network.json")):
        shutil.copyfile(weights / source, weights / f"encoders.{name}")
    return pack_bundle(CLASSIFIER, tmp_path_factory.mktemp("packed"), weights), data, weights


def test_tokenizer_and_scaling_travel_with_the_weights(classifier):
    packed, _, weights = classifier
    models = Path(packed["folder"]) / "models"
    here = {path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file()}
    tokenizer = {f"tokenizer/{path.name}" for path in (weights / "tokenizer").iterdir()}
    assert here == {"model.pt", "network.json", "clinical.json"} | tokenizer and tokenizer
    for name in here - {"network.json"}:
        assert (models / name).read_bytes() == (weights / name).read_bytes(), name
    metadata = json.loads((models.parent / "configs" / "metadata.json").read_text())
    assert set(metadata["checksum"]) == {f"models/{name}" for name in here - {"network.json"}}
    assert check_bundle(packed["folder"]) == check_bundle(packed["zip"]) == []
    with zipfile.ZipFile(packed["zip"]) as archive:
        assert f"{CLASSIFIER.name}/models/clinical.json" in archive.namelist()


def test_a_packed_classifier_needs_nothing_from_outside(classifier, environment, tmp_path):
    """Image and note, by MONAI alone where `common` cannot be imported: the same numbers as here."""
    packed, data, weights = classifier
    image, note = data / "files" / "test01.png", "Fell from a ladder, chest pain."
    predict(CLASSIFIER, image, tmp_path / "ours", weights, {"note": note, "pictures": False})
    folder = shutil.move(packed["folder"], tmp_path / "elsewhere")
    try:
        words = ["-m", "monai.bundle", "run", "--config_file", f"{folder}/configs/inference.json", "--bundle_root"]
        words += [str(folder), "--input", str(image), "--output_dir", str(tmp_path / "theirs"), "--pictures", "False"]
        run_python([*words, "--note", note], environment, tmp_path, tmp_path / "log")
    finally:
        shutil.move(folder, packed["folder"])
    for name in ("test01.json", "predictions.csv"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
