"""What a search leaves in its folder: best_params.json, trials.csv, plots/ and the page index.html."""

from __future__ import annotations

import json
import math
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from common.apps.search.shared_search import SharedStudy
from common.apps.search.space import SearchPlan
from common.io.output_folder import csv_text, write_text
from common.visualize.figures import save_picture
from common.visualize.html_report import Page, Picture, Section, Table, render_page
from common.visualize.run_page import duration_text
from common.visualize.search_charts import (
    SearchAxes,
    SearchPoint,
    search_front,
    search_history,
    search_importances,
    search_parallel,
    search_slices,
)
from common.visualize.tables import json_text

_ENOUGH = 4  # trials, below which shares of variance say nothing
_SHOWN = 20


def write_search(
    out: Path,
    bundle: str,
    search: str,
    shared: SharedStudy,
    plan: SearchPlan,
    commands: Sequence[Sequence[str]],
    limit: int,
) -> dict[str, Any]:
    """Write all of it, from what the study holds now; each file is whole at any moment.

    Args:
        out: folder of the search.
        bundle: name of the bundle.
        search: grid, random or bayesian.
        shared: the study.
        plan: what is searched.
        commands: words that train as the trials do, one after the other; the last one takes the parameters.
        limit: trials that the study shall have.

    Returns:
        `trials` (state -> count), `best` (content of best_params.json or None), `best_params` and `page` (paths).
    """
    trials, complete = shared.trials(), shared.complete()
    states = {state.name.lower(): sum(t.state == state for t in trials) for state in TrialState}
    best = None
    if complete:
        front = sorted(shared.front(), key=lambda t: complete.index(next(c for c in complete if c.number == t.number)))
        best = _facts(complete[0], plan) | {"command": _shell(commands, complete[0].params)}
        if len(plan.objectives) > 1:
            best["pareto_front"] = [_facts(trial, plan) for trial in front]
        write_text(out / "best_params.json", json_text(best, indent=1))
    rows = [_row(trial, plan) for trial in trials]
    columns = ["trial", "state", *(o.metric for o in plan.objectives), *plan.space]
    columns += ["pruned_at", "seconds", "worker", "folder", "error"]
    write_text(out / "trials.csv", csv_text(columns, rows))
    plots = _plots(out, search, shared, plan) if complete else []
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


def _shell(commands: Sequence[Sequence[str]], params: Mapping[str, Any]) -> str:
    """A line for the shell; the numbers of a configuration and ids such as a#b need no quotes."""
    last = [*commands[-1], *(word for key, value in params.items() for word in (f"--{key}", typed_text(value)))]
    return " && ".join(" ".join(map(_quoted, words)) for words in (*commands[:-1], last))


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w./,:=+-][\w./,:=+#-]*", word) else shlex.quote(word)


def typed_text(value: Any) -> str:
    """A value as a command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _row(trial: FrozenTrial, plan: SearchPlan) -> dict[str, Any]:
    facts = trial.user_attrs
    row: dict[str, Any] = {"trial": trial.number, "state": trial.state.name.lower()} | trial.params
    if trial.state == TrialState.COMPLETE:
        row |= {o.metric: value for o, value in zip(plan.objectives, trial.values, strict=True)}
    row |= {name: facts.get(name) for name in ("pruned_at", "seconds", "worker", "error")}
    return row | {"folder": f"trials/{facts.get('first', trial.number):04d}"}


def _plots(out: Path, search: str, shared: SharedStudy, plan: SearchPlan) -> list[tuple[str, Path]]:
    """Draw what the complete trials allow; (title of its section, file)."""
    metrics = [objective.metric for objective in plan.objectives]
    complete = shared.complete()
    points = [
        SearchPoint(t.number, t.params, dict(zip(metrics, t.values, strict=True)))
        for t in sorted(complete, key=lambda trial: trial.number)
    ]
    ranges = {} if search == "grid" else {n: d.log for n, d in plan.space.items() if d.low is not None}
    linear, log = ({name for name, is_log in ranges.items() if is_log == wanted} for wanted in (False, True))
    axes = SearchAxes({o.metric: o.direction == "maximize" for o in plan.objectives}, list(plan.space), linear, log)
    first = metrics[0]
    drawn: list[tuple[str, str, Figure, str]] = [
        ("History", "history", search_history(points, axes), "Each trial that ended, and the best until then."),
        (
            "Values",
            "slices",
            search_slices(points, axes),
            f"{first} over the value of each id; the best trial is a diamond.",
        ),
        (
            "Values",
            "parallel_coordinates",
            search_parallel(points, axes),
            f"A line per trial through its values, coloured by {first}; the best one is bold.",
        ),
    ]
    if len(metrics) > 1:
        numbers = {trial.number for trial in shared.front()}
        front = search_front(points, axes, numbers, complete[0].number)
        drawn.append(("Trade-off", "pareto_front", front, "Trials on the line are beaten by no other in both metrics."))
    shares = importances(shared.study, complete)
    if shares:
        text = f"Share of the variance of {first} that each id explains (fANOVA over {len(complete)} trials)."
        drawn.append(("Importance", "importances", search_importances(shares, first), text))
    return [(title, save_picture(figure, out / "plots" / f"{name}.png", text)) for title, name, figure, text in drawn]


def importances(study: optuna.Study, complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """Share of the first objective's variance that each id explains; empty where the trials cannot tell.

    fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014), seeded, as Optuna has it.
    """
    values = [trial.values[0] for trial in complete]
    varied = {name for trial in complete for name in trial.params if trial.params[name] != complete[0].params[name]}
    if len(values) < _ENOUGH or math.isclose(min(values), max(values)) or not varied:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's and Optuna's on few trials; the caption says how many
        return optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            target=lambda trial: trial.values[0],
        )


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
    tables = [Table.of_rows(ranked[:_SHOWN], names, "Best first")]
    notes = [f"Trial {t.number} failed: {t.user_attrs['error']}" for t in trials if "error" in t.user_attrs]
    folded = [("All trials", Table.of_rows(rows, names))] if len(rows) > _SHOWN else []
    sections.append(Section("Trials", tables=tables if rows else [], notes=notes[:_SHOWN], folded=folded))
    return sections
