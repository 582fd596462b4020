"""What a search leaves in its folder: best_params.json, trials.csv, plots/ and the page index.html."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from common.apps.search.sampler import first_number
from common.apps.search.shared_search import SharedSearch
from common.apps.search.space import SearchPlan
from common.io.output_folder import csv_text, write_text
from common.visualize.figures import save_picture
from common.visualize.html_report import Page, Picture, Section, Table, render_page
from common.visualize.run_page import duration_text
from common.visualize.search_charts import search_charts
from common.visualize.tables import json_text

_ROWS = 20  # of trials on the page before they are folded


def write_search(
    out: Path,
    bundle: str,
    search: str,
    shared: SharedSearch,
    plan: SearchPlan,
    command: Callable[[Mapping[str, Any]], str],
    limit: int,
) -> dict[str, Any]:
    """Write all of it, from what the search holds now; each file is whole at any moment.

    Args:
        out: folder of the search.
        bundle: name of the bundle.
        search: grid, random or bayesian.
        shared: the search.
        plan: what is searched.
        command: gives the line for the shell that trains with some parameters as a trial does.
        limit: trials that the search shall have.

    Returns:
        `trials` (state -> count), `best` (content of best_params.json or None), `best_params` and `page` (paths).
    """
    trials, complete = shared.trials(), shared.complete()
    states = {state.name.lower(): sum(t.state == state for t in trials) for state in TrialState}
    best = None
    if complete:
        front = shared.front()
        best = _facts(complete[0], plan) | {"command": command(complete[0].params)}
        if len(plan.objectives) > 1:
            best["pareto_front"] = [_facts(trial, plan) for trial in complete if trial.number in front]
        write_text(out / "best_params.json", json_text(best, indent=1))
    rows = [_row(trial, plan) for trial in trials]
    columns = ["trial", "state", *(o.metric for o in plan.objectives), *plan.space]
    columns += ["pruned_at", "seconds", "worker", "folder", "error"]
    write_text(out / "trials.csv", csv_text(columns, rows))
    plots = _plots(out, shared, plan) if complete else []
    page = out / "index.html"
    title = f"Search of {bundle.replace('_', ' ')}"
    lead = f"{search} search, {sum(states[s] for s in ('complete', 'pruned', 'fail'))} of {limit} trials ended."
    facts = {"Trials": ", ".join(f"{n} {state}" for state, n in states.items() if n)}
    facts |= {"Time of all trials": duration_text(shared.seconds())}
    write_text(page, render_page(Page(title, lead, facts, _sections(best, rows, complete, trials, plan, plots))))
    return {
        "trials": states,
        "best": best,
        "best_params": str(out / "best_params.json") if best else None,
        "page": str(page),
    }


def _facts(trial: FrozenTrial, plan: SearchPlan) -> dict[str, Any]:
    values = {o.metric: value for o, value in zip(plan.objectives, trial.values, strict=True)}
    return {"trial": trial.number, "values": values, "params": dict(trial.params)}


def _row(trial: FrozenTrial, plan: SearchPlan) -> dict[str, Any]:
    facts = trial.user_attrs
    row: dict[str, Any] = {"trial": trial.number, "state": trial.state.name.lower()} | trial.params
    if trial.state == TrialState.COMPLETE:
        row |= {o.metric: value for o, value in zip(plan.objectives, trial.values, strict=True)}
    row |= {name: facts.get(name) for name in ("pruned_at", "seconds", "worker", "error")}
    return row | {"folder": f"trials/{first_number(trial):04d}"}


def _plots(out: Path, shared: SharedSearch, plan: SearchPlan) -> list[tuple[str, Path]]:
    """Draw what the complete trials allow; (title of its section, file)."""
    metrics, best = [objective.metric for objective in plan.objectives], shared.complete()[0].number
    first = metrics[0]
    said = {
        "history": ("History", "Each trial that ended with values, and the best until then."),
        "slices": ("Values", f"{first} over the value of each id; later trials are darker."),
        "parallel_coordinates": ("Values", f"A line per trial through its values, darker where {first} is better."),
        "pareto_front": (
            "Trade-off",
            f"A best trial is beaten by no other in every metric; trial {best}, with the best {first}, is chosen.",
        ),
        "importances": ("Importance", f"Share of the variance of {first} that each id explains (fANOVA)."),
    }
    drawn = search_charts(shared.optuna_study, metrics, list(plan.space))
    return [
        (said[name][0], save_picture(pixels, out / "plots" / f"{name}.png", said[name][1]))
        for name, pixels in drawn.items()
    ]


def _sections(
    best: dict[str, Any] | None,
    rows: Sequence[dict[str, Any]],
    complete: Sequence[FrozenTrial],
    trials: Sequence[FrozenTrial],
    plan: SearchPlan,
    plots: Sequence[tuple[str, Path]],
) -> list[Section]:
    sections = []
    if best is not None:
        tables = [Table.of_values(best["values"], "Reached"), Table.of_values(best["params"], "Parameters")]
        most = "highest" if plan.objectives[0].direction == "maximize" else "lowest"
        text = f"Trial {best['trial']}: the {most} first objective"
        text += ", ties decided by the next ones." if len(plan.objectives) > 1 else "."
        sections.append(
            Section("Best parameters", text=text, tables=tables, folded=[("Train with them", best["command"])])
        )
    for title in dict.fromkeys(title for title, _ in plots):
        pictures = [Picture.of_file(path) for name, path in plots if name == title]
        sections.append(Section(title, pictures=pictures))
    names = ["trial", "state", *(o.metric for o in plan.objectives), *plan.space, "seconds"]
    order = {trial.number: place for place, trial in enumerate(complete)}
    ranked = sorted(rows, key=lambda row: order.get(row["trial"], len(order) + row["trial"]))
    tables = [Table.of_rows(ranked[:_ROWS], names, "Best first")]
    notes = [f"Trial {t.number} failed: {t.user_attrs['error']}" for t in trials if "error" in t.user_attrs]
    folded = [("All trials", Table.of_rows(rows, names))] if len(rows) > _ROWS else []
    sections.append(Section("Trials", tables=tables if rows else [], notes=notes[:_ROWS], folded=folded))
    return sections
