"""`python -m common tune` with two workers on one storage, one of them killed in the middle of a trial.

The trials are trainings of a linear layer, or, with `--bundle mdfnet_cxr`, of stage 1 and stage 2 on a few virtual
patients, with encoders and features that they share; each with its own process, through the whole of `run`. The worker
that is left must complete the search, with as many trials as were asked for, and with the parameters that one worker
alone is given. Prints one JSON line per kind of storage (SQLite alone for mdfnet_cxr):

    python benchmarks/tune_two_workers.py [--bundle mdfnet_cxr] [--n_trials 6] [--folder DIR]
"""

import argparse
import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from common.apps.run.bundle import open_bundle  # noqa: E402
from common.apps.search.setup import need_optuna  # noqa: E402
from common.apps.search.shared_search import SharedSearch  # noqa: E402
from common.apps.search.space import SearchPlan, read_search_plan  # noqa: E402
from tests.toy_bundle import make_manifest, make_toy_bundle  # noqa: E402

SEARCH = {
    "space": {
        "optimizer#lr": {"low": 0.001, "high": 0.1, "log": True},
        "rates#0": {"values": [0.1, 0.2, 0.3]},
    },
    "objectives": [{"metric": "score"}, {"metric": "worst"}],
    "stages": ["first"],
}
METRICS = {"score": "$1 - 100 * (@optimizer#lr - 0.03) ** 2 + @rates[0] / 100", "worst": "$@rates[0]"}


def make_bundle(folder: Path) -> Path:
    bundle = make_toy_bundle(folder)
    make_manifest(folder / "data")
    train = bundle / "configs" / "train.json"
    content = json.loads(train.read_text())
    content["history"]["metrics"] |= METRICS
    train.write_text(json.dumps(content))
    (bundle / "configs" / "search.json").write_text(json.dumps(SEARCH))
    return bundle


@dataclass(frozen=True)
class Setting:
    """A bundle, what it is searched with beyond the defaults, and how to say so."""

    bundle: Path
    words: tuple[str, ...]
    text: str


def toy(folder: Path) -> Setting:
    bundle = make_bundle(folder)
    # Its configuration imports what a bundle of others would be refused for.
    return Setting(bundle, ("--dataset_dir", str(folder / "data"), "--trust"), "a toy bundle")


def mdfnet() -> Setting:
    small = {"virtual#n": 48, "virtual#shape": "[24,48,48]", "virtual#spacing": "[6,4,4]", "image_size": 64}
    small |= {"max_epochs": 4, "warmup_epochs": 1}
    words = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    text = "mdfnet_cxr: 48 virtual patients, encoders and features shared, 4 epochs of stage 1 and of stage 2"
    return Setting(ROOT / "bundles" / "mdfnet_cxr", ("--scale", "demo", *words), text)


def start(setting: Setting, out: Path, storage: str, n_trials: int, log: Path) -> subprocess.Popen:
    words = [sys.executable, "-u", "-m", "common", "tune", str(setting.bundle), "--search", "random"]
    words += ["--heartbeat", "2", "--n_trials", str(n_trials), "--storage", storage, "--output_dir", str(out)]
    with log.open("w") as file:
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        return subprocess.Popen(
            [*words, *setting.words], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )


def wait_until(worker: subprocess.Popen, log: Path, what: str, there: Callable[[], bool]) -> None:
    while not there():
        if worker.poll() is not None:
            raise SystemExit(f"a worker ended before {what}:\n{log.read_text()}")
        time.sleep(0.05)


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def alone(plan: SearchPlan, n_trials: int) -> list[list[str]]:
    """The parameters that one worker would be given."""
    need_optuna()  # which keeps it from telling what it does
    study = SharedSearch(optuna.storages.InMemoryStorage(), "alone", plan, "random", 0, {}, 60)
    given = [study.ask(n_trials).params for _ in range(n_trials)]
    return sorted([str(point[name]) for name in plan.space] for point in given)


def check(kind: str, storage: str, setting: Setting, folder: Path, n_trials: int) -> None:
    plan = read_search_plan(open_bundle(setting.bundle))
    stage = plan.stages[-1]
    out, logs = folder / kind, [folder / f"{kind}_{i}.log" for i in range(2)]
    began = time.monotonic()
    workers = [start(setting, out, storage, n_trials, log) for log in logs]
    numbers = []
    for worker, log in zip(workers, logs, strict=True):
        wait_until(
            worker, log, "it began a trial", lambda log=log: re.search(r"^trial (\d+): \S+ \d", log.read_text(), re.M)
        )
        numbers.append(int(re.search(r"^trial (\d+): \S+ \d", log.read_text(), re.M)[1]))
    trained = out / "trials" / f"{numbers[0]:04d}" / stage
    wait_until(workers[0], logs[0], f"its trial came to {stage}", trained.is_dir)
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    code = workers[1].wait()
    text = logs[1].read_text()
    if code:
        raise SystemExit(text)
    rows = trials(out)
    ended = [row for row in rows if row["state"] in ("complete", "pruned")]
    best = json.loads((out / "best_params.json").read_text())
    facts = {
        "name": f"a search by two workers on one storage ({kind}), one killed by SIGKILL in the middle of a trial",
        "input": f"{n_trials} trials of {setting.text}, random search",
        "ours": len(ended),
        "reference": n_trials,
        "unit": "trials that ended well",
        "ratio": len(ended) / n_trials,
        "pruned": sum(row["state"] == "pruned" for row in rows),
        "trials_queued_again": text.count("its worker is dead"),
        "same_parameters_as_one_worker_alone": sorted([row[name] for name in plan.space] for row in rows)
        == alone(plan, n_trials),
        "best": best["values"] | best["params"],
        "printed": text[text.rindex("the best is trial") :].splitlines(),
        "seconds": round(time.monotonic() - began, 1),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", choices=("toy", "mdfnet_cxr"), default="toy")
    parser.add_argument("--n_trials", type=int, help="6 of the toy, 5 of mdfnet_cxr")
    parser.add_argument("--folder", type=Path, help="new folder for the runs; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.bundle == "mdfnet_cxr":
            check("sqlite", f"sqlite:///{folder.resolve()}/study.db", mdfnet(), folder, given.n_trials or 5)
        else:
            setting = toy(folder)
            check("sqlite", f"sqlite:///{folder.resolve()}/study.db", setting, folder, given.n_trials or 6)
            check("journal", str(folder.resolve() / "study.log"), setting, folder, given.n_trials or 6)


if __name__ == "__main__":
    main()
