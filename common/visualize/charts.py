"""Charts of a training run and of an evaluation; colours, line styles and hatches all tell the series apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.visualize.figures import GREY, HATCHES, LINE_STYLES, OKABE_ITO

UNITS = {"psnr": "dB", "memory_gib": "GiB", "hist_distance": "HU", "consistency_hu": "HU", "seconds": "s"}
_SHORTS = {"hu": "HU", "lr": "learning rate", "hist": "histogram", "val": "validation"} | {
    name: name.upper() for name in ("psnr", "ssim", "ct", "cxr", "vae", "auroc", "auprc", "f1", "ece", "bleu")
}
_PANELS = (
    ("loss", "training loss"),
    ("lr", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("samples_per_second", "samples per second"),
    ("memory_gib", "memory in GiB"),
)


def label(name: str) -> str:
    """A name in words: `val_psnr` becomes "val PSNR in dB"."""
    unit = UNITS.get(name.removeprefix("val_").removeprefix("best_"))
    bare = name.removesuffix("_hu").removesuffix("_gib") if unit else name
    words = " ".join(_SHORTS.get(word, word) for word in bare.split("_"))
    return f"{words} in {unit}" if unit else words


def training_curves(history: Mapping[str, Any], title: str = "") -> Figure:
    """Curves of a stage over its iterations: losses, learning rates, gradient norm, speed, memory, validation metrics.

    Args:
        history: content of a history.json; what it lacks is left out. Metrics of validations that are named
            `METRIC/CLASS` share one wide panel per metric, with a line per class.
        title: above everything; by default the name of the stage.

    Returns:
        The figure, three panels a row.

    Raises:
        ValueError: if the history holds neither iterations nor validations.
    """
    rows, validations = history["iterations"], history["validations"]
    panels = [(key, name, rows) for key, name in _PANELS if any(row.get(key) is not None for row in rows)]
    metrics = dict.fromkeys(key for row in validations for key, value in row.items() if isinstance(value, int | float))
    measured = [key for key in metrics if key not in ("iteration", "epoch")]
    panels[1:1] = [(key, f"validation {label(key)}", validations) for key in measured if "/" not in key]
    families = list(dict.fromkeys(key.partition("/")[0] for key in measured if "/" in key))
    if not panels and not families:
        raise ValueError(f"The history of {history.get('stage')} is empty, expected iterations or validations.")
    across = 3 if families else min(3, len(panels))
    down = math.ceil(len(panels) / across)
    heights = [1.0] * down + [1.4] * len(families)
    figure = Figure(figsize=(3.9 * across, 2.5 * sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title or str(history.get("stage", "")), fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel("iteration", fontsize=9)
    grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
    for i, (key, name, source) in enumerate(panels):
        axes = figure.add_subplot(grid[i // across, i % across])
        if source is rows:
            _curve(axes, source, key, smooth=key in ("loss", "grad_norm", "samples_per_second"))
        else:
            _points(axes, source, key)
        axes.set_title(name, fontsize=10, loc="left")
    for i, family in enumerate(families):
        axes = figure.add_subplot(grid[down + i, :-1])  # the last column is for its legend
        _family(axes, validations, sorted(key for key in measured if key.startswith(f"{family}/")))
        axes.set_title(f"validation {label(family)} of each class", fontsize=10, loc="left")
    return figure


def comparison_curves(histories: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Training loss and validation metrics of several runs of one stage over the iterations, a line per run.

    Args:
        histories: name of the run to content of its history.json.

    Returns:
        The figure, three panels a row, one legend.

    Raises:
        ValueError: if no history holds iterations or validations.
    """
    sources = {"iterations": ["loss"], "validations": []}
    for history in histories.values():
        for row in history["validations"]:
            numbers = [k for k, v in row.items() if isinstance(v, int | float) and k not in ("iteration", "epoch")]
            sources["validations"] += [key for key in numbers if key not in sources["validations"]]
    panels = [
        (source, key)
        for source, keys in sources.items()
        for key in keys
        if any(row.get(key) is not None for history in histories.values() for row in history[source])
    ]
    if not panels:
        raise ValueError(f"The histories of {', '.join(histories)} are empty, expected iterations or validations.")
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(3.9 * across, 2.5 * down + 0.7), layout="constrained")
    figure.supxlabel("iteration", fontsize=9)
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (source, key) in zip(grid.flat, panels, strict=False):
        for i, history in enumerate(histories.values()):
            points = [(row["iteration"], row[key]) for row in history[source] if row.get(key) is not None]
            if points:
                x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
                y = _running_mean(y, max(1, len(y) // 30)) if source == "iterations" else y
                style = {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
                axes.plot(x, y, linewidth=1.8, marker="o" if source == "validations" else "", markersize=4, **style)
        axes.set_title(
            "training loss" if source == "iterations" else f"validation {label(key)}", fontsize=10, loc="left"
        )
        _plain(axes)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    lines = [
        Line2D([], [], color=OKABE_ITO[i % len(OKABE_ITO)], linestyle=LINE_STYLES[i % len(LINE_STYLES)], label=name)
        for i, name in enumerate(histories)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(3, len(lines)), fontsize=8.5, frameon=False)
    return figure


def metric_bars(
    means: Sequence[Mapping[str, Any]],
    metric: str = "psnr",
    baseline: str | None = None,
    title: str = "",
) -> Figure:
    """Bars per mode of slice interpolation, grouped by window of HU, each with its number.

    Args:
        means: rows of a metrics_mean.csv, with `mode` and `window`.
        metric: column that is shown.
        baseline: mode to which the others are compared: the bars are then differences to it, which start at zero.
        title: above everything.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to show or the baseline is not among the modes.
    """
    values: dict[str, dict[str, float]] = {}
    for row in means:
        values.setdefault(str(row["mode"]), {})[str(row["window"])] = float(row[metric])
    if not values or (baseline is not None and baseline not in values):
        raise ValueError(f"The baseline is {baseline!r}, expected one of the methods: {', '.join(values) or 'none'}.")
    base = {} if baseline is None else values[baseline]
    shown = [name for name in values if name != baseline]
    conditions = list(dict.fromkeys(group for name in shown for group in values[name]))
    width = 0.84 / max(len(shown), 1)
    figure = Figure(figsize=(max(5.0, 1.0 + 0.46 * len(shown) * len(conditions)), 3.5), layout="constrained")
    axes = figure.subplots()
    for position, name in enumerate(shown):
        i = list(values).index(name)  # the same colour with and without a baseline
        x = np.arange(len(conditions)) + (position - (len(shown) - 1) / 2) * width
        y = [values[name].get(group, math.nan) - base.get(group, 0.0) for group in conditions]
        colour, hatch = OKABE_ITO[i % len(OKABE_ITO)], HATCHES[i % len(HATCHES)]
        bars = axes.bar(x, y, 0.92 * width, label=name.replace("_", " "), color=colour, hatch=hatch, edgecolor="white")
        digits = 3 if metric == "ssim" else 2 if baseline is not None else 1
        sign = "+" if baseline is not None else ""
        axes.bar_label(bars, [f"{v:{sign}.{digits}f}" if math.isfinite(v) else "" for v in y], fontsize=7.5, padding=2)
    axes.set_xticks(range(len(conditions)), [group.replace("_", " ") for group in conditions])
    what = label(metric)
    axes.set_ylabel(what if baseline is None else f"{what}, over {baseline.replace('_', ' ')}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.12)
    if title:
        axes.set_title(title, fontsize=12.5, fontweight="bold", loc="left")
    figure.legend(loc="outside lower center", ncols=min(6, len(shown)), frameon=False, fontsize=9)
    _plain(axes)
    return figure


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, smooth: bool) -> None:
    """A value per iteration; noisy ones faint, with the running mean on top."""
    others = sorted({k for row in rows for k in row if k.startswith(f"{key}/") or (key == "loss" and "_loss" in k)})
    for i, name in enumerate([key] if not others or key == "loss" else others):
        points = [(row["iteration"], row[name]) for row in rows if row.get(name) is not None]
        x, y = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        style = {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
        window = max(1, len(y) // 30)
        if smooth and window > 1:
            axes.plot(x, y, color=style["color"], alpha=0.25, linewidth=0.8)
            y = _running_mean(y, window)
        axes.plot(x, y, linewidth=1.8, label=name.removeprefix(f"{key}/"), **style)
        if key == "loss" and y.min() > 0 and y.max() > 10 * y.min():
            axes.set_yscale("log")
    if others and key != "loss":
        axes.legend(fontsize=8, frameon=False)
    if key in ("memory_gib", "samples_per_second", "lr"):
        axes.set_ylim(0, 1.1 * max(max(line.get_ydata()) for line in axes.lines) or 1)
    if key == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _plain(axes)


def _running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean over what lies within the window, which is shorter at both ends."""
    return np.convolve(y, np.ones(window), "same") / np.convolve(np.ones_like(y), np.ones(window), "same")


def _points(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=OKABE_ITO[4], linewidth=1.6, marker="o", markersize=4)
    axes.annotate(f"{y[-1]:.4g}", (x[-1], y[-1]), textcoords="offset points", xytext=(0, 6), ha="right", fontsize=8.5)
    axes.margins(y=0.18)
    _plain(axes)


def _family(axes: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """A line per class, with its last value in the legend beside the panel."""
    for i, key in enumerate(keys):
        points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
        x, y = zip(*points, strict=True)
        # The styles move on by one each time the colours begin again, so that no two lines are alike.
        style = LINE_STYLES[(i + i // len(OKABE_ITO)) % len(LINE_STYLES)]
        name = f"{key.partition('/')[2]} {y[-1]:.3f}"
        axes.plot(x, y, color=OKABE_ITO[i % len(OKABE_ITO)], linestyle=style, linewidth=1.6, label=name)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8.5, frameon=False, handlelength=3.5)
    legend.set_in_layout(False)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=GREY, labelcolor="black")


def epoch_curves(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Figure:
    """A curve per column over the epochs of a training in stages, with a line where a stage begins.

    Args:
        rows: with "stage", "epoch" and the columns as text, a blank where there is no value.
        columns: those that are drawn, each with axes of its own.
    """
    figure = Figure(figsize=(3.4 * len(columns), 2.8), layout="constrained")
    begins = [int(row["epoch"]) for row, before in zip(rows[1:], rows, strict=False) if row["stage"] != before["stage"]]
    for axes, name in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), color=OKABE_ITO[0], marker="o", markersize=3) if points else None
        for epoch in begins:
            axes.axvline(epoch - 0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
