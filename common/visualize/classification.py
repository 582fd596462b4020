"""Figures of multi-label classification: curves, calibration, confusion, and models beside each other.

The numbers come from `common.metrics`. A class with one kind of label only has no curve: its panel says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.visualize.figures import GREY, HATCHES, LINE_STYLES, OKABE_ITO

__all__ = [
    "auroc_bars",
    "calibration_figure",
    "confusion_figure",
    "contribution_figure",
    "pr_figure",
    "roc_figure",
]

_DIVERGING = "PuOr"
"""Orange to purple through white: distinct for colour-blind readers on either side of zero."""


class ClassCurve(Protocol):
    """What is drawn of a class, see `common.metrics.curves.ClassCurve`."""

    positives: int
    negatives: int
    x: np.ndarray
    y: np.ndarray
    area: float
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None


class Interval(Protocol):
    """What is drawn of a metric, see `common.metrics.resampling.Interval`."""

    value: float
    low: float
    high: float


def roc_figure(systems: Mapping[str, Sequence[ClassCurve]], names: Sequence[str], named: str | None = None) -> Figure:
    """ROC curves, a panel per class and a line per system; the band of a curve that has one is shaded.

    Args:
        systems: system -> a curve for each class, as `common.metrics.curves.roc_curves` makes them.
        names: the C classes.
        named: system whose line is thick and whose area stands in the panels; by default the first.

    Raises:
        ValueError: if `named` is none of the systems.
    """
    named = _named(systems, named)
    figure, panels = _panels(names, "false positive rate (1 - specificity)", "sensitivity")
    for c, axes in _drawn(panels, systems[named], names):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        for i, (system, curves) in enumerate(systems.items()):
            style = _style(i)
            if curves[c].band is not None:
                axes.fill_between(*curves[c].band, color=style["color"], alpha=0.18, linewidth=0)
            axes.plot(curves[c].x, curves[c].y, linewidth=2.0 if system == named else 1.2, **style)
        _corner(axes, f"{named.replace('_', ' ')} {systems[named][c].area:.3f}", "lower right")
    _legend(figure, systems)
    return figure


def pr_figure(systems: Mapping[str, Sequence[ClassCurve]], names: Sequence[str], named: str | None = None) -> Figure:
    """Precision over recall, a panel per class and a line per system; the grey line is the share of positive cases.

    Args:
        systems: system -> a curve for each class, as `common.metrics.curves.pr_curves` makes them.
        names: the C classes.
        named: system whose line is thick and whose average precision stands in the panels; by default the first.

    Raises:
        ValueError: if `named` is none of the systems.
    """
    named = _named(systems, named)
    figure, panels = _panels(names, "recall (sensitivity)", "precision")
    for c, axes in _drawn(panels, systems[named], names):
        known = systems[named][c]
        axes.axhline(known.positives / (known.positives + known.negatives), color="#999999", linewidth=0.8)
        for i, (system, curves) in enumerate(systems.items()):
            # Precision jumps between two recalls; a straight line would flatter.
            width = 2.0 if system == named else 1.2
            axes.plot(curves[c].x, curves[c].y, linewidth=width, drawstyle="steps-post", **_style(i))
        _corner(axes, f"{named.replace('_', ' ')} {known.area:.3f}", "upper right")
        axes.set_ylim(0, 1.02)
    _legend(figure, systems)
    return figure


def calibration_figure(systems: Mapping[str, Sequence[ClassCurve]], names: Sequence[str]) -> Figure:
    """Observed share of positives over the predicted probability, a panel per class and a line per system.

    Args:
        systems: system -> a curve for each class, as `common.metrics.curves.calibration_curves` makes them. The bands
            of the first are drawn, as error bars.
        names: the C classes.
    """
    figure, panels = _panels(names, "predicted probability", "observed share of positives")
    for c, axes in _drawn(panels, next(iter(systems.values())), names):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        for i, curves in enumerate(systems.values()):
            style = _style(i)
            if i == 0 and curves[c].band is not None:
                axes.vlines(*curves[c].band, color=style["color"], linewidth=1.0, alpha=0.6)
            axes.plot(curves[c].x, curves[c].y, marker="o", markersize=3, linewidth=1.2, **style)
    _legend(figure, systems)
    return figure


def confusion_figure(confusion: Mapping[str, Mapping[str, int]], thresholds: Mapping[str, float]) -> Figure:
    """Confusion matrices, one per class: rows are the truth, shades the share of the row, numbers the cases.

    Args:
        confusion: class -> numbers tp, fp, fn, tn, as in `MultilabelResult.confusion`.
        thresholds: class -> threshold; a class without one has no matrix, and says so.
    """
    figure, panels = _panels(list(confusion), "predicted", "true", square=False)
    for (name, counts), axes in zip(confusion.items(), panels, strict=True):
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        if name not in thresholds:
            _empty(axes, "no threshold")
            axes.set_box_aspect(1)
            continue
        table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]], float)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in (0, 1):
            for column in (0, 1):
                text = f"{table[row, column]:,.0f}\n{share[row, column]:.0%}"
                colour = "white" if share[row, column] > 0.6 else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
        axes.set_xticks([0, 1], ["no", f"yes (from {thresholds[name]:.2f})"], fontsize=8)
        axes.set_yticks([0, 1], ["no", "yes"], fontsize=8)
    return figure


def auroc_bars(
    means: Mapping[str, Interval], reference: str | None = None, targets: Mapping[str, float] | None = None
) -> Figure:
    """Mean AUROC of each model as a bar with its interval and number; chance, 0.5, is where the bars start.

    Args:
        means: model -> mean AUROC.
        reference: model whose value is drawn as a line through all bars.
        targets: name -> value, drawn as dotted lines.
    """
    figure = Figure(figsize=(8.4, 0.9 + 0.36 * len(means)), layout="constrained")
    axes = figure.subplots()
    ends = [v for i in means.values() for v in (i.low, i.high, i.value) if math.isfinite(v)]
    for i, interval in enumerate(means.values()):
        value = interval.value
        if not math.isfinite(value):
            axes.text(0.5, i, " undefined", va="center", fontsize=8.5, color=GREY)
            continue
        colour, hatch = OKABE_ITO[i % len(OKABE_ITO)], HATCHES[i % len(HATCHES)]
        axes.barh(i, value - 0.5, left=0.5, height=0.72, color=colour, hatch=hatch, edgecolor="white")
        text = f"{value:.3f}"
        end = value
        if math.isfinite(interval.low):
            for colour, width in (("white", 3.6), ("black", 1.6)):  # seen on every bar
                axes.plot([interval.low, interval.high], [i, i], color=colour, linewidth=width)
            text += f"  ({interval.low:.3f} to {interval.high:.3f})"
            end = interval.high
        axes.annotate(text, (max(end, 0.5), i), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    lines = dict(targets or {})
    if reference is not None and math.isfinite(means[reference].value):
        axes.axvline(means[reference].value, color="black", linewidth=0.8)
    for i, (name, value) in enumerate(sorted(lines.items(), key=lambda item: item[1])):
        axes.axvline(value, color=GREY, linewidth=1.0, linestyle=":")
        axes.annotate(
            name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            ha="left" if i % 2 else "right", fontsize=8, color=GREY,
        )  # fmt: skip
    axes.set_yticks(range(len(means)), [name.replace("_", " ") for name in means])
    axes.invert_yaxis()
    low, high = min([0.5, *ends, *lines.values()]), max([0.55, *ends, *lines.values()])
    axes.set_xlim(low - 0.01 * (low < 0.5), low + (high - low) * 1.38)
    axes.set_xlabel("mean AUROC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure


def contribution_figure(differences: Mapping[str, Mapping[str, float]]) -> Figure:
    """What is lost without a part: a row for each part left out, a column per class and the mean, numbers in the cells.

    Args:
        differences: what was left out -> class or "mean" -> AUROC without it minus with it; NaN where undefined.
    """
    columns = list(dict.fromkeys(name for row in differences.values() for name in row))
    table = np.array([[row.get(name, math.nan) for name in columns] for row in differences.values()], float)
    largest = max(0.01, float(np.nanmax(np.abs(table), initial=0.01)))
    figure = Figure(figsize=(2.2 + 0.66 * len(columns), 1.7 + 0.42 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.ma.masked_invalid(table), cmap=_DIVERGING, vmin=-largest, vmax=largest, aspect="auto")
    for row, column in np.ndindex(table.shape):
        value = table[row, column]
        colour = "white" if math.isfinite(value) and abs(value) > 0.65 * largest else "black"
        text = f"{value:+.3f}" if math.isfinite(value) else "-"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(table)), [f"without {name.replace('_', ' and ')}" for name in differences], fontsize=9)
    axes.tick_params(length=0)
    return figure


def _panels(names: Sequence[str], x: str, y: str, square: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name, five in a row at most."""
    across = min(5, max(1, len(names)))
    if 5 < len(names) <= 8:
        across = 4
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(max(4.6, 2.35 * across + 0.4), 2.45 * down + 0.8), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[len(names) :]:
        axes.axis("off")
    for axes in grid[: len(names)] if square else ():
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.set_box_aspect(1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.tick_params(labelsize=8, colors=GREY, labelcolor="black")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure, grid[: len(names)]


def _named(systems: Mapping[str, Any], named: str | None) -> str:
    if named is not None and named not in systems:
        raise ValueError(f"The named system is {named!r}, expected one of {', '.join(systems)}.")
    return named or next(iter(systems))


def _drawn(panels: Sequence[Axes], curves: Sequence[ClassCurve], names: Sequence[str]) -> Iterator[tuple[int, Axes]]:
    """The panels of classes that have positive and negative cases; the others say what they lack."""
    for c, (axes, name, curve) in enumerate(zip(panels, names, curves, strict=True)):
        axes.set_title(f"{name} ({curve.positives})", fontsize=9 if len(name) < 20 else 7.5, loc="left")
        if curve.positives and curve.negatives:
            yield c, axes
        else:
            _empty(axes, f"{curve.positives} positive,\n{curve.negatives} negative")


def _empty(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=8.5, color=GREY, transform=axes.transAxes)


def _corner(axes: Axes, text: str, where: str) -> None:
    y, vertical = (0.04, "bottom") if where.startswith("lower") else (0.97, "top")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
    axes.text(0.97, y, text, ha="right", va=vertical, fontsize=8, transform=axes.transAxes, bbox=box)


def _style(i: int) -> dict[str, object]:
    return {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}


def _legend(figure: Figure, systems: Mapping[str, Any]) -> None:
    lines = [Line2D([], [], label=name.replace("_", " "), **_style(i)) for i, name in enumerate(systems)]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(7, len(lines)), fontsize=8.5, frameon=False)
