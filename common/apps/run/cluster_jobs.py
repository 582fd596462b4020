"""Job files for clusters: one stage of a recipe under torchrun, on one machine or several."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.apps.run.bundle import UsageError, hint, open_bundle
from common.apps.run.recipe import merged_stage
from common.apps.run.stage_runner import monai_command
from common.io.remote_folder import is_url

__all__ = ["KINDS", "render_job"]

KINDS = {"slurm": "slurm.sh.j2", "kubernetes": "kubernetes.yaml.j2"}


def render_job(
    kind: str,
    bundle: str | os.PathLike[str],
    stage: str,
    dataset_dir: str,
    output_dir: str,
    scale: str = "paper",
    nodes: int = 1,
    gpus: int = 8,
    cpus: int = 16,
    memory_gb: int = 128,
    hours: int = 24,
    image: str = "thorax-bundles:0.1.0",
    claim: str = "ct-storage",
    storage_dir: str = "/storage",
    project_dir: str = ".",
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Text of a job that runs one stage with `multi_gpu_train.json`; nothing is submitted.

    Args:
        kind: "slurm" or "kubernetes".
        bundle: bundle folder, as the machines see it.
        stage: of its recipe.
        dataset_dir: prepared data; a folder, or a URL of object storage.
        output_dir: of the run, or its URL; `models` below it.
        scale: overlay, or "paper".
        nodes: machines.
        gpus: per machine, one process each.
        cpus: per machine.
        memory_gb: per machine.
        hours: limit of a Slurm job.
        image: Docker image, for Kubernetes.
        claim: persistent volume claim, for Kubernetes.
        storage_dir: where the claim is mounted.
        project_dir: where `.venv` and `bundles` are, for Slurm.
        overrides: configuration id -> value.

    Raises:
        UsageError: for an unknown kind, stage or id, or a number below 1.
    """
    numbers = {"nodes": nodes, "gpus": gpus, "cpus": cpus, "memory_gb": memory_gb, "hours": hours}
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no kind of cluster, expected {' or '.join(KINDS)}{hint(kind, KINDS)}")
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} is {value}, expected at least 1")
    found = open_bundle(bundle)
    places = {"bundle_root": str(found.root), "dataset_dir": dataset_dir, "output_dir": output_dir}
    job = merged_stage(found, stage, scale, places | {"ckpt_dir": f"{output_dir}/models"}, overrides)
    files = [*job.files, str(found.config_file("multi_gpu_train.json"))]
    command = monai_command(files, None, job.overrides)
    if any(is_url(value) for value in (dataset_dir, output_dir, *(overrides or {}).values())):
        command = command.replace("-m monai.bundle", "-m common.apps.run.remote_run", 1)
    values = {
        "name": re.sub(r"[^a-z0-9]+", "-", f"{found.name}-{stage}".lower()).strip("-"),
        "stage": stage,
        "command": command.removeprefix("python "),  # torchrun brings Python
        "log_dir": "." if is_url(output_dir) else output_dir,
        "image": image,
        "claim": claim,
        "storage_dir": storage_dir,
        "project_dir": project_dir,
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(KINDS[kind]).render(values | numbers)
