import json
import math
import platform
import subprocess

import pytest

from common.visualize.run_summary import (
    build_summary,
    git_commit,
    run_parameters,
    versions,
    write_summary,
)

KEYS = ["bundle", "scale", "seed", "versions", "git_commit", "data_hash", "stages", "baselines", "parameters"]


def make_summary(**changes) -> dict:
    stages = [{"name": "diffusion", "seconds": 12.5, "metrics": {"val_psnr": 28.5}}]
    values = {
        "bundle": "ct_slice_interpolation",
        "scale": "demo",
        "seed": 0,
        "data": "ab" * 32,
        "stages": stages,
        "baselines": {"linear": {"psnr": 30.0}},
        "parameters": {"total": 10, "trainable": 4},
    }
    return build_summary(**(values | changes))


def git(folder, *arguments) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_keys_are_those_of_the_contract(tmp_path):
    summary = make_summary()
    assert list(summary) == KEYS
    assert list(summary["stages"][0]) == ["name", "seconds", "metrics"]
    assert list(summary["parameters"]) == ["total", "trainable"]
    path = write_summary(tmp_path / "new", summary)
    assert path == tmp_path / "new" / "summary.json"
    assert json.loads(path.read_text()) == summary
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_values_that_are_not_finite_become_null(tmp_path):
    summary = make_summary(baselines={"nearest": math.inf, "linear": math.nan})
    text = write_summary(tmp_path, summary).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["baselines"] == {"nearest": None, "linear": None}


def test_other_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match="summary has the keys"):
        write_summary(tmp_path, make_summary() | {"more": 1})


def test_versions_are_those_installed():
    import monai
    import numpy as np
    import torch

    import common.version

    assert versions() == {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": np.__version__,
        "thorax-bundles": common.version.__version__,
    }


def test_commit_of_clean_changed_and_untracked_code(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    assert git_commit(code) is None  # no repository
    git(tmp_path, "init", "-q")
    (code / "a.py").write_text("1")
    assert git_commit(code) is None  # no commit
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(code) == commit
    (tmp_path / "elsewhere.txt").write_text("does not count")
    assert git_commit(code) == commit
    (code / "new.py").write_text("2")
    assert git_commit(code) == f"{commit}-dirty"
    (code / "new.py").unlink()
    (code / "a.py").write_text("3")
    assert git_commit(code) == f"{commit}-dirty"
    other = tmp_path / "site-packages"
    other.mkdir()
    (other / "b.py").write_text("installed inside somebody's repository")
    assert git_commit(other) is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_the_parameters_come_from_the_start_up_reports(tmp_path):
    report = {"parameters": {"parts": {"VAE": {"total": 10, "trainable": 0}, "U-Net": {"total": 7, "trainable": 7}}}}
    vae = {"parameters": {"parts": {"VAE": {"total": 10, "trainable": 10}}}}
    for stage, startup in (("diffusion", report), ("vae", vae)):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "startup.json").write_text(json.dumps(startup))
    assert run_parameters(tmp_path, ["latents", "diffusion"]) == {"total": 17, "trainable": 7}
    assert run_parameters(tmp_path, ["diffusion", "vae"]) == {"total": 17, "trainable": 17}
