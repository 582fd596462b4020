"""Charts of a search: how it went on, what each value did, which values mattered, and what two objectives trade off."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from common.visualize.charts import label
from common.visualize.figures import GREY, OKABE_ITO

_BEST = OKABE_ITO[4]
_NAMED = 6  # trials on the front, above which their numbers would cover each other
_COLOURS = "cividis"  # even in lightness, and the same to every kind of colour blindness


@dataclass(frozen=True)
class SearchPoint:
    """A trial that ended with values.

    Attributes:
        number: of the trial.
        params: configuration id -> value.
        values: metric -> value.
    """

    number: int
    params: Mapping[str, Any]
    values: Mapping[str, float]


@dataclass(frozen=True)
class SearchAxes:
    """What is searched: metrics with their directions, and ids.

    Attributes:
        maximize: metric -> whether more is better; the first metric counts.
        ids: configuration ids in order.
        linear: ids that were drawn from a range; the others are choices.
        log: ids that were drawn from a range on a logarithmic scale.
    """

    maximize: Mapping[str, bool]
    ids: Sequence[str]
    linear: Collection[str] = field(default_factory=frozenset)
    log: Collection[str] = field(default_factory=frozenset)

    def is_range(self, name: str) -> bool:
        """Whether an id was drawn from a range."""
        return name in self.linear or name in self.log


def search_history(points: Sequence[SearchPoint], axes: SearchAxes) -> Figure:
    """A panel per metric: each trial, and the best so far.

    Raises:
        ValueError: without a trial.
    """
    _expect(points, 1)
    figure = Figure(figsize=(7.4, 2.5 * len(axes.maximize) + 0.3), layout="constrained")
    for panel, (metric, more) in zip(
        figure.subplots(len(axes.maximize), squeeze=False).flat, axes.maximize.items(), strict=True
    ):
        ordered = sorted(points, key=lambda point: point.number)
        x, y = [p.number for p in ordered], [p.values[metric] for p in ordered]
        panel.plot(x, y, "o", color=OKABE_ITO[0], markersize=4.5, label="trial")
        best = (np.maximum if more else np.minimum).accumulate(y)
        panel.step(x, best, where="post", color=_BEST, linewidth=1.8, label="best so far")
        panel.set_ylabel(label(metric), fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
        _plain(panel)
    figure.axes[0].legend(fontsize=8.5, frameon=False, loc="best")
    figure.axes[-1].set_xlabel("trial", fontsize=9)
    return figure


def search_slices(points: Sequence[SearchPoint], axes: SearchAxes) -> Figure:
    """A panel per id: the first metric over the id's value, three panels a row; the best trial is marked.

    Raises:
        ValueError: without a trial.
    """
    _expect(points, 1)
    metric, more = next(iter(axes.maximize.items()))
    across = min(3, len(axes.ids))
    down = math.ceil(len(axes.ids) / across)
    figure = Figure(figsize=(3.6 * across, 2.6 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    best = (max if more else min)(points, key=lambda point: point.values[metric])
    for panel, name in zip(grid.flat, axes.ids, strict=False):
        places, ticks = _places([point.params[name] for point in points], axes.is_range(name))
        y = [point.values[metric] for point in points]
        panel.plot(places, y, "o", color=OKABE_ITO[0], markersize=4.5, alpha=0.75)
        panel.plot(places[points.index(best)], best.values[metric], "D", color=_BEST, markersize=7)
        if ticks is not None:
            panel.set_xticks(range(len(ticks)), ticks)
            panel.set_xlim(-0.5, len(ticks) - 0.5)
        elif name in axes.log:
            panel.set_xscale("log")
        panel.set_title(_short(name), fontsize=10, loc="left")
        _plain(panel)
    for panel in grid.flat[len(axes.ids) :]:
        panel.axis("off")
    figure.supylabel(label(metric), fontsize=9)
    return figure


def search_parallel(points: Sequence[SearchPoint], axes: SearchAxes) -> Figure:
    """Parallel coordinates: a line per trial through its values, coloured by the first metric, the best one bold.

    Raises:
        ValueError: without a trial.
    """
    _expect(points, 1)
    metric, more = next(iter(axes.maximize.items()))
    y = np.array([point.values[metric] for point in points])
    margin = 0.0 if y.max() > y.min() else 0.05 * abs(y[0]) or 0.05  # a scale of no length has no ticks
    colour = ScalarMappable(Normalize(y.min() - margin, y.max() + margin), _COLOURS)
    figure = Figure(figsize=(max(6.0, 1.3 * len(axes.ids) + 2.2), 3.9), layout="constrained")
    panel = figure.subplots()
    columns = []
    for i, name in enumerate(axes.ids):
        values = [point.params[name] for point in points]
        places, ticks = _places(values, axes.is_range(name))
        scaled = np.log(places) if ticks is None and name in axes.log else np.asarray(places, dtype=float)
        low, high = (0.0, len(ticks) - 1.0) if ticks is not None else (scaled.min(), scaled.max())
        columns.append((scaled - low) / (high - low) if high > low else np.full(len(points), 0.5))
        shown = (
            dict(zip(ticks, _unit(len(ticks)), strict=True))
            if ticks
            else {f"{min(values):.3g}": 0, f"{max(values):.3g}": 1}
        )
        for text, height in shown.items():
            panel.text(i + 0.03, height, text, fontsize=7.5, color=GREY, va="center", zorder=5)
        panel.axvline(i, color="#bbbbbb", linewidth=0.9)
    lines = np.stack(columns, 1)
    best = (np.argmax if more else np.argmin)(y)
    for row in [*np.argsort(y if more else -y), best]:  # the better ones on top
        bold = {"linewidth": 3.2, "color": _BEST} if row == best else {"linewidth": 1.2, "alpha": 0.8}
        panel.plot(range(len(axes.ids)), lines[row], **({"color": colour.to_rgba(y[row])} | bold))
    panel.set_xticks(range(len(axes.ids)), [_short(name) for name in axes.ids], rotation=20, ha="right", fontsize=8.5)
    panel.set_xlim(-0.1, len(axes.ids) - 0.6)
    panel.set_ylim(-0.04, 1.04)
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    figure.colorbar(colour, ax=panel, label=label(metric), shrink=0.9)
    return figure


def search_importances(importances: Mapping[str, float], metric: str) -> Figure:
    """Bars, the most important id on top.

    Args:
        importances: id -> share of the metric's variance, from 0 to 1.
        metric: that was looked at.
    """
    names = sorted(importances, key=importances.__getitem__)
    figure = Figure(figsize=(6.4, 0.36 * len(names) + 1.0), layout="constrained")
    panel = figure.subplots()
    bars = panel.barh([_short(name) for name in names], [importances[name] for name in names], color=OKABE_ITO[0])
    panel.bar_label(bars, [f"{importances[name]:.2f}" for name in names], fontsize=8.5, padding=3)
    panel.set_xlim(0, 1.1)
    panel.set_xlabel(f"share of the variance of {label(metric)}", fontsize=9)
    _plain(panel, "x")
    return figure


def search_front(points: Sequence[SearchPoint], axes: SearchAxes, front: Collection[int], best: int) -> Figure:
    """The first two metrics against each other; the trials that no other beats in both are joined.

    Args:
        points: the trials.
        axes: with two metrics or more.
        front: numbers of the trials of the Pareto front.
        best: number of the trial that was chosen.

    Raises:
        ValueError: without a trial, or with one metric only.
    """
    _expect(points, 1)
    if len(axes.maximize) < 2:
        raise ValueError(f"There is one metric, {next(iter(axes.maximize))}, expected two to set against each other.")
    first, second = list(axes.maximize)[:2]
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.plot(
        [p.values[first] for p in points],
        [p.values[second] for p in points],
        "o",
        color="#9aa5b1",
        markersize=5,
        label="trial",
    )
    on_front = sorted((p for p in points if p.number in front), key=lambda point: point.values[first])
    x, y = [p.values[first] for p in on_front], [p.values[second] for p in on_front]
    panel.plot(x, y, "o-", color=OKABE_ITO[0], markersize=6, linewidth=1.3, label="Pareto front")
    for point in on_front if len(on_front) <= _NAMED else []:
        panel.annotate(
            str(point.number),
            (point.values[first], point.values[second]),
            textcoords="offset points",
            xytext=(5, 5),
            fontsize=8,
        )
    chosen = next(point for point in points if point.number == best)
    panel.plot(chosen.values[first], chosen.values[second], "D", color=_BEST, markersize=8, label="chosen")
    panel.set_xlabel(label(first), fontsize=9)
    panel.set_ylabel(label(second), fontsize=9)
    panel.legend(fontsize=8.5, frameon=False)
    panel.margins(0.12)
    _plain(panel)
    return figure


def _places(values: Sequence[Any], is_range: bool) -> tuple[list[float], list[str] | None]:
    """Where values lie on an axis, and the texts of its ticks if they are choices."""
    if is_range:
        return [float(value) for value in values], None
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    different = sorted(set(values)) if numbers else sorted(dict.fromkeys(values), key=str)
    return [float(different.index(value)) for value in values], [_text(value) for value in different]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _unit(n: int) -> np.ndarray:
    return np.linspace(0, 1, n) if n > 1 else np.array([0.5])


def _short(name: str) -> str:
    """The end of a long id, which tells ids apart."""
    return name if len(name) <= 26 else "..." + name[-24:]


def _expect(points: Sequence[SearchPoint], least: int) -> None:
    if len(points) < least:
        raise ValueError(f"There are {len(points)} trials with values, expected at least {least}.")


def _plain(panel: Axes, grid: str = "y") -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color="#dddddd", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8.5, colors=GREY, labelcolor="black")
