"""Optuna's charts of a search: how it went on, what each value did, which mattered, what two objectives trade off."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.visualization import matplotlib as charts
from PIL import Image

from common.visualize.figures import DPI

_ENOUGH = 4  # trials, below which shares of variance say nothing
_ACROSS = 3  # panels of slices in a row


def search_charts(search: optuna.Study, metrics: Sequence[str], ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Draw what the complete trials of a search allow; at least one is needed.

    Args:
        search: with one objective per metric.
        metrics: their names; all charts but the history and the Pareto front show the first one.
        ids: that are searched.

    Returns:
        Name -> pixels, uint8 (H, W, 3): `history` (a panel per metric), `slices` (a panel per id),
        `parallel_coordinates`, `pareto_front` (of the first two metrics, where there are two), and `importances` (by
        fANOVA: Hutter, Hoos and Leyton-Brown, ICML 2014; where the trials can tell).
    """
    alone = [_one_objective(search, i) for i in range(len(metrics))]
    first, name = alone[0], {"target_name": metrics[0]}
    rows = [list(ids[i : i + _ACROSS]) for i in range(0, len(ids), _ACROSS)]
    drawn = {
        "history": [
            _pixels((7.4, 2.8), charts.plot_optimization_history, one, target_name=metric)
            for one, metric in zip(alone, metrics, strict=True)
        ],
        "slices": [_pixels((9.4 if len(row) > 1 else 5.0, 3.0), charts.plot_slice, first, row, **name) for row in rows],
        "parallel_coordinates": [
            _pixels((1.3 * len(ids) + 3.5, 4.2), charts.plot_parallel_coordinate, first, list(ids), **name)
        ],
    }
    if len(metrics) > 1:
        both = {"target_names": list(metrics[:2]), "targets": lambda trial: trial.values[:2]}
        drawn["pareto_front"] = [_pixels((5.6, 4.2), charts.plot_pareto_front, search, **both)]
    if _tells_importances(first.get_trials(states=[optuna.trial.TrialState.COMPLETE])):
        fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
        size = (7.4, 0.36 * len(ids) + 1.3)
        drawn["importances"] = [_pixels(size, charts.plot_param_importances, first, fanova, **name)]
    return {name: _stacked(parts) for name, parts in drawn.items()}


def _one_objective(search: optuna.Study, i: int) -> optuna.Study:
    """The search as if it had one objective alone: Optuna draws the best so far only then."""
    alone = optuna.create_study(direction=search.directions[i])
    for t in search.get_trials(deepcopy=False):  # all of them, which keeps the numbers
        value = t.values[i] if t.state == optuna.trial.TrialState.COMPLETE else None
        state = t.state if value is not None else optuna.trial.TrialState.FAIL
        alone.add_trial(optuna.create_trial(state=state, value=value, params=t.params, distributions=t.distributions))
    return alone


def _tells_importances(complete: Sequence[optuna.trial.FrozenTrial]) -> bool:
    values = [trial.value for trial in complete]
    varied = any(trial.params != complete[0].params for trial in complete)
    return len(values) >= _ENOUGH and varied and not math.isclose(min(values), max(values))


def _pixels(size: tuple[float, float], draw: Callable[..., Any], *args: Any, **options: Any) -> np.ndarray:
    """Draw one of Optuna's charts of about this size in inches, and leave pyplot as it was."""
    data = io.BytesIO()
    with matplotlib.rc_context({"figure.figsize": size, "xtick.labelsize": 8}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its charts experimental, and matplotlib warns of few trials
        figure = np.ravel(draw(*args, **options))[0].figure
        figure.savefig(data, dpi=DPI, bbox_inches="tight", facecolor="white")
        plt.close(figure)
    return np.asarray(Image.open(data).convert("RGB"))


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, on white."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts]
    )
