import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from common.apps.run.bundle import CommandLineText
from common.apps.search import trial as tune_trial
from common.apps.search.sampler import first_number
from common.apps.search.setup import terminated_as_interrupted
from common.io.bad_input import BadInput
from tests.toy_search import formula_command, journal, parameters, table, write_search

REPOSITORY = Path(__file__).parents[3]


def test_shared_stages_run_once_before_the_trials(search: Any, toy: Path, tmp_path: Path) -> None:
    write_search(toy, stages=["second"], shared=["extra", "first"])  # this scale has no extra
    result = search(n_trials=3, overrides={"switch": True, "only_second": 5, "label": CommandLineText("0.1")})
    assert result["trials"]["complete"] == 3
    out = tmp_path / "out"
    spec = json.loads((out / "shared" / "trial.json").read_text())
    assert (spec["stages"], spec["overrides"], spec["typed"]) == (["first"], {"switch": True}, {"label": "0.1"})
    trial = out / "trials" / "0002"
    assert json.loads((trial / "trial.json").read_text())["overrides"]["only_second"] == 5
    assert (trial / "first" / "order.txt").read_text() == "first "
    assert (trial / "first" / "order.txt").samefile(out / "shared" / "first" / "order.txt")
    before, then = result["best"]["command"].split(" && ")
    assert "--stages first " in before and "--switch true" in before and "only_second" not in before
    assert "--optimizer#lr" not in before and "--optimizer#lr" in then and "--stages second " in then
    search(n_trials=4, overrides={"switch": True, "only_second": 5, "label": CommandLineText("0.1")})
    assert (out / "shared" / "first" / "order.txt").read_text() == "first "


def test_two_workers_that_start_together_run_shared_stages_once(
    search: Any, toy: Path, tmp_path: Path, worker: Any
) -> None:
    write_search(toy, stages=["second"], shared=["first"])
    options = {"overrides": {"label": CommandLineText("0.4")}}
    workers = [worker(f"{tmp_path}/search.log", 6, 0.1, **options) for _ in range(2)]
    for one in workers:
        one.wait_for("done\n")
    assert [row["state"] for row in table(tmp_path / "shared")] == ["complete"] * 6
    assert (tmp_path / "shared" / "shared" / "first" / "order.txt").read_text() == "first "


def test_a_worker_killed_in_a_shared_stage_leaves_it_to_the_next(toy: Path, tmp_path: Path, worker: Any) -> None:
    write_search(toy, stages=["second"], shared=["first"])
    options = {"overrides": {"label": CommandLineText("hang")}}
    victim = worker(f"{tmp_path}/search.log", 2, 0.1, **options)
    deadline = time.monotonic() + 60
    while not (tmp_path / "shared" / "shared" / "hung").is_file():
        assert time.monotonic() < deadline, victim.log.read_text()
        time.sleep(0.02)
    other = worker(f"{tmp_path}/search.log", 2, 0.1, **options)
    other.wait_for("waiting for another worker to prepare")
    victim.process.kill()
    victim.process.join()
    other.wait_for("done\n")
    assert [row["state"] for row in table(tmp_path / "shared")] == ["complete"] * 2


def test_a_shared_stage_that_fails_is_named(search: Any, toy: Path) -> None:
    write_search(toy, stages=["second"], shared=["first"])
    with pytest.raises(BadInput, match="shared: has a stage that all trials need and that failed: ValueError: could"):
        search(overrides={"label": CommandLineText("no number")})


def test_the_time_budget_ends_the_search_and_a_longer_one_goes_on(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(tune_trial, "trial_command", lambda folder: formula_command(folder, 0.8))
    result = search(n_trials=6, time_budget=2.2 / 3600)
    assert 1 <= result["trials"]["complete"] < 6
    assert result["trials"]["waiting"] == 1
    assert "ended by the time budget, queued" in capsys.readouterr().out
    monkeypatch.setattr(tune_trial, "trial_command", formula_command)
    assert search(n_trials=6)["trials"]["complete"] == 6
    search(n_trials=6, out="whole")
    assert sorted(parameters(tmp_path / "out")) == sorted(parameters(tmp_path / "whole"))
    assert len({row["folder"] for row in table(tmp_path / "out")}) == 6  # the one that was ended went on in its folder


def test_a_trial_that_takes_too_long_has_failed(search: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tune_trial, "trial_command", lambda folder: formula_command(folder, 30))
    with pytest.raises(BadInput, match="5 trials that all failed; the last: took longer than"):
        search(n_trials=6, trial_hours=0.2 / 3600)


@pytest.mark.parametrize("storage", ["sqlite:///{}/search.db", "{}/search.log", "journal://{}/search"])
def test_two_workers_share_a_search_and_one_is_killed(search: Any, worker: Any, tmp_path: Path, storage: str) -> None:
    storage = storage.format(tmp_path)
    victim = worker(storage, 5, seconds=300)
    victim.wait_for("trial 0:")
    other = worker(storage, 5, seconds=0.1)
    other.wait_for("waiting for 1 trials of other workers")
    victim.process.kill()
    text = other.wait_for("done\n")
    assert "trial 0: its worker is dead, so it is queued again" in text
    rows = table(tmp_path / "shared")
    assert [row["state"] for row in rows] == ["complete"] * 5
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4", "5"] and rows[-1]["folder"] == "trials/0000"
    search(n_trials=5, out="alone")
    assert sorted(parameters(tmp_path / "shared")) == sorted(parameters(tmp_path / "alone"))


@pytest.mark.parametrize("storage", ["sqlite:///{}/search.db", "{}/search.log"])
def test_workers_together_run_as_many_trials_as_there_shall_be(worker: Any, tmp_path: Path, storage: str) -> None:
    workers = [worker(storage.format(tmp_path), 20, seconds=0.1) for _ in range(3)]
    for one in workers:
        one.wait_for("done\n")
    rows = table(tmp_path / "shared")
    assert [row["state"] for row in rows] == ["complete"] * 20
    assert len({row["worker"] for row in rows}) == 3 and len(set(parameters(tmp_path / "shared"))) == 20


def test_a_trial_whose_workers_keep_dying_has_failed(search: Any, worker: Any, tmp_path: Path) -> None:
    storage = f"{tmp_path}/search.log"
    for i in range(3):
        victim = worker(storage, 1, seconds=300)
        victim.wait_for(f"trial {i}: optimizer#lr")
        victim.process.kill()
        victim.process.join()
    with pytest.raises(BadInput, match="no trial that succeeded.*; the last failed: its worker died 3 times"):
        search(n_trials=1, out="shared", storage=storage, heartbeat=0.2)


def test_a_terminated_worker_queues_its_trial_and_leaves_no_process(search: Any, worker: Any, tmp_path: Path) -> None:
    storage = f"{tmp_path}/search.log"
    victim = worker(storage, 3, seconds=30)
    victim.wait_for("trial 0:")
    spec = str(tmp_path / "shared" / "trials" / "0000" / "trial.json")
    while not runs(spec):
        assert victim.process.is_alive()
        time.sleep(0.05)
    victim.process.terminate()
    victim.process.join(20)
    assert victim.process.exitcode == 0
    assert not runs(spec)
    result = search(n_trials=3, out="shared", storage=storage, heartbeat=0.2)
    assert result["trials"] == {"running": 0, "complete": 3, "pruned": 0, "fail": 0, "waiting": 0}
    there = optuna.load_study(study_name="toy", storage=journal(storage)).trials
    assert [t.number for t in there if t.state == optuna.trial.TrialState.FAIL] == [0]
    assert [(first_number(t), t.user_attrs["deaths"]) for t in there if first_number(t) != t.number] == [(0, 0)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_trial_starts_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Interrupted(subprocess.Popen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    monkeypatch.setattr(tune_trial, "trial_command", lambda folder: ["sleep", "30.25", str(folder)])
    with terminated_as_interrupted(), pytest.raises(KeyboardInterrupt), tune_trial.TrialProcess(tmp_path, {}):
        time.sleep(30)  # a busy machine delivers a signal to a process's own threads a little later
        pytest.fail("the block was entered, and not interrupted")
    assert not runs(str(tmp_path))


def runs(word: str) -> bool:
    return any(word in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_a_trial_process_ends_with_its_worker(toy: Path, tmp_path: Path) -> None:
    """The real child, which watches its parent."""
    spec = {"bundle": str(toy), "stages": "first", "dataset_dir": str(tmp_path / "data"), "typed": {}}
    spec |= {"output_dir": str(tmp_path / "run"), "overrides": {"train#trainer#max_epochs": 10**6}}
    code = (
        "import json, sys, time; from pathlib import Path; from common.apps.search.trial import TrialProcess\n"
        f"p = TrialProcess(Path({str(tmp_path / 'run')!r}), json.loads({json.dumps(spec)!r})).__enter__()\n"
        "print(p.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    child = int(parent.stdout.readline())
    log = tmp_path / "run" / "logs" / "train.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and "stage first" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, "the trial goes on without its worker"
        time.sleep(0.1)
