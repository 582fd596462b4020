"""pyproject.toml and environment.yml name the same versions."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_environment_has_the_same_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    extras = [pin for name in ("llm", "tune", "dev", "notebooks") for pin in project["optional-dependencies"][name]]
    assert [*project["dependencies"], *extras, "-e ."] == pip
    assert pip[0].startswith("torch=="), "torch goes in first"
    assert all("==" in pin for pin in pip[:-1])
