"""The Kubernetes job asks for things that exist."""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_job_runs_a_scale_and_keys_that_exist():
    job = yaml.safe_load((ROOT / "docker" / "ct_slice_interpolation_job.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    verb, bundle, *options = container["args"]
    assert verb == "run" and (ROOT / bundle / "configs").is_dir()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert (ROOT / bundle / "configs" / f"{given['--scale']}.json").is_file()
    known = json.loads((ROOT / bundle / "configs" / "train.json").read_text())
    assert all(key.removeprefix("--") in known for key in given if key != "--scale")
    mounted = [volume["mountPath"] for volume in container["volumeMounts"]]
    assert all(path.startswith(tuple(mounted)) for path in given.values() if path.startswith("/"))


def test_the_image_installs_the_pinned_torch_first():
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    pin = next(p for p in (ROOT / "pyproject.toml").read_text().split('"') if p.startswith("torch=="))
    assert pin in installs[0]
