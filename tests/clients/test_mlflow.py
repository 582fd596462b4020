"""`--tracking mlflow` with the real package, into files below the run folder."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.client
ROOT = Path(__file__).parents[2]
OPTIONS = {
    "virtual": "{'n': 4, 'shape': [60, 64, 64], 'spacing': [3.0, 3.0, 3.0], 'seed': 7}", "max_minutes": "null",
    "max_epochs": "2", "warmup_epochs": "0", "patches_per_epoch": "64", "patch_size": "[16,16]", "patch_ratios": "[2]",
    "batch_size": "8", "val_interval": "8", "refiner_def#channels": "[8,16]", "refiner_def#blocks": "[1,1]",
}  # fmt: skip
READ = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
found = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        found.append({"metrics": run.data.metrics, "status": run.info.status})
print("RUNS", json.dumps(found))
"""


def test_a_run_is_tracked(clients_python, tmp_path):
    out = tmp_path / "run"
    words = [word for key, value in OPTIONS.items() for word in (f"--{key}", value)]
    command = [str(clients_python), "-m", "common", "run", str(ROOT / "bundles" / "ct_slice_interpolation")]
    command += ["--scale", "real_cpu", "--tracking", "mlflow", "--output_dir", str(out), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    read = [str(clients_python), "-c", READ, f"sqlite:///{out}/mlruns.db"]
    said = subprocess.run(read, env=environment, capture_output=True, text=True, check=True).stdout
    runs = json.loads(next(line for line in said.splitlines() if line.startswith("RUNS")).removeprefix("RUNS "))
    metrics = {name for run in runs for name in run["metrics"]}
    assert "train_loss" in metrics and "psnr" in metrics, runs
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
