"""A search of the toy bundle whose trials compute a formula; its fixtures are in `tests/apps/search/conftest.py`."""

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from common.apps.search import trial as tune_trial

SEARCH = {
    "space": {
        "optimizer#lr": {"values": [0.01, 0.02, 0.03], "low": 0.001, "high": 0.1, "log": True},
        "rates#0": {"values": [0.1, 0.2, 0.3]},
    },
    "objectives": [{"metric": "score", "direction": "maximize"}, {"metric": "worst", "direction": "maximize"}],
    "stages": ["first"],
}
REPORT = {"metric": "score", "startup_trials": 2}
FORMULA = """
import json, os, pathlib, signal, sys, time
spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
values, out, parent = spec["overrides"], pathlib.Path(spec["output_dir"]), os.getppid()
if "optimizer#lr" not in values:  # a shared stage
    os.close(os.open(out / "busy", os.O_CREAT | os.O_EXCL))  # nobody else does it at the same moment
    hangs = spec["typed"].get("label") == "hang" and not (out / "hung").exists()
    while hangs and os.getppid() == parent:
        (out / "hung").touch()
        time.sleep(0.02)
    if hangs:
        (out / "busy").unlink()
        sys.exit(1)
    time.sleep(float(spec["typed"].get("label", "0").replace("hang", "0")))
    if not (out / "models" / "first.pt").is_file():
        (out / "models").mkdir()
        (out / "first").mkdir()
        (out / "models" / "first.pt").write_text("shared")
        with (out / "first" / "order.txt").open("a") as file:
            file.write("first ")
    (out / "busy").unlink()
    sys.exit()
if spec["stages"] == ["second"]:
    assert (out / "models" / "first.pt").read_text() == "shared"
rate, first = values["optimizer#lr"], values["rates#0"]
if values.get("label") == "crash":
    sys.exit("ValueError: no such thing")
if values.get("label") == "memory":
    os.kill(os.getpid(), signal.SIGKILL)
(out / "first").mkdir(exist_ok=True)
rows = []
for epoch in range(1, 5):
    end = time.monotonic() + float(sys.argv[2]) / 4
    while time.monotonic() < end and os.getppid() == parent:
        time.sleep(0.02)
    rows.append({"iteration": epoch, "epoch": epoch, "score": first * epoch})
    partial = out / "first" / ".history"
    partial.write_text(json.dumps({"validations": rows}))
    partial.rename(out / "first" / "history.json")
(out / "models").mkdir(exist_ok=True)
(out / "models" / "model.pt").touch()
metrics = {"score": 1 - 100 * (rate - 0.03) ** 2 + first / 100, "worst": first * (1 - rate)}
if values.get("label") == "nan":
    metrics["score"] = None
(out / "summary.json").write_text(json.dumps({"stages": [{"name": "first", "metrics": metrics}]}))
"""


def formula_command(folder: Path, seconds: float = 0.0) -> list[str]:
    """Stands in for `tune_trial.trial_command`: a trial that computes a formula instead of training."""
    return [sys.executable, "-S", "-c", FORMULA, str(folder / tune_trial.SPEC), str(seconds)]


def write_search(bundle: Path, **changes: Any) -> None:
    (bundle / "configs" / "search.json").write_text(json.dumps(SEARCH | changes))


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parameters(out: Path) -> list[tuple[str, str]]:
    return [(row["optimizer#lr"], row["rates#0"]) for row in table(out)]


@dataclass
class Worker:
    process: Any
    log: Path

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + 60
        while not (self.log.is_file() and text in self.log.read_text()):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self.log.read_text()


def journal(path: str) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
