"""When a search ends a trial early: the best that it has reached is worse than the median of complete trials.

Optuna's pruners take one objective only (and its TPE fails on intermediate values of several), so its `MedianPruner` is
asked about a search of the first objective alone, made from what the trials' validations gave. That stands in the
storage, in the user attribute `reported` of each trial, in the order of the validations; each value is judged once, by
the worker that first reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from common.apps.search.space import Report

REPORTED = "reported"
Values = Sequence[float | None]  # of the first objective, one per validation; None for one that is not finite


def pruned_at(values: Values, seen: int, complete: Sequence[Values], report: Report, direction: str) -> int | None:
    """After how many of these values a trial is not worth going on with; None if it is.

    They are judged one after the other, so how many came at once changes nothing: a trial that a slow look has missed
    is ended at the same validation. A value ends the trial if the best until then is worse than the median of the
    complete trials' values at the same validation; not if it is among the first `report.warmup`, before
    `report.startup_trials` are complete, or where none of them had as many validations.

    Args:
        values: all that the trial has given.
        seen: how many of them were judged before, and let pass.
        complete: of complete trials.
        report: the plan's.
        direction: "maximize" or "minimize".
    """
    first_alone = optuna.create_study(direction=direction)
    first_alone.add_trials([_trial(TrialState.COMPLETE, others, value=0.0) for others in complete])
    pruner = optuna.pruners.MedianPruner(report.startup_trials, report.warmup)
    for n in range(seen + 1, len(values) + 1):
        if values[n - 1] is not None and pruner.prune(first_alone, _trial(TrialState.RUNNING, values[:n])):
            return n
    return None


def _trial(state: TrialState, values: Values, value: float | None = None) -> FrozenTrial:
    finite = {step: value for step, value in enumerate(values) if value is not None}
    return create_trial(state=state, value=value, intermediate_values=finite)
