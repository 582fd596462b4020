"""The bundle at the sizes of the document, what two processes make of a stage, and that frozen means frozen."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from common.apps.run.plan import plan_bundle

BUNDLE = Path(__file__).parents[2] / "bundles" / "llava_med_report"
CONFIGS = BUNDLE / "configs"


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def test_the_documents_keys_and_stages():
    train, recipe = config("train"), config("recipe")
    document = {"max_epochs": 3, "batch_size": 4, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
    document |= {"learning_rate": 2e-4, "projector_lr": 2e-5, "warmup_share": 0.03, "max_grad_norm": 1.0}
    document |= {"n_images": 10003, "stage_a_share": 0.35, "without_ehr": 0.3, "max_length": 2048, "image_size": 336}
    document |= {"quantization": None, "precision": "bfloat16"}
    assert {key: train[key] for key in document} == document
    assert [s["name"] for s in recipe["stages"] if s.get("optional")] == ["vision", "language"]
    assert [s["name"] for s in recipe["stages"]][-2:] == ["stage_a", "stage_b"]


def test_published_sizes():
    rows = {row["stage"]: row for row in plan_bundle(BUNDLE, "paper")["stages"]}
    for stage in ("stage_a", "stage_b"):
        assert rows[stage]["trainable"] == 62_922_752
        assert rows[stage]["parameters"] == 7_566_743_552 + 41_943_040
        assert rows[stage]["checkpoint"] < 1e9 and 15e9 < rows[stage]["weights"] < 15.6e9


@pytest.fixture(scope="module")
def prepared(smoke_run):
    """The smoke run, which has a base, a curriculum and features."""
    return smoke_run(BUNDLE)[0]


def test_the_base_stays_as_it_is(prepared):
    """What both stages saved are adapter and projector alone; the base is the one that was converted."""
    from common.llm.llava_conversion import base_hash

    sizes = json.loads((prepared / "models" / "network.json").read_text())
    assert sizes["base_hash"] == base_hash(prepared / "models" / "base")
    state = torch.load(prepared / "models" / "model.pt", weights_only=True)
    assert all(".lora_" in name or "multi_modal_projector" in name for name in state)
    base = {}
    for file in (prepared / "models" / "base").glob("*.safetensors"):
        base |= load_file(file)
    moved = [
        n for n in state if "projector" in n and not torch.equal(state[n], base[n.removeprefix("network.")].float())
    ]
    assert moved, "the projector was trained"


def stage(prepared, out, processes):
    """Files and overrides of stage b, without chance."""
    for name in ("features", "cache", "data", "models"):
        shutil.copytree(prepared / name, out / name, dirs_exist_ok=True)
    names = ["train", "stage_b", "demo", "smoke", *(["multi_gpu_train"] if processes == 2 else [])]
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(prepared / "data" / "virtual"), "output_dir": str(out)}
    places |= {"ckpt_dir": str(out / "models"), "batch_size": 4 // processes, "max_epochs": 2, "lora_dropout": 0.0}
    places |= {
        "curriculum_dir": str(prepared / "curriculum"),
        "max_new_tokens": 2,
        "precision": "float32",
        "train#inferer#dtype": "float32",
    }
    return [str(CONFIGS / f"{name}.json") for name in names], places


def test_two_processes_give_what_one_does(prepared, tmp_path):
    """Answers of different lengths, so that the processes have different numbers of tokens."""
    one, two = tmp_path / "one", tmp_path / "two"
    files, options = stage(prepared, two, 2)
    listed = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files), *listed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files, options = stage(prepared, one, 1)
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
    for step in (workflow.initialize, workflow.run, workflow.finalize):
        step()
    states = [torch.load(out / "stage_b" / "checkpoints" / "best.pt", weights_only=True) for out in (one, two)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=2e-4, rtol=2e-3)
