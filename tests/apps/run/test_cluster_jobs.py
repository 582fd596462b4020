import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from common.apps.run.bundle import UsageError
from common.apps.run.cluster_jobs import render_job
from common.cli.main import main

BUNDLE = Path("bundles/ct_slice_interpolation")
PLACES = {"dataset_dir": "/data/ct", "output_dir": "/data/runs/a"}


def torchrun_words(text):
    """The torchrun command of a job, as the shell would split it."""
    words = shlex.split(text)
    return words[words.index("torchrun") :]


def test_a_slurm_job(tmp_path):
    text = render_job("slurm", BUNDLE, "diffusion", nodes=2, gpus=4, hours=12, **PLACES)["job"]
    file = tmp_path / "job.sh"
    file.write_text(text)
    assert subprocess.run(["bash", "-n", str(file)], capture_output=True).returncode == 0
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4", "#SBATCH --time=12:00:00", "#SBATCH --requeue"} <= {
        *lines
    }
    words = torchrun_words(text.split("srun ", 1)[1])
    assert words[1:3] == ["--nnodes=2", "--nproc_per_node=4"]
    assert words[words.index("-m") :][:3] == ["-m", "monai.bundle", "run"]
    assert "multi_gpu_train.json" in words[words.index("--config_file") + 1]
    assert words[words.index("--dataset_dir") + 1] == "/data/ct"


def test_a_kubernetes_job(capsys):
    words = ["--stage", "refiner", "--scale", "full_medium", "--nodes", "3", "--gpus", "8", "--batch_size", "32"]
    places = [word for key, value in PLACES.items() for word in (f"--{key}", value)]
    assert main(["job", "kubernetes", str(BUNDLE), *words, *places]) == 0
    service, job = yaml.safe_load_all(capsys.readouterr().out)
    assert service["metadata"]["name"] == job["metadata"]["name"] == "ct-slice-interpolation-refiner"
    assert service["spec"]["clusterIP"] == "None"
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    container = spec["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    found = torchrun_words(container["args"][0])
    assert "--rdzv_endpoint=ct-slice-interpolation-refiner-0.ct-slice-interpolation-refiner:29500" in found
    assert found[found.index("--batch_size") + 1] == "32"
    assert found[found.index("--learning_rate") + 1] == "0.001"  # of the scale for this stage


def test_what_is_wrong_is_named():
    with pytest.raises(UsageError, match="'slrm' is no kind of cluster, expected slurm or kubernetes; the nearest is"):
        render_job("slrm", BUNDLE, "diffusion", **PLACES)
    with pytest.raises(UsageError, match="--stage is 'difusion', expected one of .*; the nearest is diffusion"):
        render_job("slurm", BUNDLE, "difusion", **PLACES)
    with pytest.raises(UsageError, match="--gpus is 0"):
        render_job("slurm", BUNDLE, "diffusion", gpus=0, **PLACES)
    with pytest.raises(UsageError, match="--batch_sice is neither"):
        render_job("slurm", BUNDLE, "diffusion", overrides={"batch_sice": 1}, **PLACES)


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_a_job_on_object_storage(kind):
    text = render_job(kind, BUNDLE, "diffusion", "s3://b/ct", "gs://b/run", nodes=2)["job"]
    assert "-m common.apps.run.remote_run run" in text and "monai.bundle" not in text
    assert "--dataset_dir s3://b/ct --output_dir gs://b/run --ckpt_dir gs://b/run/models" in " ".join(text.split())
    assert "#SBATCH --output=./slurm-%j.log" in text or kind == "kubernetes"
