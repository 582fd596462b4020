"""Job files for clusters: one stage of a recipe under torchrun, on one machine or several."""

from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.apps.run.bundle import UsageError, hint, open_bundle
from common.apps.run.recipe import merged_stage
from common.apps.run.stage_runner import monai_command
from common.io.output_folder import write_text
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
    out: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a Slurm or Kubernetes job that trains one stage with torchrun on one machine or several.

    Nothing is submitted. The paths are those that the machines of the cluster see.

    Args:
        kind: slurm or kubernetes
        bundle: folder of a bundle
        stage: NAME of its recipe
        dataset_dir: DIR prepared data, or its URL in object storage
        output_dir: DIR of the run, or its URL; the weights go to models in it
        scale: NAME adds configs/NAME.json; paper adds nothing
        nodes: N machines
        gpus: N per machine, one process each
        cpus: N per machine
        memory_gb: N per machine
        hours: N limit of a Slurm job
        image: NAME Docker image, for Kubernetes
        claim: NAME persistent volume claim, for Kubernetes
        storage_dir: DIR where the claim is mounted
        project_dir: DIR with .venv and bundles, for Slurm
        out: FILE to write (default: stdout)
        overrides: changes a value of the configuration, by its MONAI id

    Returns:
        `kind`, `stage`, `job` (its text) and `file` (where it was written, or None).

    Raises:
        UsageError: for an unknown kind, stage or id, or a number below 1.

    Examples:
        python -m common job slurm ct_slice_interpolation --stage refiner --dataset_dir /ct --output_dir /run --nodes 2
    """
    numbers = {"nodes": nodes, "gpus": gpus, "cpus": cpus, "memory_gb": memory_gb, "hours": hours}
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no kind of cluster, expected {' or '.join(KINDS)}{hint(kind, KINDS)}")
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"--{name} is {value}, expected at least 1")
    found = open_bundle(bundle)
    places = {"bundle_root": str(found.root), "dataset_dir": dataset_dir, "output_dir": output_dir}
    places |= {"ckpt_dir": f"{output_dir}/models"}
    job = merged_stage(found, stage, scale, places, overrides)
    files = [*job.files, str(found.config_file("multi_gpu_train.json"))]
    # A URL becomes a local path before MONAI sees it.
    command = monai_command(files, None, job.overrides | {key: url for key, url in places.items() if is_url(url)})
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
    if any(unicodedata.category(sign) == "Cc" for sign in f"{output_dir}{project_dir}{storage_dir}{image}{claim}"):
        raise UsageError("a path of the job has a line break or another control character, which no job file can hold")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"shell": shlex.quote, "yaml": partial(json.dumps, ensure_ascii=False)}
    text = environment.get_template(KINDS[kind]).render(values | numbers)
    if out is not None:
        write_text(Path(out), text)
    return {"kind": kind, "stage": stage, "job": text, "file": out}
