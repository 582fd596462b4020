"""MONAI's own programs on the packed bundle: its subcommands, `load`, `create_workflow`, property checks."""

import nibabel as nib
import numpy as np
import pytest
import torch

from common.transforms.slabs import average_slabs
from tests.bundles.meta_schema import SCHEMA
from tests.clients.packed import make_packed, python, without_common
from tests.data.ct.thin_ct import write_manifest, write_thin_ct

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return without_common(tmp_path_factory.mktemp("shadow"))


def monai(env, verb, *words):
    return python("-m", "monai.bundle", verb, *words, env=env)


def test_verify_metadata(bundle, env, tmp_path):
    local = tmp_path / "schema.json"
    local.write_bytes(SCHEMA.read_bytes())
    said = monai(env, "verify_metadata", "--meta_file", bundle / "configs/metadata.json", "--filepath", local)
    assert "metadata is verified with no error" in said


def test_verify_net_in_out(bundle, env):
    files = ["--meta_file", bundle / "configs/metadata.json", "--config_file", bundle / "configs/inference.json"]
    # what `monai.bundle run` does for itself
    env = env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{bundle}"}
    said = monai(env, "verify_net_in_out", "--net_id", "network_def", *files, "--any", 8, "--device", "cpu")
    assert "data shape of network is verified with no error" in said


def test_ckpt_export_to_torchscript(bundle, env, tmp_path):
    env = env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{bundle}"}
    files = ["--meta_file", bundle / "configs/metadata.json", "--config_file", bundle / "configs/inference.json"]
    words = [
        "--net_id",
        "network_def",
        "--filepath",
        tmp_path / "model.ts",
        "--ckpt_file",
        bundle / "models/model.pt",
        *files,
    ]
    monai(env, "ckpt_export", *words, "--use_trace", "True", "--input_shape", "[1,1,4,16,24]")
    network = torch.jit.load(str(tmp_path / "model.ts"))
    thick = 300 * torch.randn(1, 1, 4, 16, 24)
    thin = network(thick)
    assert thin.shape == (1, 1, 20, 16, 24)
    torch.testing.assert_close(average_slabs(thin[0, 0], 4), thick[0, 0], atol=1e-2, rtol=0)


CHECK_ONNX = """
import sys, onnx
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model)
print("SHAPES", [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.output])
"""


def test_onnx_export(bundle, env, tmp_path, clients_python):
    env = env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{bundle}"}
    files = ["--meta_file", bundle / "configs/metadata.json", "--config_file", bundle / "configs/inference.json"]
    words = ["--net_id", "network_def", "--filepath", tmp_path / "model.onnx", "--input_shape", "[1,1,4,16,24]", *files]
    words += ["--ckpt_file", bundle / "models/model.pt"]
    python("-m", "monai.bundle", "onnx_export", *words, env=env, program=clients_python)
    said = python("-c", CHECK_ONNX, tmp_path / "model.onnx", env=env, program=clients_python)
    assert "SHAPES [[1, 1, 20, 16, 24]]" in said


WORKFLOWS = """
import sys
root, data, ct, out = sys.argv[1:5]
sys.path.insert(0, root)  # MONAI adds it in run() only
from monai.bundle import ConfigWorkflow, create_workflow, load
settings = {
    "bundle_root": root, "logging_file": False, "dataset_dir": data, "output_dir": out, "num_workers": 0,
    "patch_size": [8, 8], "patch_ratios": [2, 3],
    "rows": {"_target_": "scripts.common.data.manifest.read_split", "manifest": "@dataset_dir", "split": "train"},
}
files = [f"{root}/configs/train.json", f"{root}/configs/refiner.json"]
train = ConfigWorkflow(files, workflow_type="train", **settings)
infer = ConfigWorkflow(f"{root}/configs/inference.json", workflow_type="infer", bundle_root=root, logging_file=False,
                       input=ct)
for workflow in (train, infer):
    workflow.initialize()
    print("WRONG", workflow.check_properties())
workflow = create_workflow(config_file=f"{root}/configs/inference.json", workflow_type="infer", bundle_root=root,
                           input=ct, output_dir=out, tta=False)
workflow.run()
workflow.finalize()
from pathlib import Path
place = {"bundle_dir": str(Path(root).parent), "source": "github", "repo": "a/b/c"}  # it lies there already
network = load(Path(root).name, workflow_type="inference", **place)
print("LOADED", type(network).__name__, network.parts())
"""


def test_workflows_and_load(bundle, env, tmp_path):
    ct = write_thin_ct(tmp_path / "ct.nii.gz", spacing=(1.5, 1.5, 5.0))
    write_manifest(tmp_path / "data", {"a": "train", "b": "train", "c": "val"})
    said = python("-c", WORKFLOWS, bundle, tmp_path / "data", ct, tmp_path / "out", env=env)
    assert said.count("WRONG []") == 2
    assert "LOADED SliceInterpolator ('refiner',)" in said
    assert nib.load(tmp_path / "out" / "ct.nii.gz").shape == (12, 14, 115)


def test_inference_from_another_folder(bundle, env, tmp_path):
    ct = write_thin_ct(tmp_path / "ct.nii.gz", spacing=(1.5, 1.5, 5.0))
    words = ["--config_file", bundle / "configs/inference.json", "--bundle_root", bundle, "--input", ct]
    monai(env, "run", *words, "--output_dir", tmp_path / "out", "--target_slices", "46", "--target_spacing", "None")
    thin = nib.load(tmp_path / "out" / "ct.nii.gz")
    means = thin.get_fdata().reshape(12, 14, 23, 2).mean(-1)
    assert np.abs(means - nib.load(ct).get_fdata()).max() < 0.01
