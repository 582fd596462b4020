"""`multi_gpu_train.json` with two gloo processes: the one-process result, resume, and a process that dies."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from tests.bundles.test_ct_slice_interpolation import BUNDLE, CONFIGS

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SETTINGS = {"max_epochs": 3, "warmup_epochs": 0, "precision": "float32", "accumulation_steps": 1, "sampling_steps": 2}
SETTINGS |= {"num_workers": 0, "val_interval": 4, "ckpt_interval": 1000, "seed": 0}


@pytest.fixture(scope="module")
def latents(smoke_run, tmp_path_factory):
    """A run folder after the stages vae and latents, four training cases: the smoke run without what came after."""
    whole, _ = smoke_run(BUNDLE)
    out = tmp_path_factory.mktemp("latents")
    for name in ("data", "latents", "cache"):
        shutil.copytree(whole / name, out / name)
    state = torch.load(whole / "models" / "model.pt", weights_only=True)
    (out / "models").mkdir()
    early = {name: tensor for name, tensor in state.items() if not name.startswith(("unet.", "refiner."))}
    torch.save(early, out / "models" / "model.pt")
    return out


def stage(latents, out, processes, **settings):
    """Files and overrides of the diffusion stage; two processes halve the batch."""
    (out / "models").mkdir(parents=True, exist_ok=True)
    shutil.copy(latents / "models" / "model.pt", out / "models")
    names = ["train", "diffusion", "demo", *(["multi_gpu_train"] if processes == 2 else [])]
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(latents / "data"), "output_dir": str(out)}
    places |= {"ckpt_dir": str(out / "models")}
    places |= {"latent_index": str(latents / "latents"), "batch_size": 2 // processes}
    files = [str(CONFIGS / f"{name}.json") for name in names]
    return files, SETTINGS | places | settings


def words(latents, out, **settings):
    """The command of the diffusion stage for two processes."""
    files, options = stage(latents, out, 2, **settings)
    listed = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [sys.executable, *TORCHRUN, "-m", "monai.bundle", "run", "--config_file", str(files), *listed]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}


def run(latents, out, **settings):
    """Run the diffusion stage in two processes."""
    command = words(latents, out, **settings)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def unet(out):
    state = torch.load(out / "models" / "model.pt", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("unet.")}


def losses(out):
    history = json.loads((out / "diffusion" / "history.json").read_text())
    return [entry["loss"] for entry in history["iterations"]], history["validations"][-1]


@pytest.fixture(scope="module")
def two(latents, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    run(latents, out)
    return out


def test_two_processes_give_what_one_does(latents, two, tmp_path):
    files, options = stage(latents, tmp_path, 1)
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
    for step in (workflow.initialize, workflow.run, workflow.finalize):
        step()
    one, both = unet(tmp_path), unet(two)
    assert one.keys() == both.keys() and len(one) > 100
    for name in one:
        torch.testing.assert_close(one[name], both[name], atol=1e-4, rtol=1e-3)
    (_, validation), (_, expected) = losses(two), losses(tmp_path)
    assert validation["psnr"] == pytest.approx(expected["psnr"], abs=0.01)
    assert validation["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_killed_run_of_two_processes_ends_alike(latents, two, tmp_path):
    command = words(latents, tmp_path, ckpt_interval=1, val_interval=1000)
    process = subprocess.Popen(command, env=environment(), start_new_session=True, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "diffusion" / "checkpoints"
    while not list(checkpoints.glob("*.pt")):
        assert process.poll() is None, process.stderr.read().decode()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(tmp_path / "uninterrupted", ignore_errors=True)
    run(latents, tmp_path / "uninterrupted", ckpt_interval=1, val_interval=1000)
    log = run(latents, tmp_path, ckpt_interval=1, val_interval=1000)
    assert "resumed after iteration" in log
    found, expected = unet(tmp_path), unet(tmp_path / "uninterrupted")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_two_machines_give_what_one_does(latents, two, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    command = words(latents, tmp_path, backend="gloo")
    start = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={place}", "--rdzv_id=test"]
    command[1 : 1 + len(TORCHRUN)] = ["-m", "torch.distributed.run", *start]
    agents = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    found, expected = unet(tmp_path), unet(two)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(latents, tmp_path):
    command = words(latents, tmp_path, max_epochs=2000)
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if re.search(r"iterations in", line):
            break
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    process.communicate(timeout=120)  # the other process does not wait for the dead one
    assert process.returncode != 0
