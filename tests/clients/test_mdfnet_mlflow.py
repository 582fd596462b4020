"""`--tracking mlflow` with the real package, on the first stage of `mdfnet_cxr`."""

import json
import os
import subprocess

import pytest

from tests.clients.packed_mdfnet import BUNDLE, write_prepared
from tests.clients.test_mlflow import READ, ROOT

pytestmark = pytest.mark.client
SIZES = {
    "image_size": "32", "max_tokens": "64", "vocab_size": "200", "early_stopping": "5",
    "stage_overrides": "{'encoders': {'max_epochs': 1, 'warmup_epochs': 0}}", "max_epochs": "2", "warmup_epochs": "0",
}  # fmt: skip


def test_a_run_of_mdfnet_is_tracked(clients_python, tmp_path):
    data, out = write_prepared(tmp_path / "data"), tmp_path / "run"
    words = [word for key, value in SIZES.items() for word in (f"--{key}", value)]
    command = [str(clients_python), "-m", "common", "run", str(BUNDLE), "--scale", "demo", "--tracking", "mlflow"]
    command += ["--stages", "encoders,features,stage1", "--dataset_dir", str(data), "--output_dir", str(out), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    read = [str(clients_python), "-c", READ, f"sqlite:///{out}/mlruns.db"]
    said = subprocess.run(read, env=environment, capture_output=True, text=True, check=True).stdout
    runs = json.loads(next(line for line in said.splitlines() if line.startswith("RUNS")).removeprefix("RUNS "))
    metrics = {name for run in runs for name in run["metrics"]}
    assert {"train_loss", "mean_auroc", "pooled_auroc"} <= metrics, metrics
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]
