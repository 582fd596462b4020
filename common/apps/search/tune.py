"""`tune`: search the values of a bundle's configuration ids that make its training best; see `search.space`.

Each trial trains in a process of its own (`search.trial`) in `OUTPUT_DIR/trials/NNNN`, a run folder as `run` writes it.
Data is prepared, stages that search.json calls shared are run, and frozen features are computed (into
`OUTPUT_DIR/cache`, if the bundle has the id `cache_dir`), once for all. Any number of workers
(`search.worker`), each this command, share a search by its storage (`search.shared_search`). A trial that does worse
than the others did at the same validation is ended early (`search.pruner`). Written to OUTPUT_DIR while it goes on, and
at its end: best_params.json, trials.csv, index.html, plots/.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, UsageError, has_id, open_bundle
from common.apps.run.recipe import merged_stage, stages_of_scale
from common.apps.run.remote_paths import takes_urls
from common.apps.run.run_data import CT, check_data, provide_data
from common.apps.search.setup import (
    checked_overrides,
    meant_for,
    need_optuna,
    run_command,
    shared_stages,
    split_overrides,
    terminated_as_interrupted,
    virtual_patients,
    waiting_lock,
)
from common.apps.search.space import read_search_plan
from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.io.remote_folder import publish
from common.visualize.tables import json_text

DEFAULT_TRIALS = {"random": 50, "bayesian": 100}


@takes_urls(reads=["dataset_dir"], goes_on=["output_dir"])
def tune(
    bundle: str | os.PathLike[str] | Bundle,
    search: str,
    n_trials: int | None = None,
    storage: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    scale: str = "paper",
    stages: str | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    objective: str | None = None,
    time_budget: float | None = None,
    trial_hours: float = 12.0,
    search_name: str | None = None,
    heartbeat: float = 60.0,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Search the values of a bundle's configuration that train best: the space of its configs/search.json.

    Each trial trains in a process of its own. The best trial is that with the best first objective; with several, the
    Pareto front is shown. A trial whose validations are worse than the median of the others is ended early. What no
    trial changes, such as features of frozen encoders, is made once before.

    The same command goes on where it was interrupted. Started several times on one storage, on one machine or many, it
    shares the work; the trial of a worker that dies is run again by another. On a machine with several GPUs give each
    worker its own by CUDA_VISIBLE_DEVICES. Weights are kept of the best trials alone.

    Args:
        bundle: folder of a bundle
        search: NAME grid (seeded order), random or bayesian (TPE)
        n_trials: N of the whole search, by all workers (default: the whole grid, 50 random, 100 bayesian)
        storage: URL sqlite:///FILE, any SQL server by its SQLAlchemy URL, or a journal file: a path ending in .log or
            .journal, or journal:///PATH, which may lie on a network drive (default: search.log in the output folder)
        output_dir: DIR best_params.json, trials.csv, index.html, plots, trials (default: runs/BUNDLE_tune)
        scale: NAME of each training, as for run
        stages: A,B that each trial runs (default: those of search.json, else of the scale); shared ones run before
        dataset_dir: DIR as for run; data is prepared once for all trials
        seed: N of the search and of each training
        objective: A,B only these metrics of search.json
        time_budget: HOURS that the trials may take together, summed over workers; a trial that this ends is queued
        trial_hours: HOURS that one trial may take, after which it has failed
        search_name: NAME in the storage (default: the bundle's name)
        heartbeat: SECONDS between signs of life of a worker; without three in a row it counts as dead
        overrides: changes a value of the configuration in each trial, by its MONAI id

    Returns:
        `search_name`, `trials` (state -> count), `best` (content of best_params.json), `best_params`, `page`,
        `output_dir`.

    Raises:
        BadInput: for a bundle or data that cannot be used, or if no trial succeeds.
        UsageError: for an unknown search, scale, stage, metric or id, or a search that was made by another command.

    Examples:
        python -m common tune bundles/mdfnet_cxr --search bayesian --dataset_dir data/mimic --storage sqlite:///s.db
        python -m common tune bundles/mdfnet_cxr --search random --n_trials 8 --scale demo --objective val_mean_auroc
        python -m common tune bundles/mdfnet_cxr --search grid --n_trials 200 --dataset_dir data/mimic --time_budget 48
    """
    need_optuna()
    overrides = dict(overrides or {})
    if "study" in overrides:
        print("--study is now called --search_name", flush=True)
        search_name = overrides.pop("study")
    bundle = open_bundle(bundle)
    plan = read_search_plan(bundle).choose(search, objective)
    numbers = {"n_trials": n_trials, "time_budget": time_budget, "trial_hours": trial_hours, "heartbeat": heartbeat}
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise UsageError(f"--{name} is {value}, expected more than 0")
    wanted = stages_of_scale(bundle, scale, stages if stages is not None else plan.stages)
    shared = shared_stages(plan, stages_of_scale(bundle, scale), wanted)
    configs = [merged_stage(bundle, name, scale, {}).config for name in wanted]
    before = [merged_stage(bundle, name, scale, {}).config for name in shared]
    overrides = checked_overrides(bundle, plan, wanted, configs, before, overrides or {})
    asked = dict(overrides)
    virtual = virtual_patients(configs[0], overrides)
    check_data(dataset_dir, virtual)
    limit = DEFAULT_TRIALS.get(search, plan.grid_size()) if n_trials is None else n_trials
    if search == "grid" and limit > plan.grid_size():
        print(f"the grid has {plan.grid_size()} points, so there are as many trials")
        limit = plan.grid_size()

    out = Path("runs") / f"{bundle.name}_tune" if output_dir is None else Path(output_dir)
    bundle.stay_out(out)
    out.mkdir(parents=True, exist_ok=True)
    with waiting_lock(out):
        data = provide_data(out / "data", dataset_dir, virtual, configs[0].get("layout", CT))
    spec = {"bundle": str(bundle.root.resolve()), "scale": scale, "seed": seed}
    spec |= {"dataset_dir": str(data.folder.resolve())}

    def training(names: list[str], with_these: list[dict[str, Any]]) -> dict[str, Any]:
        values, typed = split_overrides(meant_for(with_these, overrides))
        if configs[0].get("virtual") is not None:
            values["virtual"] = None  # they are in the data now
        if "cache_dir" not in overrides and any(has_id(config, "cache_dir") for config in with_these):
            values["cache_dir"] = str((out / "cache").resolve())
        return spec | {"stages": names, "overrides": values, "typed": typed}

    definition = {"bundle": bundle.name, "scale": scale, "search": search, "seed": seed, "stages": wanted}
    definition |= plan.as_json() | {"stages": wanted, "shared": shared, "data": data.data_hash}
    definition["overrides"] = json.loads(json.dumps({key: str(value) for key, value in overrides.items()}))

    from common.apps.search.page import write_search
    from common.apps.search.shared_search import SharedSearch, open_storage
    from common.apps.search.worker import Trials, error_of, run_shared, work

    place = open_storage(str(out / "search.log") if storage is None else storage)
    name = search_name or bundle.name
    shared_search = SharedSearch(place, name, plan, search, seed, definition, heartbeat)
    _claim(out, {"name": name} | definition)
    trials = Trials(plan, wanted, training(wanted, configs), out, trial_hours * 3600)

    def command(params: Mapping[str, Any]) -> str:
        line = run_command(bundle, scale, wanted, seed, meant_for(configs, asked) | params, dataset_dir)
        if not shared:
            return line
        return f"{run_command(bundle, scale, shared, seed, meant_for(before, asked), dataset_dir)} && {line}"

    def write() -> dict[str, Any]:
        written = write_search(out, bundle.name, search, shared_search, plan, command, limit)
        publish(out)
        return written

    with terminated_as_interrupted():
        if shared:
            run_shared(out, training(shared, before))
        work(shared_search, trials, limit, None if time_budget is None else time_budget * 3600, write)
    result = write()
    if result["best"] is None:
        errors = [error_of(trial) for trial in shared_search.trials() if "error" in trial.user_attrs]
        why = f"; the last failed: {errors[-1]}" if errors else ""
        raise BadInput(out, f"has no trial that succeeded, see {out / 'trials.csv'}{why}")
    return {"search_name": name, **result, "output_dir": str(out)}


def _claim(out: Path, definition: Mapping[str, Any]) -> None:
    """Keep the trials of two searches from being written into one folder."""
    path = out / "definition.json"
    if (out / "study.json").is_file():
        raise UsageError(f"{out} holds a search that an earlier version began, expected another --output_dir")
    if not path.is_file():
        write_text(path, json_text(definition, indent=1))
    there = json.loads(path.read_text(encoding="utf-8"))
    if there != definition:
        raise UsageError(f"{out} holds the search {there['name']!r} of another command, expected another --output_dir")
