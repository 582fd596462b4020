"""A stage under MONAI's own command, alone and on two machines that share nothing but a store."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch

from common.apps.run.recipe import run_recipe
from common.apps.run.remote_run import local_words
from common.io.remote_folder import working_copy
from tests.bundles.test_mdfnet_cxr import BUNDLE, CONFIGS, ROOT, SIZES, TINY

STORE = fsspec.filesystem("memory")
PLACES = ["--dataset_dir", "memory://b/data", "--output_dir", "memory://b/run/", "--ckpt_dir", "memory://b/run/models"]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("THORAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    STORE.store.clear()
    STORE.pipe({"/b/data/manifest.csv": b"case", "/b/run/models/model.pt": b"1"})


def test_the_first_process_writes() -> None:
    words = ["run", "--config_file", "['a.json']", *PLACES, "--tracking_uri", "http://host:5000"]
    with local_words(words) as local:
        given = dict(zip(local, local[1:], strict=False))
        assert [word for word in local if word.startswith("-")] == [word for word in words if word.startswith("-")]
        assert local[:3] == words[:3] and given["--tracking_uri"] == "http://host:5000"
        assert (Path(given["--dataset_dir"]) / "manifest.csv").is_file()
        assert Path(given["--ckpt_dir"]) == Path(given["--output_dir"]) / "models"
        assert (Path(given["--ckpt_dir"]) / "model.pt").read_text() == "1"
        (Path(given["--ckpt_dir"]) / "model.pt").write_text("2")
    assert STORE.cat("/b/run/models/model.pt") == b"2"


def test_the_others_read() -> None:
    with working_copy("memory://b/run"), local_words(["run", *PLACES], rank=1) as local:
        folder = Path(local[local.index("--ckpt_dir") + 1])
        assert (folder / "model.pt").read_text() == "1"
        (folder / "model.pt").write_text("2")
    assert STORE.cat("/b/run/models/model.pt") == b"1"
    STORE.rm("/b/run", recursive=True)
    with local_words(["run", *PLACES], rank=1) as local:  # nothing is there yet
        assert Path(local[local.index("--output_dir") + 1]).is_dir()


def test_local_words_stay() -> None:
    words = ["run", "--dataset_dir", "/data", "--output_dir", "runs/a", "--ckpt_dir", "runs/a/models"]
    with local_words(words) as local:
        assert local == words
    with local_words([*words[:-1], "memory://b/weights"]) as local:
        assert local[:-1] == words[:-1] and Path(local[-1]).name == "weights"


@pytest.mark.slow
def test_two_machines_that_share_a_store_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    sizes = {key: value for key, value in TINY.items() if not key.startswith("max_epochs")}
    run_recipe(BUNDLE, "demo", "encoders,features", output_dir=store / "run", overrides=sizes)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    start = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={place}", "--rdzv_id=test"]
    url = f"file://{store}/run"
    options = SIZES | {"max_epochs": 3, "warmup_epochs": 0, "batch_size": 2, "precision": "float32", "ckpt_interval": 1}
    options |= {"bundle_root": BUNDLE, "dataset_dir": f"{url}/data/virtual", "output_dir": url}
    options |= {"ckpt_dir": f"{url}/models", "small_sample": 4}
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "stage1", "demo", "multi_gpu_train")]
    command = [sys.executable, "-m", "torch.distributed.run", *start, "-m", "common.apps.run.remote_run", "run"]
    command += ["--config_file", str(files)]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    agents = []
    for name in "ab":
        own = {"XDG_CACHE_HOME": str(tmp_path / name), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        (tmp_path / name).mkdir()
        agents.append(
            subprocess.Popen(
                command, env=os.environ | own, cwd=tmp_path / name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )
        )  # fmt: skip
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(text[-3000:] for text in said)
    best = list(tmp_path.glob("?/thorax-bundles/**/checkpoints/best_mean.pt"))
    assert len([path for path in best if "stage1" in path.parts]) == 1  # the other machine has not seen the file
    assert json.loads((store / "run" / "stage1" / "history.json").read_text())["validations"]
    state = torch.load(store / "run" / "models" / "model.pt", weights_only=True)
    final = torch.load(store / "run" / "stage1" / "checkpoints" / "best_mean.pt", weights_only=True)
    assert all(torch.equal(state[name], final[name]) for name in final)
