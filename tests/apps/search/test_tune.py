import contextlib
import csv
import json
import multiprocessing
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle  # noqa: F401 -- before workers are forked, each of which would import it for seconds
import optuna
import psutil
import pytest

from common.apps.run.bundle import CommandLineText, UnknownKey, UsageError, open_bundle
from common.apps.search import page as tune_page  # noqa: F401 -- as monai.bundle
from common.apps.search import shared_stages as tune_shared
from common.apps.search import trial as tune_trial
from common.apps.search import tune as tune_module
from common.apps.search import worker as tune_worker
from common.apps.search.space import read_search_plan
from common.apps.search.tune import tune
from common.cli.main import main
from common.io.bad_input import BadInput
from tests.toy_bundle import make_manifest, make_toy_bundle

REPOSITORY = Path(__file__).parents[3]
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


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    bundle = make_toy_bundle(tmp_path)
    make_manifest(tmp_path / "data")
    write_search(bundle)
    return bundle


@pytest.fixture
def search(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Search the toy bundle with trials that compute a formula."""
    monkeypatch.setattr(tune_trial, "trial_command", formula_command)
    monkeypatch.setattr(tune_worker, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(tune_shared, "_POLL_SECONDS", 0.05)

    def run(kind: str = "random", n_trials: int | None = 4, out: str = "out", **options: Any) -> dict[str, Any]:
        return tune(toy, kind, n_trials, output_dir=tmp_path / out, **{"dataset_dir": tmp_path / "data"} | options)

    return run


def write_search(bundle: Path, **changes: Any) -> None:
    (bundle / "configs" / "search.json").write_text(json.dumps(SEARCH | changes))


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def parameters(out: Path) -> list[tuple[str, str]]:
    return [(row["optimizer#lr"], row["rates#0"]) for row in table(out)]


@pytest.fixture
def worker(search: Any, tmp_path: Path) -> Iterator[Any]:
    """Start a worker as a process of its own; forked, because a new one would first import for seconds."""
    started = []

    def start(storage: str, n_trials: int, seconds: float, **options: Any) -> Worker:
        log = tmp_path / f"worker_{len(started)}.log"

        def work() -> None:
            tune_trial.trial_command = lambda folder: formula_command(folder, seconds)
            with log.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
                with contextlib.suppress(KeyboardInterrupt):
                    search("random", n_trials, "shared", storage=storage, heartbeat=0.2, **options)
                    print("done", flush=True)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        started.append(process)
        return Worker(process, log)

    yield start
    for process in started:
        process.kill()
        process.join()


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


def test_a_grid_walks_every_point_once_in_a_seeded_order(search: Any, tmp_path: Path, capsys: Any) -> None:
    result = search("grid", None)
    points = parameters(tmp_path / "out")
    assert len(points) == len(set(points)) == 9 and result["trials"]["complete"] == 9
    assert {rate for rate, _ in points} == {"0.01", "0.02", "0.03"}
    assert result["best"]["params"] == {"optimizer#lr": 0.03, "rates#0": 0.3}
    assert result["best"]["values"] == pytest.approx({"score": 1.003, "worst": 0.291})
    search("grid", 5, "some")
    assert parameters(tmp_path / "some") == points[:5]
    search("grid", 5, "other", seed=1)
    assert parameters(tmp_path / "other") != points[:5]
    capsys.readouterr()
    assert search("grid", 50)["trials"]["complete"] == 9
    assert "the grid has 9 points" in capsys.readouterr().out


def test_what_a_search_leaves(search: Any, tmp_path: Path) -> None:
    result = search("random", 8, overrides={"label": CommandLineText("000123"), "switch": True})
    out = tmp_path / "out"
    best = json.loads((out / "best_params.json").read_text())
    rows = table(out)
    assert best["trial"] == int(max(rows, key=lambda row: float(row["score"]))["trial"])
    assert best == result["best"]
    words = shlex.split(best["command"])
    assert words[:6] == ["python", "-m", "common", "run", str(tmp_path / "toy"), "--scale"]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert float(options["--optimizer#lr"]) == best["params"]["optimizer#lr"]
    assert (options["--label"], options["--switch"], options["--stages"]) == ("000123", "true", "first")
    front = [trial["trial"] for trial in best["pareto_front"]]
    values = {int(row["trial"]): (float(row["score"]), float(row["worst"])) for row in rows}
    undominated = {
        i for i, a in values.items() if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in values.values())
    }
    assert set(front) == undominated and front[0] == best["trial"]
    plots = {path.name for path in (out / "plots").iterdir()}
    names = ("history", "slices", "parallel_coordinates", "pareto_front", "importances")
    assert plots == {f"{name}.png" for name in names}
    page = (out / "index.html").read_text()
    assert "8 of 8 trials ended" in page and page.count("data:image/png") == 5
    spec = json.loads((out / "trials" / "0003" / "trial.json").read_text())
    assert spec["typed"] == {"label": "000123"} and spec["overrides"]["switch"] is True
    kept = {int(path.parents[1].name) for path in out.glob("trials/*/models/model.pt")}
    assert kept == undominated  # the weights of the others are gone


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_the_seed_decides_even_if_the_search_is_interrupted(search: Any, tmp_path: Path, kind: str) -> None:
    n = 13  # TPE draws at random before it has ten trials
    search(kind, n, "whole")
    assert len(set(parameters(tmp_path / "whole"))) == n
    search(kind, 5, "parts")
    search(kind, n, "parts")
    assert parameters(tmp_path / "parts") == parameters(tmp_path / "whole")
    search(kind, 3, "other", seed=1)
    assert not set(parameters(tmp_path / "other")) & set(parameters(tmp_path / "whole"))


def test_a_bayesian_search_finds_better_values_than_it_began_with(search: Any, tmp_path: Path) -> None:
    search("bayesian", 30, objective="score")
    scores = [float(row["score"]) for row in table(tmp_path / "out")]
    assert sum(scores[-10:]) > sum(scores[:10]) and max(scores) > 0.99
    assert all(0.001 <= float(rate) <= 0.1 for rate, _ in parameters(tmp_path / "out"))


def test_a_finished_study_needs_no_trial(search: Any, tmp_path: Path) -> None:
    first = search(n_trials=3)
    assert search(n_trials=3) == first
    assert search(n_trials=4)["trials"]["complete"] == 4


def test_a_study_of_another_command_is_refused(search: Any, toy: Path, tmp_path: Path) -> None:
    search(n_trials=2)
    with pytest.raises(UsageError, match="study 'toy' .* was made with search random, not bayesian; expected"):
        search("bayesian", 2)
    with pytest.raises(UsageError, match="with objectives .*worst.*, not .*; expected the same command"):
        search(n_trials=2, objective="score")
    with pytest.raises(UsageError, match="with overrides {}, not {'label': 'x'}"):
        search(n_trials=2, overrides={"label": "x"})
    write_search(toy, space={"rates#0": {"values": [1, 2]}})
    with pytest.raises(UsageError, match="with space .*, not .*; expected the same command, or another --study"):
        search(n_trials=2)
    write_search(toy)
    with pytest.raises(UsageError, match="out holds the study 'toy' of another command, expected another --output_dir"):
        search(n_trials=2, study="other")
    storage = str(tmp_path / "out" / "study.log")
    assert search(n_trials=2, study="other", out="other", storage=storage)["study"] == "other"


@pytest.mark.parametrize(
    ("label", "reason"),
    [("crash", "ValueError: no such thing"), ("memory", "ended by SIGKILL, as the system does where memory is short")],
)
def test_a_search_whose_trials_all_fail_gives_up(search: Any, tmp_path: Path, label: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"5 trials that all failed; the last: .*{reason}"):
        search(n_trials=10, overrides={"label": label})


def test_a_failed_trial_counts_and_the_search_goes_on(search: Any, toy: Path, tmp_path: Path) -> None:
    write_search(toy, space=SEARCH["space"] | {"label": {"values": ["nan", "none", "other"]}})
    result = search("grid", 27)
    assert (result["trials"]["fail"], result["trials"]["complete"]) == (9, 18)
    errors = {row["error"] for row in table(tmp_path / "out") if row["label"] == "nan"}
    assert len(errors) == 9 and all("has the score None, expected a finite number" in error for error in errors)
    assert "has the score None" in (tmp_path / "out" / "index.html").read_text()


def test_a_metric_that_no_stage_has_is_named(search: Any, toy: Path) -> None:
    write_search(toy, objectives=[{"metric": "auroc"}])
    with pytest.raises(BadInput, match="has no stage with the metric 'auroc', expected one of score, worst"):
        search()


@pytest.mark.parametrize("objective", [None, "score"])
@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_hopeless_trials_are_pruned(
    search: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str | None, seconds: float
) -> None:
    """Whether the worker looks while the trial trains or after it, and with any number of objectives."""
    monkeypatch.setattr(tune_trial, "trial_command", lambda folder: formula_command(folder, seconds))
    write_search(toy, report=REPORT)
    result = search("grid", 9, objective=objective)
    rows = table(tmp_path / "out")
    complete: list[float] = []
    for row in rows:  # what it reports is rates#0 times the epoch
        rate = float(row["rates#0"])
        hopeless = len(complete) >= 2 and rate < statistics.median(complete)
        assert (row["state"], row["pruned_at"]) == (("pruned", "1") if hopeless else ("complete", ""))
        complete += [] if hopeless else [rate]
    assert result["trials"]["pruned"] == sum(row["state"] == "pruned" for row in rows) > 0
    attrs = [
        t.user_attrs
        for t in optuna.load_study(study_name="toy", storage=tune_storage(f"{tmp_path}/out/study.log")).trials
    ]
    assert all(len(a["reported"]) == a.get("pruned_at", 4) for a in attrs)


def test_a_search_that_prunes_is_the_same_twice(search: Any, toy: Path, tmp_path: Path) -> None:
    write_search(toy, report=REPORT | {"warmup": 1})
    for out in ("one", "two"):
        search("bayesian", 14, out)
    keys = ("state", "pruned_at", "optimizer#lr", "rates#0")
    one, two = ([[row[key] for key in keys] for row in table(tmp_path / out)] for out in ("one", "two"))
    assert one == two and "2" in {row[1] for row in one}


def test_the_report_stands_for_the_first_objective_alone(search: Any, toy: Path) -> None:
    write_search(toy, report=REPORT)
    assert search("grid", 9, objective="worst")["trials"]["pruned"] == 0


# ---- shared stages -----------------------------------------------------------------------------------------------


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
    workers = [worker(f"{tmp_path}/study.log", 6, 0.1, **options) for _ in range(2)]
    for one in workers:
        one.wait_for("done\n")
    assert [row["state"] for row in table(tmp_path / "shared")] == ["complete"] * 6
    assert (tmp_path / "shared" / "shared" / "first" / "order.txt").read_text() == "first "


def test_a_worker_killed_in_a_shared_stage_leaves_it_to_the_next(toy: Path, tmp_path: Path, worker: Any) -> None:
    write_search(toy, stages=["second"], shared=["first"])
    options = {"overrides": {"label": CommandLineText("hang")}}
    victim = worker(f"{tmp_path}/study.log", 2, 0.1, **options)
    deadline = time.monotonic() + 60
    while not (tmp_path / "shared" / "shared" / "hung").is_file():
        assert time.monotonic() < deadline, victim.log.read_text()
        time.sleep(0.02)
    other = worker(f"{tmp_path}/study.log", 2, 0.1, **options)
    other.wait_for("waiting for another worker to prepare")
    victim.process.kill()
    victim.process.join()
    other.wait_for("done\n")
    assert [row["state"] for row in table(tmp_path / "shared")] == ["complete"] * 2


def test_a_shared_stage_that_fails_is_named(search: Any, toy: Path) -> None:
    write_search(toy, stages=["second"], shared=["first"])
    with pytest.raises(BadInput, match="shared: has a stage that all trials need and that failed: ValueError: could"):
        search(overrides={"label": CommandLineText("no number")})


def test_the_examples_of_the_help_are_commands_that_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two of them were refused: for the name of an objective, and for data that was not named."""

    def begin(*_: Any) -> None:
        raise BadInput("data", "would be prepared now")

    monkeypatch.setattr(tune_module, "provide_data", begin)
    (tmp_path / "data" / "mimic").mkdir(parents=True)
    (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    monkeypatch.chdir(tmp_path)
    examples = [line.split()[3:] for line in (tune.__doc__ or "").splitlines() if "-m common tune" in line]
    assert len(examples) == 3
    for words in examples:
        assert main(words) == 1
        assert capsys.readouterr().err == "data: would be prepared now.\n"


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


@pytest.mark.parametrize("storage", ["sqlite:///{}/study.db", "{}/study.log", "journal://{}/study"])
def test_two_workers_share_a_study_and_one_is_killed(search: Any, worker: Any, tmp_path: Path, storage: str) -> None:
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


@pytest.mark.parametrize("storage", ["sqlite:///{}/study.db", "{}/study.log"])
def test_workers_together_run_as_many_trials_as_there_shall_be(worker: Any, tmp_path: Path, storage: str) -> None:
    workers = [worker(storage.format(tmp_path), 20, seconds=0.1) for _ in range(3)]
    for one in workers:
        one.wait_for("done\n")
    rows = table(tmp_path / "shared")
    assert [row["state"] for row in rows] == ["complete"] * 20
    assert len({row["worker"] for row in rows}) == 3 and len(set(parameters(tmp_path / "shared"))) == 20


def test_a_trial_whose_workers_keep_dying_has_failed(search: Any, worker: Any, tmp_path: Path) -> None:
    storage = f"{tmp_path}/study.log"
    for i in range(3):
        victim = worker(storage, 1, seconds=300)
        victim.wait_for(f"trial {i}: optimizer#lr")
        victim.process.kill()
        victim.process.join()
    with pytest.raises(BadInput, match="no trial that succeeded.*; the last failed: its worker died 3 times"):
        search(n_trials=1, out="shared", storage=storage, heartbeat=0.2)


def test_a_terminated_worker_queues_its_trial_and_leaves_no_process(search: Any, worker: Any, tmp_path: Path) -> None:
    storage = f"{tmp_path}/study.log"
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
    study = optuna.load_study(study_name="toy", storage=tune_storage(storage))
    assert [t.number for t in study.trials if t.user_attrs.get("requeued")] == [0]
    assert [t.user_attrs["deaths"] for t in study.trials if "first" in t.user_attrs] == [0]


def runs(word: str) -> bool:
    return any(word in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def tune_storage(path: str) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))


def test_a_trial_process_ends_with_its_worker(toy: Path, tmp_path: Path) -> None:
    """The real child, which watches its parent."""
    spec = {"bundle": str(toy), "stages": "first", "dataset_dir": str(tmp_path / "data"), "typed": {}}
    spec |= {"output_dir": str(tmp_path / "run"), "overrides": {"train#trainer#max_epochs": 10**6}}
    code = (
        "import json, sys, time; from pathlib import Path; from common.apps.search.trial import TrialProcess\n"
        f"p = TrialProcess(Path({str(tmp_path / 'run')!r}), json.loads({json.dumps(spec)!r}))\n"
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


def test_a_real_search_trains(toy: Path, tmp_path: Path, capsys: Any) -> None:
    train = json.loads((toy / "configs" / "train.json").read_text())
    train["history"]["metrics"] |= {"score": "$1 - 100 * (@optimizer#lr - 0.03) ** 2", "worst": "$@rates[0]"}
    (toy / "configs" / "train.json").write_text(json.dumps(train))
    words = ["tune", str(toy), "--search", "grid", "--n_trials", "2", "--output_dir", str(tmp_path / "out")]
    words += ["--scale", "tiny", "--virtual#n", "5", "--storage", f"sqlite:///{tmp_path}/study.db"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = table(tmp_path / "out")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    for row in rows:
        assert float(row["score"]) == pytest.approx(1 - 100 * (float(row["optimizer#lr"]) - 0.03) ** 2)
        assert float(row["worst"]) == float(row["rates#0"])
        summary = json.loads((tmp_path / "out" / row["folder"] / "summary.json").read_text())
        assert [stage["name"] for stage in summary["stages"]] == ["first"]
        assert not (tmp_path / "out" / row["folder"] / "data" / "virtual").exists()  # prepared once, for all
    assert len(list((tmp_path / "out" / "data").glob("**/manifest.csv"))) == 2
    best = max(rows, key=lambda row: (float(row["score"]), float(row["worst"])))
    assert result["best"]["trial"] == int(best["trial"])


def test_wrong_use(search: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--search is 'bayes', expected one of grid, .*; the nearest is bayesian"):
        search("bayes")
    with pytest.raises(UsageError, match="--objective is 'scor', expected one of score, worst; the nearest is score"):
        search(objective="scor")
    with pytest.raises(UnknownKey, match="--optimizer#lrr is neither .*; the nearest is --optimizer#lr"):
        search(overrides={"optimizer#lrr": 1})
    with pytest.raises(UsageError, match="--optimizer#lr is searched, expected ids that"):
        search(overrides={"optimizer::lr": 1})
    with pytest.raises(UsageError, match="--stages has 'frist'.*; the nearest is first"):
        search(stages="frist")
    with pytest.raises(UsageError, match="--n_trials is 0, expected more than 0"):
        search(n_trials=0)
    with pytest.raises(UsageError, match="--trial_hours is -1"):
        search(trial_hours=-1)
    with pytest.raises(UsageError, match="expected --dataset_dir"):
        search(dataset_dir=None)
    with pytest.raises(UsageError, match="--storage is 'study.sqlite', expected a SQLAlchemy URL such as"):
        search(storage="study.sqlite")
    with pytest.raises(UsageError, match="expected a file, which a second call can go on with"):
        search(storage="sqlite:///:memory:")
    with pytest.raises(UsageError, match="--storage is 'nodb://.*', expected a SQLAlchemy URL"):
        search(storage="nodb://host/name")
    with pytest.raises(UsageError, match=r"--storage is 'mysql://\.\.\.@host/name', whose database driver is not"):
        search(storage="mysql://me:secret@host/name")
    (tmp_path / "text.db").write_text("no database at all, but long enough to be taken for the head of one" * 20)
    with pytest.raises(ConnectionError, match=r"the storage sqlite:///.* cannot be opened \(.*file is not a database"):
        search(storage=f"sqlite:///{tmp_path}/text.db")
    (toy / "configs" / "search.json").unlink()
    with pytest.raises(BadInput, match=r"search\.json: does not exist"):
        search()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": {}}, "has an empty space"),
        ({"spaces": {}}, "has 'spaces', expected space, objectives, stages, shared and report"),
        ({"objectives": []}, "has the objectives \\[\\]"),
        ({"objectives": [{"metric": "score", "direction": "up"}]}, "has the direction 'up', expected maximize or"),
        ({"objectives": [{"metrics": "score"}]}, "is not a search .*metrics"),
        ({"space": {"label": {"low": 1}}}, "gives label .* expected values, or low and high"),
        (
            {"space": {"label": {"low": 0, "high": 1, "log": True}}},
            "range 0 to 1, expected low below high, and above 0",
        ),
        ({"space": {"label": {"low": 2, "high": 1}}}, "range 2 to 1, expected low below high"),
        ({"space": {"label": {"values": [[1], [2]]}}}, "expected at least one, and different numbers"),
        ({"space": {"label": {"values": ["a", "a"]}}}, "expected at least one, and different numbers"),
        ({"space": {"label": {"low": 1, "high": 3, "log": True, "step": 1}}}, "gives label the step 1"),
        ({"report": {"metric": "score", "pruner": "none"}}, "is not a search .*pruner"),
    ],
)
def test_a_bad_search_file_is_named(toy: Path, change: dict[str, Any], reason: str) -> None:
    write_search(toy, **change)
    with pytest.raises(BadInput, match=rf"search\.json: .*{reason}"):
        read_search_plan(open_bundle(toy))


def test_the_grid_of_nine_ids_with_three_values_has_19683_different_points(toy: Path) -> None:
    write_search(toy, space={f"id_{i}": {"values": [0.1, 0.2, "x"]} for i in range(9)})
    plan = read_search_plan(open_bundle(toy))
    points = [tuple(plan.grid_point(i).values()) for i in range(plan.grid_size())]
    assert len(points) == len(set(points)) == 19683 and list(plan.grid_point(0)) == list(plan.space)


def test_ids_and_stages_of_the_search_file_must_exist(search: Any, toy: Path) -> None:
    write_search(toy, space={"optimiser#lr": {"values": [1]}})
    with pytest.raises(BadInput, match="names the id 'optimiser#lr', expected one of stage first"):
        search()
    write_search(toy, objectives=[{"metric": "score", "stage": "second"}])
    with pytest.raises(BadInput, match="names the stage 'second', expected one that is run: first"):
        search()
    write_search(toy, space={"rates#0": {"low": 0.1, "high": 0.2}})
    with pytest.raises(UsageError, match="--search is 'grid', but rates#0 in search.json has no values, only a range"):
        search("grid")


def test_help_shows_the_space(toy: Path, capsys: Any) -> None:
    assert main(["tune", str(toy), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Space of toy (9 grid points):" in shown
    assert "0.01, 0.02, 0.03; 0.001 to 0.1 on a logarithmic scale" in shown and "maximize worst" in shown
