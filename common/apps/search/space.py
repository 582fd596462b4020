"""What a bundle lets `tune` vary: `configs/search.json`.

    {"space": {"lr": {"values": [0.001, 0.0005], "low": 0.0005, "high": 0.002, "log": true},
               "dropout": {"low": 0.2, "high": 0.4},
               "optimizer": {"values": ["adam", "sgd"]}},
     "objectives": [{"metric": "val_mean_auroc", "direction": "maximize"},
                    {"metric": "val_min_auroc", "direction": "maximize", "stage": "stage1"}],
     "stages": ["stage1", "stage2"], "shared": ["encoders", "features"],
     "report": {"metric": "mean_auroc", "stage": "stage2", "startup_trials": 5, "warmup": 1}}

Each key of `space` is a configuration id. A grid takes `values`; random and bayesian search take the range `low` to
`high` (whole numbers if both are; `log` for a logarithmic scale, `step` for a raster), or `values` where there is no
range. The metrics of the objectives are those of a stage in summary.json, of the last stage that has the metric if no
`stage` is named. `stages` (default: those of the scale) are run by each trial. `shared` are stages of the recipe that a
trial builds on and that nothing of the space belongs to; those that the scale has are run once, for all trials.
`report` names what ends a trial early, see `search.pruner`: the metric that stands for the first objective in the
validations in history.json, of the last stage if no `stage` is named; `startup_trials` complete before it begins, and
`warmup` validations of each trial are let pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.apps.run.bundle import Bundle, UsageError, hint
from common.io.bad_input import BadInput

SEARCHES = ("grid", "random", "bayesian")
DIRECTIONS = ("maximize", "minimize")
SEARCH_FILE = "search.json"

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """Values that one configuration id may take.

    Attributes:
        values: the choices, None if there is only a range.
        low: smallest value of the range, None if there are only choices.
        high: largest value of the range, included.
        log: whether the range is searched on a logarithmic scale.
        step: raster of the range; None for none.
    """

    values: tuple[Value, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Objective:
    """A metric of a stage in summary.json; of the last stage that has it if `stage` is None."""

    metric: str
    direction: str = "maximize"
    stage: str | None = None


@dataclass(frozen=True)
class Report:
    """What decides while a trial runs whether it is worth going on with; see the head of this module."""

    metric: str
    stage: str | None = None
    startup_trials: int = 5
    warmup: int = 0


@dataclass(frozen=True)
class SearchPlan:
    """Content of a search.json.

    Attributes:
        space: configuration id -> the values it may take.
        objectives: the first is the one that counts, the others break ties.
        stages: that each trial runs; None for those of the scale.
        shared: stages that are run once before the trials, where the scale has them.
        report: what ends trials early, None for nothing.
    """

    space: dict[str, Dimension]
    objectives: tuple[Objective, ...]
    stages: tuple[str, ...] | None = None
    shared: tuple[str, ...] = ()
    report: Report | None = None

    def grid_size(self) -> int:
        """Number of combinations of a grid search."""
        return math.prod(len(dimension.values or ()) for dimension in self.space.values())

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON has it, to be compared with that of another call."""
        return json.loads(json.dumps(asdict(self)))

    def choose(self, search: str, objectives: str | None) -> SearchPlan:
        """The part of the plan that one search follows.

        Args:
            search: grid, random or bayesian.
            objectives: only these metrics, "a" or "a,b"; None for all.

        Raises:
            UsageError: if the search is unknown, a grid lacks values, or a metric is not among the objectives.
        """
        if search not in SEARCHES:
            raise UsageError(f"--search is {search!r}, expected one of {', '.join(SEARCHES)}{hint(search, SEARCHES)}")
        if search == "grid":
            for name, dimension in self.space.items():
                if dimension.values is None:
                    raise UsageError(f"--search is 'grid', but {name} in {SEARCH_FILE} has no values, only a range")
        by_metric = {objective.metric: objective for objective in self.objectives}
        names = list(by_metric) if objectives is None else [name.strip() for name in objectives.split(",")]
        for name in names:
            if name not in by_metric:
                raise UsageError(
                    f"--objective is {name!r}, expected one of {', '.join(by_metric)}{hint(name, by_metric)}"
                )
        chosen = tuple(by_metric[name] for name in dict.fromkeys(names))
        report = self.report if chosen[0] == self.objectives[0] else None  # it stands for the first of the file
        return replace(self, objectives=chosen, report=report)


def read_search_plan(bundle: Bundle) -> SearchPlan:
    """Read `configs/search.json` of a bundle.

    Raises:
        BadInput: if it is missing or not as this module describes it.
    """
    path = bundle.config_file(SEARCH_FILE)

    def refuse(reason: str) -> BadInput:
        return BadInput(path, reason)

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise refuse(f"is not JSON ({error})") from error
    try:
        unknown = set(content) - {"space", "objectives", "stages", "shared", "report"}
        if unknown:
            raise refuse(f"has {min(unknown)!r}, expected space, objectives, stages, shared and report")
        space = {name: _dimension(name, entry, refuse) for name, entry in content["space"].items()}
        objectives = tuple(Objective(**entry) for entry in content["objectives"])
        stages = None if content.get("stages") is None else tuple(content["stages"])
        shared = tuple(content.get("shared", ()))
        report = None if content.get("report") is None else Report(**content["report"])
    except (KeyError, TypeError, AttributeError) as error:
        raise refuse(f"is not a search ({error}), expected space and objectives") from error
    if not space:
        raise refuse("has an empty space, expected at least one configuration id")
    metrics = [objective.metric for objective in objectives]
    if not metrics or len(set(metrics)) < len(metrics):
        raise refuse(f"has the objectives {metrics}, expected at least one and no metric twice")
    for objective in objectives:
        if objective.direction not in DIRECTIONS:
            raise refuse(f"has the direction {objective.direction!r}, expected {' or '.join(DIRECTIONS)}")
    return SearchPlan(space, objectives, stages, shared, report)


def _dimension(name: str, entry: Mapping[str, Any], refuse: Any) -> Dimension:
    found = Dimension(**({**entry, "values": tuple(entry["values"])} if "values" in entry else entry))
    if found.values is not None:
        bad = [v for v in found.values if not isinstance(v, Value)]
        if bad or not found.values or len({(type(v), v) for v in found.values}) < len(found.values):
            expected = "different numbers, texts, true, false or null"
            raise refuse(f"gives {name} the values {list(found.values)}, expected at least one, and {expected}")
    if (found.low is None) != (found.high is None) or (found.low is None and found.values is None):
        raise refuse(f"gives {name} {dict(entry)}, expected values, or low and high")
    if found.low is not None:
        if any(isinstance(limit, bool) or not isinstance(limit, int | float) for limit in (found.low, found.high)):
            raise refuse(f"gives {name} the range {found.low!r} to {found.high!r}, expected numbers")
        if found.low >= found.high or (found.log and found.low <= 0):
            expected = "low below high" + (", and above 0 on a logarithmic scale" if found.log else "")
            raise refuse(f"gives {name} the range {found.low} to {found.high}, expected {expected}")
        if found.step is not None and (found.log or found.step <= 0):
            raise refuse(f"gives {name} the step {found.step}, expected a number above 0, and no logarithmic scale")
    return found
