"""The bundle at the sizes of the document, and what two processes make of a stage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.apps.run.bundle import open_bundle
from common.apps.run.plan import planned_stage
from common.networks.weights import count_parameters

BUNDLE = Path(__file__).parents[2] / "bundles" / "xr2text"
CONFIGS = BUNDLE / "configs"
STAGES = ("warmup", "easy", "medium", "hard", "finetune")


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.mark.parametrize(("scale", "queries"), [("paper", 16 + 7 * 8), ("a100_80gb", 16 + 7 * 8), ("gpu_8gb", 36)])
def test_published_sizes(scale, queries):
    parser = ConfigParser(planned_stage(open_bundle(BUNDLE), "warmup", scale).config)
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert 86.7e6 < count_parameters(network.vision) < 86.9e6
    assert 50e6 < count_parameters(network.queries) < 61e6 and 391e6 < count_parameters(network) < 402e6
    assert len(network.queries.queries) == queries


def test_the_documents_keys_and_stages():
    train, recipe = config("train"), config("recipe")
    document = {"batch_size": 32, "gradient_accumulation_steps": 1, "image_size": 512, "learning_rate": 5e-5}
    document |= {"encoder_lr": 1e-5, "projection_lr": 1e-4, "use_rdrop": False, "use_amp": True, "num_epochs": 50}
    assert {key: train[key] for key in document} == document
    assert train["last_epochs"] == dict(zip(STAGES, (5, 12, 25, 40, "@num_epochs"), strict=True))
    assert [s["name"] for s in recipe["stages"] if not s.get("optional")] == list(STAGES)
    assert {"vision", "language", "features", "plain"} == {s["name"] for s in recipe["stages"] if s.get("optional")}


@pytest.fixture(scope="module")
def prepared(smoke_run):
    """The smoke run, which has patients, features and a language model."""
    return smoke_run(BUNDLE)[0]


def stage(prepared, out, processes):
    """Files and overrides of the stage `plain` (cases with long and with short reports), without chance."""
    for name in ("features", "cache", "data", "models"):
        shutil.copytree(prepared / name, out / name, dirs_exist_ok=True)
    names = ["train", "plain", "demo", "smoke", *(["multi_gpu_train"] if processes == 2 else [])]
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(prepared / "data" / "virtual"), "output_dir": str(out)}
    places |= {"ckpt_dir": str(out / "models"), "batch_size": 4 // processes, "max_epochs": 2}
    places |= {"dropout": 0.0, "decoder_config#dropout": 0.0, "lr_scheduler#max_epochs": 8, "warmup_steps": 0}
    places |= {"context": []}  # which is hidden by chance
    return [str(CONFIGS / f"{name}.json") for name in names], places


def weights(out):
    return torch.load(out / "models" / "baselines" / "plain" / "model.pt", weights_only=True)


def test_two_processes_give_what_one_does(prepared, tmp_path):
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
    found, expected = weights(two), weights(one)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-4, rtol=1e-2)
    start = torch.load(prepared / "models" / "model.pt", weights_only=True)
    assert sum((expected[name] - start[name]).abs().max() > 1e-3 for name in expected if name in start) > 20
