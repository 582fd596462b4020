"""`python -m common tune` with two workers on one storage, one of them killed in the middle of a trial.

The trials are trainings of a linear layer, each with its own process, through the whole of `run`. The worker that is
left must complete the search, with as many trials as were asked for, and with the parameters that one worker alone is
given. Prints one JSON line per kind of storage:

    python benchmarks/tune_two_workers.py [--n_trials 6] [--folder DIR]
"""

import argparse
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

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


def start(bundle: Path, out: Path, storage: str, n_trials: int, log: Path) -> subprocess.Popen:
    words = [sys.executable, "-u", "-m", "common", "tune", str(bundle), "--search", "random", "--heartbeat", "2"]
    words += ["--n_trials", str(n_trials), "--storage", storage, "--output_dir", str(out)]
    words += ["--dataset_dir", str(bundle.parent / "data")]
    with log.open("w") as file:
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)


def wait_for(worker: subprocess.Popen, log: Path, text: str) -> None:
    while text not in log.read_text():
        if worker.poll() is not None:
            raise SystemExit(f"a worker ended before it said {text!r}:\n{log.read_text()}")
        time.sleep(0.05)


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parameters(out: Path) -> list[list[str]]:
    return sorted([row["optimizer#lr"], row["rates#0"]] for row in trials(out))


def check(kind: str, storage: str, bundle: Path, folder: Path, n_trials: int, alone: list[list[str]]) -> None:
    out, logs = folder / kind, [folder / f"{kind}_{i}.log" for i in range(2)]
    began = time.monotonic()
    workers = [start(bundle, out, storage, n_trials, log) for log in logs]
    for worker, log in zip(workers, logs, strict=True):
        wait_for(worker, log, "trial ")
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    code = workers[1].wait()
    text = logs[1].read_text()
    if code:
        raise SystemExit(text)
    rows = trials(out)
    best = json.loads((out / "best_params.json").read_text())
    facts = {
        "name": f"a search by two workers on one storage ({kind}), one killed by SIGKILL in the middle of a trial",
        "input": f"{n_trials} trials of a toy bundle, random search",
        "ours": sum(row["state"] == "complete" for row in rows),
        "reference": n_trials,
        "unit": "complete trials",
        "ratio": sum(row["state"] == "complete" for row in rows) / n_trials,
        "trials_queued_again": text.count("its worker is dead"),
        "same_parameters_as_one_worker_alone": parameters(out) == alone,
        "best": best["values"] | best["params"],
        "printed": text.strip().splitlines()[-6],
        "seconds": round(time.monotonic() - began, 1),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_trials", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="new folder for the runs; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bundle = make_bundle(folder)
        log = folder / "alone.log"
        if start(bundle, folder / "alone", str(folder / "alone.journal"), given.n_trials, log).wait():
            raise SystemExit(log.read_text())
        alone = parameters(folder / "alone")
        check("sqlite", f"sqlite:///{folder}/study.db", bundle, folder, given.n_trials, alone)
        check("journal", str(folder / "study.log"), bundle, folder, given.n_trials, alone)


if __name__ == "__main__":
    main()
