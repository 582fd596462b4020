"""`tune`: search the values of a bundle's configuration ids that make its training best; see `search_space`.

Each trial trains in a process of its own (`tune_trial`) in `OUTPUT_DIR/trials/NNNN`, a run folder as `run` writes it.
Data is prepared, and frozen features are computed (into `OUTPUT_DIR/cache`, if the bundle has the id `cache_dir`), once
for all. Any number of workers, each this command, share a study by its storage (`search_study`). With one objective, a
trial that does worse than the others did at the same validation is ended early; Optuna has no such thing for several.

Written to OUTPUT_DIR while it goes on, and at its end: best_params.json, trials.csv, index.html, plots/.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.apps.bundle import Bundle, UsageError, has_id, open_bundle
from common.apps.recipe import NO_OVERLAY, merged_stage, stages_of_scale
from common.apps.run_data import CT, check_data, provide_data
from common.apps.search_space import SearchPlan, read_search_plan
from common.apps.tune_setup import (
    checked_overrides,
    need_optuna,
    run_command,
    split_overrides,
    terminated_as_interrupted,
    virtual_patients,
    waiting_lock,
)
from common.apps.tune_trial import TrialProcess, reported_values, trial_values
from common.data.bad_input import BadInput
from common.data.output_folder import write_text
from common.visualize.tables import json_text

if TYPE_CHECKING:  # an extra of the package, see _need_optuna
    import optuna

    from common.apps.search_study import SharedStudy

DEFAULT_TRIALS = {"random": 50, "bayesian": 100}
_HOPELESS = 5  # failed trials, with none that succeeded, after which the search gives up
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Trials:
    """What is the same for each trial of a search.

    Attributes:
        bundle: the bundle.
        plan: what is searched.
        stages: that each trial runs.
        spec: arguments of the training but folder and parameters.
        folder: of the search.
        max_seconds: that one trial may take.
    """

    bundle: Bundle
    plan: SearchPlan
    stages: list[str]
    spec: dict[str, Any]
    folder: Path
    max_seconds: float

    def folder_of(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> Path:
        """The run folder of a trial; one that was queued again goes on in that of the first."""
        return self.folder / "trials" / f"{trial.user_attrs.get('first', trial.number):04d}"


def tune(
    bundle: str | os.PathLike[str] | Bundle,
    search: str,
    n_trials: int | None = None,
    storage: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    scale: str = NO_OVERLAY,
    stages: str | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    objective: str | None = None,
    time_budget: float | None = None,
    trial_hours: float = 12.0,
    study: str | None = None,
    heartbeat: float = 60.0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run trials until the study has `n_trials`, alone or beside other workers on the same storage.

    Args:
        bundle: bundle folder, with `configs/search.json`.
        search: grid, random or bayesian.
        n_trials: of the whole study, by all workers and calls; default: the whole grid, 50 random, 100 bayesian.
        storage: SQLAlchemy URL or journal file; default OUTPUT_DIR/study.log.
        output_dir: default `runs/BUNDLE_tune`.
        scale: "paper", or the name of an overlay in the bundle's configs.
        stages: "a,b", that each trial runs; default those of search.json, else those of the scale.
        dataset_dir: as for `run`.
        seed: of the search and of each training.
        objective: only these metrics, "a" or "a,b"; default all objectives of search.json.
        time_budget: hours that all trials of the study may take together, summed over workers.
        trial_hours: hours that one trial may take, after which it has failed.
        study: name of the study in the storage; default the bundle's name.
        heartbeat: seconds between two signs of life of a worker; after three that fail to come it counts as dead.
        overrides: configuration id -> value, for each trial.

    Returns:
        `study`, `trials` (state -> count), `best` (content of best_params.json), `best_params`, `page`, `output_dir`.

    Raises:
        BadInput: for a bundle or data that cannot be used, or if no trial succeeds.
        UsageError: for an unknown search, scale, stage, metric or id, or a study that was made by another command.
    """
    need_optuna()
    bundle = open_bundle(bundle)
    plan = read_search_plan(bundle).choose(search, objective)
    for name, value in (("n_trials", n_trials), ("time_budget", time_budget), ("heartbeat", heartbeat)):
        if value is not None and value <= 0:
            raise UsageError(f"--{name} is {value}, expected more than 0")
    if trial_hours <= 0:
        raise UsageError(f"--trial_hours is {trial_hours}, expected more than 0")
    wanted = stages_of_scale(bundle, scale, stages if stages is not None else plan.stages)
    configs = [merged_stage(bundle, name, scale, {}).config for name in wanted]
    overrides = checked_overrides(bundle, plan, wanted, configs, overrides or {})
    virtual = virtual_patients(configs[0], overrides)
    check_data(dataset_dir, virtual)
    limit = DEFAULT_TRIALS.get(search, plan.grid_size()) if n_trials is None else n_trials
    if search == "grid" and limit > plan.grid_size():
        print(f"the grid has {plan.grid_size()} points, so there are as many trials")
        limit = plan.grid_size()

    out = Path("runs") / f"{bundle.name}_tune" if output_dir is None else Path(output_dir)
    out.mkdir(parents=True, exist_ok=True)
    with waiting_lock(out):
        data = provide_data(out / "data", dataset_dir, virtual, configs[0].get("layout", CT))
    values, typed = split_overrides(overrides)
    if configs[0].get("virtual") is not None:
        values["virtual"] = None  # they are in the data now
    if "cache_dir" not in overrides and any(has_id(config, "cache_dir") for config in configs):
        values["cache_dir"] = str((out / "cache").resolve())
    spec = {"bundle": str(bundle.root.resolve()), "scale": scale, "stages": wanted, "seed": seed}
    spec |= {"dataset_dir": str(data.folder.resolve()), "overrides": values, "typed": typed}
    definition = {"bundle": bundle.name, "scale": scale, "search": search, "seed": seed, "stages": wanted}
    definition |= plan.as_json() | {"stages": wanted, "data": data.data_hash}
    definition["overrides"] = json.loads(json.dumps({key: str(value) for key, value in overrides.items()}))

    from common.apps.search_study import SharedStudy, open_storage
    from common.apps.tune_page import write_search

    place = open_storage(str(out / "study.log") if storage is None else storage)
    name = study or bundle.name
    shared = SharedStudy(place, name, plan, search, seed, definition, heartbeat)
    _claim(out, {"study": name} | definition)
    trials = Trials(bundle, plan, wanted, spec, out, trial_hours * 3600)
    command = run_command(bundle, spec, overrides, dataset_dir)

    def write() -> dict[str, Any]:
        return write_search(out, bundle.name, search, shared, plan, command, limit)

    with terminated_as_interrupted():
        _work(shared, trials, limit, None if time_budget is None else time_budget * 3600, write)
    result = write()
    if result["best"] is None:
        errors = [_error_of(trial) for trial in shared.trials() if "error" in trial.user_attrs]
        why = f"; the last failed: {errors[-1]}" if errors else ""
        raise BadInput(out, f"has no trial that succeeded, see {out / 'trials.csv'}{why}")
    return {"study": shared.study.study_name, **result, "output_dir": str(out)}


# ---- the worker --------------------------------------------------------------------------------------------------


def _work(shared: SharedStudy, trials: Trials, limit: int, budget: float | None, write: Any) -> None:
    """Run trials as long as the study lacks some and its time budget lasts."""
    from optuna.trial import TrialState

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
            raise BadInput(trials.folder, f"has {ended} trials that all failed; the last: {_error_of(failed[-1])}")
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


def _one_trial(shared: SharedStudy, trials: Trials, trial: optuna.Trial, seconds: float | None) -> bool:
    """Run one trial and tell the study how it ended; False if the time budget did not let it end."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    folder = trials.folder_of(trial)
    print(f"trial {trial.number}: {_shown(trial.params)}", flush=True)
    spec = trials.spec | {"output_dir": str(folder.resolve())}
    spec["overrides"] = spec["overrides"] | trial.params
    start = time.monotonic()
    values, state, error, in_time = None, TrialState.FAIL, None, True
    seen: set[int] = set()
    with shared.beating(trial):
        process = TrialProcess(folder, spec)
        try:
            while process.wait(_POLL_SECONDS) is None:
                took = time.monotonic() - start
                if seconds is not None and took > seconds:
                    in_time = False
                    process.stop()
                    break
                if took > trials.max_seconds:
                    error = f"took longer than {trials.max_seconds / 3600:g} hours"
                    break
                if _is_hopeless(trials, trial, folder, seen):
                    state = TrialState.PRUNED
                    break
            else:
                if process.process.returncode == 0:
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
            process.stop()
            shared.note(trial, seconds=time.monotonic() - start)
            shared.requeue(trial, died=False)
            raise
        finally:
            process.stop(grace=0)
        took = time.monotonic() - start
        facts = {"seconds": round(took, 3)} | ({} if error is None else {"error": error})
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
            TrialState.COMPLETE: lambda: _shown(dict(zip(names, values, strict=True))),
            TrialState.PRUNED: lambda: "ended early, others did better",
            TrialState.FAIL: lambda: f"failed: {error}",
        }[state]()
        best = shared.complete()[:1]
        if best:
            reached = _shown(dict(zip(names, best[0].values, strict=True)))
            said += f"; best so far trial {best[0].number}: {reached}"
        print(f"trial {trial.number}: {said} ({took:.0f} s)", flush=True)
    return True


def _is_hopeless(trials: Trials, trial: optuna.Trial, folder: Path, seen: set[int]) -> bool:
    """Hand on what the validations have given since those in `seen`; whether the pruner has seen enough."""
    report = trials.plan.report
    if report is None:
        return False
    for step, value in enumerate(reported_values(folder, report.stage or trials.stages[-1], report.metric), 1):
        if step not in seen and not math.isnan(value):
            trial.report(value, step)
            seen.add(step)
    return bool(seen) and trial.should_prune()


def _tidy(shared: SharedStudy, trials: Trials) -> None:
    """Remove the weights of ended trials that are not among the best; a run keeps gigabytes of them."""
    from optuna.trial import TrialState

    kept = {t.number for t in shared.front()} | {t.number for t in shared.complete()[:1]}
    for trial in shared.trials():
        if trial.state not in (TrialState.RUNNING, TrialState.WAITING) and trial.number not in kept:
            folder = trials.folder_of(trial)
            for weights in (folder / "models", *folder.glob("*/checkpoints")):
                shutil.rmtree(weights, ignore_errors=True)


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _error_of(trial: optuna.trial.FrozenTrial) -> str:
    return trial.user_attrs.get("error", "for an unknown reason")


def _claim(out: Path, study: Mapping[str, Any]) -> None:
    """Keep the trials of two studies from being written into one folder."""
    path = out / "study.json"
    if not path.is_file():
        write_text(path, json_text(study, indent=1))
    there = json.loads(path.read_text(encoding="utf-8"))
    if there != study:
        raise UsageError(f"{out} holds the study {there['study']!r} of another command, expected another --output_dir")
