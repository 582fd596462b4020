"""MONAI's own programs on the packed `mdfnet_cxr`: its subcommands, `load`, `create_workflow`, property checks."""

import ast
import json
import os
import shutil

import pytest
import torch

from common.apps.packaging.check import check_bundle
from common.apps.predict import predict
from common.networks.study_encoders import build_network
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.bundles.meta_schema import SCHEMA
from tests.clients.packed import python, without_common
from tests.clients.packed_mdfnet import BUNDLE, SETTINGS, make_packed, write_prepared

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("bundle"), data)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return without_common(tmp_path_factory.mktemp("shadow"))


@pytest.fixture
def inside(bundle, env):
    """Where the bundle is on the path, as `monai.bundle run` puts it there for itself."""
    return env | {"PYTHONPATH": f"{env['PYTHONPATH']}{os.pathsep}{bundle}"}


@pytest.fixture
def network(bundle):
    return build_network(bundle / "models/network.json").load(bundle / "models/model.pt")


def monai(env, verb, *words, **options):
    return python("-m", "monai.bundle", verb, *words, env=env, **options)


def files(bundle):
    return ["--meta_file", bundle / "configs/metadata.json", "--config_file", bundle / "configs/inference.json"]


def options():
    return [word for key, value in json.loads(SETTINGS).items() for word in (f"--{key}", value)]


def test_mdfnet_verify_metadata(bundle, env, tmp_path):
    local = tmp_path / "schema.json"
    local.write_bytes(SCHEMA.read_bytes())
    said = monai(env, "verify_metadata", "--meta_file", bundle / "configs/metadata.json", "--filepath", local)
    assert "metadata is verified with no error" in said


def test_mdfnet_metadata_is_typed_as_clients_read_it(bundle):
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    inputs, outputs = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
    assert next(iter(inputs)) == "image" and list(outputs) == ["pred"]
    # MONAI Deploy casts an output of type image to uint8, and of one of type probabilities it names one class per value
    assert outputs["pred"]["type"] == "tuple"
    assert list(outputs["pred"]["channel_def"].values()) == list(CHEXPERT_LABELS)
    assert metadata["required_packages_version"].keys() >= {"transformers", "safetensors", "pydicom", "pillow"}
    assert check_bundle(bundle) == []


def test_mdfnet_verify_net_in_out(bundle, inside):
    said = monai(inside, "verify_net_in_out", "--net_id", "network_def", *files(bundle), "--n", 2, "--device", "cpu")
    assert "data shape of network is verified with no error" in said


def test_mdfnet_ckpt_export_to_torchscript(bundle, inside, network, tmp_path):
    words = ["--net_id", "network_def", "--filepath", tmp_path / "model.ts", *files(bundle)]
    words += ["--ckpt_file", bundle / "models/model.pt", "--use_trace", "True", "--input_shape", "[1,3,28,28]"]
    monai(inside, "ckpt_export", *words)
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    for shape in ((1, 3, 28, 28), (3, 3, 28, 28), (2, 3, 42, 28)):  # not only the shape it was traced with
        image = torch.randn(shape)
        torch.testing.assert_close(exported(image), network(image))


ONNX = """
import sys, onnx
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model)
print("SHAPES", [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.output])
"""


def test_mdfnet_onnx_export(bundle, inside, tmp_path, clients_python):
    words = ["--net_id", "network_def", "--filepath", tmp_path / "model.onnx", "--input_shape", "[1,3,28,28]"]
    words += ["--ckpt_file", bundle / "models/model.pt", *files(bundle)]
    monai(inside, "onnx_export", *words, program=clients_python)
    said = python("-c", ONNX, tmp_path / "model.onnx", env=inside, program=clients_python)
    assert "SHAPES [[1, 14]]" in said


WORKFLOWS = """
import json, sys
from pathlib import Path
root, data, image, out, settings = sys.argv[1:6]
sys.path.insert(0, root)  # MONAI adds it in run() only
from monai.bundle import ConfigWorkflow, create_workflow, load

files = lambda *names: [f"{root}/configs/{name}.json" for name in names]
where = {"bundle_root": root, "logging_file": False, "output_dir": out}
settings = where | {"dataset_dir": data} | json.loads(settings)
inference = ConfigWorkflow(files("inference"), workflow_type="infer", input=image, **where)
inference.initialize()
print("WRONG inference", inference.check_properties())
ConfigWorkflow(files("train", "features"), workflow_type="train", **settings).run()
for names in (["train"], ["train", "vision"], ["train", "text_clinical"], ["train", "stage1"], ["train", "stage2"],
              ["train", "evaluate"], ["train", "stage2", "evaluate"]):
    workflow = ConfigWorkflow(files(*names), workflow_type="train", **settings)
    for _ in range(2):  # as federated clients do
        workflow.initialize()
    print("WRONG", *names, workflow.check_properties())
workflow = create_workflow(config_file=files("inference")[0], workflow_type="infer", bundle_root=root, input=image,
                           output_dir=out + "/predicted", pictures=False)
workflow.run()
workflow.finalize()
place = {"bundle_dir": str(Path(root).parent), "source": "github", "repo": "a/b/c"}  # it lies there already
for kind in ("inference", "train"):
    network = load(Path(root).name, workflow_type=kind, **place)
    print("LOADED", kind, type(network).__name__, len(network.state_dict()))
"""


def test_mdfnet_workflows_and_load(bundle, data, env, network, tmp_path):
    image = data / "files" / "test00.png"
    said = python("-c", WORKFLOWS, bundle, data, image, tmp_path / "out", SETTINGS, env=env)
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 8 and all(line.endswith(" []") for line in wrong), wrong
    assert json.loads((tmp_path / "out/predicted/test00.json").read_text())["modalities"] == ["vision"]
    tensors = network.state_dict()
    assert f"LOADED inference MDFNet {len(tensors)}" in said
    trained_in_stage1 = [name for name in tensors if name.startswith(("clinical.", "fusion."))]
    assert f"LOADED train FeatureMDFNet {len(trained_in_stage1)}" in said


def test_mdfnet_inference_gives_the_bits_of_predict(bundle, data, env, tmp_path):
    predict(BUNDLE, data, tmp_path / "ours", bundle.parents[1] / "weights", {"pictures": False})
    words = ["--config_file", bundle / "configs/inference.json", "--bundle_root", bundle, "--input", data]
    monai(env, "run", *words, "--output_dir", tmp_path / "theirs", "--pictures", "False")
    ours, theirs = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs and ours.count(b"\n") == 33


EVALUATED = "['configs/train.json','configs/{stage}.json','configs/evaluate.json']"


def test_mdfnet_evaluates_by_an_overlay(bundle, data, env, tmp_path):
    words = ["--dataset_dir", data, "--output_dir", tmp_path, *options()]
    monai(env, "run", "--config_file", "['configs/train.json','configs/features.json']", *words, cwd=bundle)
    said = {
        stage: monai(env, "run", "--config_file", EVALUATED.format(stage=stage), *words, cwd=bundle)
        for stage in ("stage1", "stage2")
    }
    found = {stage: ast.literal_eval(text.splitlines()[-1]) for stage, text in said.items()}
    # the same weights, once on cached features and once on the studies themselves
    assert 0 < found["stage2"]["mean_auroc"] < 1 and found["stage1"] == pytest.approx(found["stage2"], abs=1e-5)
    assert not (tmp_path / "stage2").exists()


def test_mdfnet_trains_in_two_processes(bundle, data, env, tmp_path):
    names = "['configs/train.json','configs/stage2.json','configs/multi_gpu_train.json']"
    words = ["--dataset_dir", data, "--output_dir", tmp_path / "out", "--ckpt_dir", tmp_path / "models", *options()]
    shutil.copytree(bundle / "models", tmp_path / "models")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    python(*start, "--config_file", names, *words, "--max_epochs", 2, "--warmup_epochs", 0, env=env, cwd=bundle)
    assert len(json.loads((tmp_path / "out/stage2/history.json").read_text())["validations"]) >= 2
    before, after = (torch.load(root / "models/model.pt", weights_only=True) for root in (bundle, tmp_path))
    assert after.keys() == before.keys()
    assert sum(not torch.equal(after[name], before[name]) for name in before) > 50


@pytest.mark.parametrize("only", ["vision", "text", "clinical"])
def test_mdfnet_with_one_modality_runs_alone(data, env, only, tmp_path):
    packed = make_packed(tmp_path, data, (only,))
    words = ["--config_file", packed / "configs/inference.json", "--bundle_root", packed, "--input", data]
    monai(env, "run", *words, "--output_dir", tmp_path / "out", "--split", "test")
    found = json.loads((tmp_path / "out/test00.json").read_text())
    assert found["modalities"] == [only] and list(found["labels"]) == list(CHEXPERT_LABELS)
