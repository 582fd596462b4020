"""`--tracking mlflow` with the real package, into files below the run folder.

MLflow has its own environment, `.venv-mlflow` in the repository (THORAX_MLFLOW_VENV names another place): the packages
of this one and MLflow with what it needs besides, from the package index.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.client
ROOT = Path(__file__).parents[2]
PLACE = Path(os.environ.get("THORAX_MLFLOW_VENV", ROOT / ".venv-mlflow"))
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


@pytest.fixture(scope="session")
def mlflow_python():
    """Python of an environment with MLflow."""
    python = PLACE / "bin" / "python"
    if not (PLACE / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
        where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "mlflow==3.17.2"], check=True)
        (PLACE / "ready").touch()
    return python


def test_a_run_is_tracked(mlflow_python, tmp_path):
    out = tmp_path / "run"
    words = [word for key, value in OPTIONS.items() for word in (f"--{key}", value)]
    command = [str(mlflow_python), "-m", "common", "run", str(ROOT / "bundles" / "ct_slice_interpolation")]
    command += ["--scale", "real_cpu", "--tracking", "mlflow", "--output_dir", str(out), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    read = [str(mlflow_python), "-c", READ, f"sqlite:///{out}/mlruns.db"]
    said = subprocess.run(read, env=environment, capture_output=True, text=True, check=True).stdout
    runs = json.loads(next(line for line in said.splitlines() if line.startswith("RUNS")).removeprefix("RUNS "))
    metrics = {name for run in runs for name in run["metrics"]}
    assert "train_loss" in metrics and "psnr" in metrics, runs
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
