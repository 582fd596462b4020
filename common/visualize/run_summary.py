"""The summary of a run as `summary.json`; `run_page.py` makes the page for people from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.version import __version__
from common.visualize.tables import json_text

SUMMARY_KEYS = (
    "bundle", "scale", "seed", "versions", "git_commit", "data_hash", "stages", "baselines", "parameters",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    libraries = {name: version(name) for name in ("torch", "monai", "numpy")}
    # A packed bundle runs without the distribution being installed, so its version is that of the code.
    return {"python": platform.python_version(), **libraries, "thorax-bundles": __version__}


def git_commit(*folders: str | os.PathLike[str]) -> str | None:
    """Commit of the repository that tracks `folders`, ending in `-dirty` if something in them differs from it.

    Args:
        folders: of the code; by default the `common` package. The first decides the repository.

    Returns:
        40 hexadecimal digits, or None where there is no repository, commit or git, or it does not track the code.
    """
    paths = [str(Path(folder).resolve()) for folder in folders or (Path(__file__).parents[1],)]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", paths[0], *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except FileNotFoundError:  # no git on this machine
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit = git("rev-parse", "--verify", "HEAD")
    if not commit or not git("ls-files", "--", paths[0]):
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--", *paths) else commit


def run_parameters(run_dir: str | os.PathLike[str], stages: Sequence[str]) -> dict[str, int]:
    """Parameters of all networks of a run, from the start-up reports of its stages; a part counts once.

    A part is trainable if any stage trains it.
    """
    parts: dict[str, tuple[int, int]] = {}
    for stage in stages:
        path = Path(run_dir) / stage / "startup.json"
        for name, part in read_json(path)["parameters"]["parts"].items() if path.is_file() else ():
            total, trainable = parts.get(name, (0, 0))
            parts[name] = (max(total, part["total"]), max(trainable, part["trainable"]))
    return {"total": sum(pair[0] for pair in parts.values()), "trainable": sum(pair[1] for pair in parts.values())}


def build_summary(
    bundle: str,
    scale: str,
    seed: int,
    data: str | None,
    stages: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Any],
    parameters: Mapping[str, int],
    code: Sequence[str | os.PathLike[str]] = (),
) -> dict:
    """The content of summary.json.

    Args:
        bundle: name of the bundle.
        scale: demo, paper or the name of the overlay.
        seed: of the run.
        data: hash of the data, as its prepare.json has it; None where there is none.
        stages: {"name", "seconds", "metrics": {name: value}} each, in order.
        baselines: what the trivial methods reach, by name.
        parameters: {"total", "trainable"} (`run_parameters`).
        code: folders whose commit counts, the bundle for instance, besides `common`.
    """
    return {
        "bundle": bundle,
        "scale": scale,
        "seed": seed,
        "versions": versions(),
        "git_commit": git_commit(Path(__file__).parents[1], *code),
        "data_hash": data,
        "stages": list(stages),
        "baselines": dict(baselines),
        "parameters": dict(parameters),
    }


def write_summary(run_dir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Write RUN_DIR/summary.json atomically; a value that is not finite becomes null.

    Raises:
        ValueError: if a key is missing or unknown.
    """
    expect_keys("summary", summary, SUMMARY_KEYS)
    path = Path(run_dir) / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(summary, indent=1))
    return path


def read_json(path: Path) -> dict:
    """A JSON object from a file of a run.

    Raises:
        BadInput: if it is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(path, f"is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadInput(path, f"holds a {type(content).__name__}, expected a JSON object")
    return content


def expect_keys(what: str, found: Mapping[str, Any], expected: Sequence[str]) -> None:
    """Refuse a mapping with missing or unknown keys.

    Raises:
        ValueError: naming them.
    """
    if set(found) != set(expected):
        raise ValueError(f"{what} has the keys {', '.join(map(str, found))}, expected {', '.join(expected)}.")
