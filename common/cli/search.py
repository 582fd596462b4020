"""What the verbs of `python -m common` do that search a training; see `common.cli.verbs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.apps.run.bundle import open_bundle

Result = dict[str, Any]


def tune(
    bundle: str,
    search: str,
    n_trials: int | None = None,
    storage: str | None = None,
    output_dir: str | None = None,
    scale: str = "paper",
    stages: str | None = None,
    dataset_dir: str | None = None,
    seed: int = 0,
    objective: str | None = None,
    time_budget: float | None = None,
    trial_hours: float = 12.0,
    search_name: str | None = None,
    heartbeat: float = 60.0,
    **overrides: str,
) -> Result:
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

    Examples:
        python -m common tune bundles/mdfnet_cxr --search bayesian --dataset_dir data/mimic --storage sqlite:///s.db
        python -m common tune bundles/mdfnet_cxr --search random --n_trials 8 --scale demo --objective val_mean_auroc
        python -m common tune bundles/mdfnet_cxr --search grid --n_trials 200 --dataset_dir data/mimic --time_budget 48
    """
    from common.apps.search.tune import tune as run_search
    from common.visualize.tables import cell_text

    if "study" in overrides:
        print("--study is now called --search_name")
        search_name = overrides.pop("study")
    result = run_search(
        bundle, search, n_trials, storage, output_dir, scale, stages, dataset_dir, seed, objective, time_budget,
        trial_hours, search_name, heartbeat, overrides,
    )  # fmt: skip
    best = result["best"]
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items() if count)
    print(f"{counts} trials; the best is trial {best['trial']}:")
    for name, value in (best["values"] | best["params"]).items():
        print(f"  {name:<24} {cell_text(value)}")
    print(f"{result['best_params']}, see {result['page']}")
    return result


def search_of(words: Sequence[str]) -> str:
    """What `tune BUNDLE --help` adds: the space and objectives of that bundle."""
    from common.apps.search.space import read_search_plan

    if not words or words[0].startswith("-"):
        return ""
    found = open_bundle(words[0])
    if not (found.configs / "search.json").is_file():
        return f"{found.name} has no configs/search.json."
    plan = read_search_plan(found)
    lines = [f"Space of {found.name} ({plan.grid_size() or 'no'} grid points):"]
    for name, dimension in plan.space.items():
        kind = " on a logarithmic scale" if dimension.log else ""
        between = [] if dimension.low is None else [f"{dimension.low} to {dimension.high}{kind}"]
        choices = [] if dimension.values is None else [", ".join(map(str, dimension.values))]
        lines.append(f"  {name:<24} {'; '.join([*choices, *between])}")
    lines += ["Objectives:", *(f"  {o.direction} {o.metric}" for o in plan.objectives)]
    return "\n".join(lines)
