"""When a search ends a trial early: the best that it has reached is worse than the median of complete trials.

Optuna's pruners take studies with one objective only, so its `MedianPruner` is asked about a study of the first
objective alone, made from what the trials' validations gave. That stands in the storage, in the user attribute
`reported` of each trial, in the order of the validations; each value is judged once, by the worker that first reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

from common.apps.search.space import Report

REPORTED = "reported"


def worse_than_median(
    values: Sequence[float | None], complete: Sequence[Sequence[float | None]], report: Report, direction: str
) -> bool:
    """Whether a trial that has given these values is not worth going on with.

    True if its best value is worse than the median of the complete trials' values at the validation of its last one.
    False for the first `report.warmup` values, before `report.startup_trials` are complete, and where none of them had
    as many validations.

    Args:
        values: of the first objective, one per validation so far; None for one that is not finite.
        complete: the same of complete trials.
        report: the plan's.
        direction: "maximize" or "minimize".
    """
    if not values or values[-1] is None:
        return False
    shadow = optuna.create_study(direction=direction)
    for others in complete:
        finite = _by_step(others)
        shadow.add_trial(
            optuna.create_trial(state=optuna.trial.TrialState.COMPLETE, value=0.0, intermediate_values=finite)
        )
    trial = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=_by_step(values))
    return optuna.pruners.MedianPruner(report.startup_trials, report.warmup).prune(shadow, trial)


def judged(
    values: Sequence[float],
    before: Sequence[float | None],
    complete: Sequence[Sequence[float | None]],
    report: Report,
    direction: str,
) -> tuple[list[float | None], bool]:
    """Judge, one after the other, the values that a trial has given since it was judged last.

    How many came at once changes nothing: a trial that a slow look has missed is ended at the same validation.

    Args:
        values: all that the trial has given; NaN for what is not finite.
        before: those that were judged before, and let pass.
        complete: of complete trials.
        report: the plan's.
        direction: of the first objective.

    Returns:
        What has been judged now, up to the value that ends the trial; and whether one does.
    """
    finite = [None if math.isnan(value) else value for value in values]
    for n in range(len(before) + 1, len(finite) + 1):
        if worse_than_median(finite[:n], complete, report, direction):
            return finite[:n], True
    return (finite, False) if len(finite) > len(before) else (list(before), False)


def _by_step(values: Sequence[float | None]) -> dict[int, float]:
    return {step: value for step, value in enumerate(values) if value is not None}
