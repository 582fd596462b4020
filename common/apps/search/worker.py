"""A worker of a search: it takes trials from the search, runs each as a process, and says how it ended; see `tune`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from common.apps.search.pruner import REPORTED, pruned_at
from common.apps.search.sampler import first_number
from common.apps.search.setup import waiting_lock
from common.apps.search.shared_search import SharedSearch
from common.apps.search.space import SearchPlan
from common.apps.search.trial import TrialProcess, reported_values, trial_values
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, link_or_copy

_HOPELESS = 5  # failed trials, with none that succeeded, after which the search gives up
_POLL_SECONDS = 1.0
_SHARED = "shared"  # folder of the stages that all trials share
_NOT_LINKED = ("data", "cache", "logs", "checkpoints", "resume", "tensorboard", "comparison")  # of that run itself


@dataclass(frozen=True)
class Trials:
    """What is the same for each trial of a search.

    Attributes:
        plan: what is searched.
        stages: that each trial runs.
        spec: arguments of the training but folder and parameters.
        folder: of the search.
        max_seconds: that one trial may take.
    """

    plan: SearchPlan
    stages: list[str]
    spec: dict[str, Any]
    folder: Path
    max_seconds: float

    def folder_of(self, trial: FrozenTrial) -> Path:
        """The run folder of a trial; one that was queued again goes on in that of the first."""
        return self.folder / "trials" / f"{first_number(trial):04d}"


def run_shared(out: Path, spec: Mapping[str, Any]) -> None:
    """Run the shared stages in a process of their own; what has finished is skipped, as `run` does.

    One worker does it, others on the same folder wait; one that is killed leaves it to the next, which goes on.

    Args:
        out: folder of the search.
        spec: arguments of `common.apps.run.recipe.run_recipe`, see `TrialProcess`.

    Raises:
        BadInput: if a stage fails.
    """
    folder = out / _SHARED
    folder.mkdir(exist_ok=True)
    with waiting_lock(out):
        with waiting_lock(folder):  # the process of a worker that was killed a moment ago ends
            pass
        print(f"running the stages that all trials share: {', '.join(spec['stages'])}", flush=True)
        with TrialProcess(folder, dict(spec) | {"output_dir": str(folder.resolve())}) as process:
            while process.wait(_POLL_SECONDS) is None:
                pass
        if process.process.returncode != 0:
            raise BadInput(folder, f"has a stage that all trials need and that failed: {process.reason()}")


def begin_trial(out: Path, folder: Path) -> None:
    """Give a new trial what the shared stages left: links to their files, which take no room and no time.

    Files of a run are replaced, never written into, so a trial changes its own alone.

    Args:
        out: folder of the search.
        folder: of the trial; nothing is done if it is there.
    """
    if folder.exists() or not (out / _SHARED).is_dir():
        return

    def own(inside: str, names: list[str]) -> list[str]:
        top = Path(inside) == out / _SHARED  # its files, such as the page and the lock
        return [name for name in names if name in _NOT_LINKED or (top and Path(inside, name).is_file())]

    with atomic_path(folder) as part:
        shutil.copytree(out / _SHARED, part, copy_function=link_or_copy, ignore=own)


def work(shared: SharedSearch, trials: Trials, limit: int, budget: float | None, write: Any) -> None:
    """Run trials as long as the search lacks some and its time budget lasts."""
    waited, written, cost = False, 0.0, 0.0
    while True:
        for number in shared.revive():
            print(f"trial {number}: its worker is dead, so it is queued again", flush=True)
        there = shared.trials()
        running = sum(t.state == TrialState.RUNNING for t in there)
        queued = sum(t.state == TrialState.WAITING for t in there)
        failed = [t for t in there if t.state == TrialState.FAIL]
        ended = len(there) - running - queued
        left = None if budget is None else budget - shared.seconds()
        if ended >= limit:
            return
        if left is not None and left <= 0:
            print(f"the time budget is used up after {ended} of {limit} trials; a longer one goes on", flush=True)
            return
        if len(failed) == ended >= _HOPELESS:
            raise BadInput(trials.folder, f"has {ended} trials that all failed; the last: {error_of(failed[-1])}")
        if not queued and ended + running >= limit:
            if not waited:
                print(f"waiting for {running} trials of other workers", flush=True)
            waited = True
            time.sleep(min(_POLL_SECONDS, shared.beat_seconds))
            continue
        waited = False
        trial = shared.ask(limit)
        if trial is not None:
            # What is left is divided among those who run now, this worker included.
            seconds = None if left is None else left / (running + 1)
            if not _one_trial(shared, trials, trial, seconds):
                print(f"trial {trial.number}: ended by the time budget, queued for a longer one", flush=True)
            _tidy(shared, trials)
            if time.monotonic() - written > 20 * cost:  # at most a twentieth of the time goes into pages
                begin = time.monotonic()
                write()
                written = time.monotonic()
                cost = written - begin


def _one_trial(shared: SharedSearch, trials: Trials, trial: FrozenTrial, seconds: float | None) -> bool:
    """Run one trial and tell the search how it ended; False if the time budget did not let it end."""
    folder = trials.folder_of(trial)
    begin_trial(trials.folder, folder)
    print(f"trial {trial.number}: {_values_text(trial.params)}", flush=True)
    spec = trials.spec | {"output_dir": str(folder.resolve())}
    spec["overrides"] = spec["overrides"] | trial.params
    start, before = time.monotonic(), trial.user_attrs.get("seconds", 0.0)  # of those who could not end it
    reported: list[float | None] = list(trial.user_attrs.get(REPORTED, []))
    values, state, error, in_time = None, TrialState.FAIL, None, True
    with shared.beating(trial):
        try:
            with TrialProcess(folder, spec) as process:
                while process.wait(_POLL_SECONDS) is None:
                    took = time.monotonic() - start
                    if seconds is not None and took > seconds:
                        in_time = False
                        process.stop()
                        break
                    if took > trials.max_seconds:
                        error = f"took longer than {trials.max_seconds / 3600:g} hours"
                        break
                    if _is_hopeless(shared, trials, trial, folder, reported):
                        state = TrialState.PRUNED
                        break
                else:
                    if process.process.returncode == 0 and _is_hopeless(shared, trials, trial, folder, reported):
                        state = TrialState.PRUNED
                    elif process.process.returncode == 0:
                        values = trial_values(folder, trials.plan.objectives)
                        state = TrialState.COMPLETE
                    else:
                        error = process.reason()
        except BadInput as problem:
            error = str(problem)
        except UpdateFinishedTrialError:
            print(f"trial {trial.number}: another worker took this one for dead and has queued the trial", flush=True)
            return True
        except KeyboardInterrupt:
            shared.note(trial, seconds=before + time.monotonic() - start)
            shared.requeue(trial, died=False)
            raise
        took = time.monotonic() - start
        facts = {"seconds": round(before + took, 3)} | ({} if error is None else {"error": error})
        try:
            shared.note(trial, **facts)
        except UpdateFinishedTrialError:
            return True
    if not in_time:
        shared.requeue(trial, died=False)
        return False
    if shared.tell(trial, state, values):
        names = [objective.metric for objective in trials.plan.objectives]
        said = {
            TrialState.COMPLETE: lambda: _values_text(dict(zip(names, values, strict=True))),
            TrialState.PRUNED: lambda: f"ended early at validation {len(reported)}, others did better",
            TrialState.FAIL: lambda: f"failed: {error}",
        }[state]()
        best = shared.complete()[:1]
        if best:
            reached = _values_text(dict(zip(names, best[0].values, strict=True)))
            said += f"; best so far trial {best[0].number}: {reached}"
        print(f"trial {trial.number}: {said} ({took:.0f} s)", flush=True)
    return True


def _is_hopeless(
    shared: SharedSearch, trials: Trials, trial: FrozenTrial, folder: Path, reported: list[float | None]
) -> bool:
    """Judge what the trial's validations have given since the last look, and add it to `reported`; see `search.pruner`.

    Also asked after the training has ended, so that what becomes of a trial does not depend on how soon one looked.
    """
    report = trials.plan.report
    if report is None:
        return False
    values = reported_values(folder, report.stage or trials.stages[-1], report.metric)
    if len(values) <= len(reported):  # one that was resumed may not yet be where it was
        return False
    complete = [other.user_attrs.get(REPORTED, []) for other in shared.complete()]
    n = pruned_at(values, len(reported), complete, report, trials.plan.objectives[0].direction)
    reported += values[len(reported) : n]
    shared.note(trial, **{REPORTED: reported} | ({} if n is None else {"pruned_at": n}))
    return n is not None


def _tidy(shared: SharedSearch, trials: Trials) -> None:
    """Remove the weights of ended trials that are not among the best; a run keeps gigabytes of them."""
    kept = shared.front() | {t.number for t in shared.complete()[:1]}
    for trial in shared.trials():
        if trial.state not in (TrialState.RUNNING, TrialState.WAITING) and trial.number not in kept:
            folder = trials.folder_of(trial)
            for weights in (folder / "models", *folder.glob("*/checkpoints")):
                shutil.rmtree(weights, ignore_errors=True)


def _values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def error_of(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return trial.user_attrs.get("error", "for an unknown reason")
