"""Figures of multi-label classification: curves, calibration, confusion, and models beside each other.

Labels are 1, 0, or NaN where a case has none for a class, as in `common.metrics.multilabel`. A class with one kind of
label only has no curve: its panel says so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from common.metrics.resampling import Interval, resampled_cases
from common.visualize.figures import GREY, HATCHES, LINE_STYLES, OKABE_ITO

__all__ = [
    "auroc_bars",
    "calibration_figure",
    "confusion_figure",
    "contribution_figure",
    "pr_figure",
    "reliability",
    "roc_band",
    "roc_figure",
]

_DIVERGING = "PuOr"
"""Orange to purple through white: distinct for colour-blind readers on either side of zero."""


def roc_figure(
    systems: Mapping[str, np.ndarray],
    labels: np.ndarray,
    names: Sequence[str],
    band: str | None = None,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Figure:
    """ROC curves, a panel per class and a line per system.

    Args:
        systems: system -> (n, C) probabilities.
        labels: (n, C) of 1, 0 and NaN.
        names: the C classes.
        band: system around whose curves a bootstrap band of the sensitivity is drawn.
        draws: resamples of the band.
        level: its coverage at each false positive rate.
        seed: of the resamples.
        groups: (n,) patient of every case; whole patients are drawn.

    Raises:
        ValueError: if `band` is none of the systems.
    """
    if band is not None and band not in systems:
        raise ValueError(f"The band is that of {band!r}, expected one of {', '.join(systems)}.")
    figure, panels = _panels(names, "false positive rate (1 - specificity)", "sensitivity")
    for c, axes in _drawn(panels, labels, names):
        kept = ~np.isnan(labels[:, c])
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        if band is not None:
            grid, low, high = roc_band(systems[band][:, c], labels[:, c], draws, level, seed, groups)
            colour = _style(list(systems).index(band))["color"]
            axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
        named = band or next(iter(systems))
        for i, (system, probabilities) in enumerate(systems.items()):
            fpr, tpr, _ = roc_curve(labels[kept, c], probabilities[kept, c])
            axes.plot(fpr, tpr, linewidth=2.0 if system == named else 1.2, **_style(i))
        area = roc_auc_score(labels[kept, c], systems[named][kept, c])
        _corner(axes, f"{named.replace('_', ' ')} {area:.3f}", "lower right")
    _legend(figure, systems)
    return figure


def roc_band(
    probabilities: np.ndarray,
    labels: np.ndarray,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointwise bootstrap band of the sensitivity at fixed false positive rates.

    Args:
        probabilities: (n,) of one class.
        labels: (n,) of 1, 0 and NaN, some of each kind.
        draws: resamples; those without a positive or a negative case are left out.
        level: coverage at each point.
        seed: of the resamples.
        groups: (n,) patient of every case.

    Returns:
        (101,) false positive rates, lower and upper ends of the sensitivity.

    Raises:
        ValueError: if no resample has both kinds of cases.
    """
    kept = np.flatnonzero(~np.isnan(labels))
    order = kept[np.argsort(-probabilities[kept], kind="stable")]
    score, positive = probabilities[order], labels[order] == 1
    last = np.append(np.diff(score) != 0, True)  # cells of equal score enter a curve together
    grid, curves = np.linspace(0, 1, 101), []
    for cases in resampled_cases(len(labels), draws, seed, groups):
        weights = np.bincount(cases, minlength=len(labels))[order]
        tp, fp = np.cumsum(weights * positive)[last], np.cumsum(weights * ~positive)[last]
        if tp[-1] and fp[-1]:
            # Of equal rates the highest sensitivity counts, as on the upper left of the steps.
            end = np.append(np.diff(fp) != 0, True)
            start = np.append(True, np.diff(fp) != 0)
            x = np.concatenate([[0], np.stack([fp[start], fp[end]], axis=1).ravel()]) / fp[-1]
            y = np.concatenate([[0], np.stack([tp[start], tp[end]], axis=1).ravel()]) / tp[-1]
            curves.append(np.interp(grid, x, y))
    if not curves:
        raise ValueError(f"None of {draws} resamples has positive and negative cases, expected more of either.")
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return grid, low, high


def pr_figure(
    systems: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], named: str | None = None
) -> Figure:
    """Precision over recall, a panel per class and a line per system; the grey line is the share of positive cases.

    Args:
        systems: system -> (n, C) probabilities.
        labels: (n, C) of 1, 0 and NaN.
        names: the C classes.
        named: system whose line is thick and whose average precision stands in the panels; by default the first.
    """
    named = named or next(iter(systems))
    figure, panels = _panels(names, "recall (sensitivity)", "precision")
    for c, axes in _drawn(panels, labels, names):
        kept = ~np.isnan(labels[:, c])
        axes.axhline(labels[kept, c].mean(), color="#999999", linewidth=0.8)
        for i, (system, probabilities) in enumerate(systems.items()):
            precision, recall, _ = precision_recall_curve(labels[kept, c], probabilities[kept, c])
            # Precision jumps between two recalls; a straight line would flatter.
            width = 2.0 if system == named else 1.2
            axes.plot(recall, precision, linewidth=width, drawstyle="steps-post", **_style(i))
        area = average_precision_score(labels[kept, c], systems[named][kept, c])
        _corner(axes, f"{named.replace('_', ' ')} {area:.3f}", "upper right")
        axes.set_ylim(0, 1.02)
    _legend(figure, systems)
    return figure


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of cases in bins that hold about equally many cases.

    Args:
        probabilities: (n,) of one class.
        labels: (n,) of 1, 0 and NaN, which is left out.
        bins: how many at most; cases of equal probability share one.

    Returns:
        Three arrays, an entry for each bin that holds a case.
    """
    kept = ~np.isnan(labels)
    probabilities, labels = probabilities[kept], labels[kept]
    inner = np.percentile(probabilities, np.linspace(0, 100, bins + 1)[1:-1])
    index = np.searchsorted(inner, probabilities)
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, of, minlength=bins) for of in (probabilities, labels)]
    used = counts > 0
    return sums[0][used] / counts[used], sums[1][used] / counts[used], counts[used]


def calibration_figure(
    systems: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], bins: int = 10
) -> Figure:
    """Observed share of positives over the predicted probability, a panel per class, bins of equally many cases.

    Args:
        systems: system -> (n, C) probabilities. The first has error bars, Wilson's 95 % interval of the share.
        labels: (n, C) of 1, 0 and NaN.
        names: the C classes.
        bins: per class.
    """
    figure, panels = _panels(names, "predicted probability", "observed share of positives")
    for c, axes in _drawn(panels, labels, names):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        for i, probabilities in enumerate(systems.values()):
            x, y, n = reliability(probabilities[:, c], labels[:, c], bins)
            style = _style(i)
            if i == 0:
                low, high = _wilson(y, n)
                axes.vlines(x, low, high, color=style["color"], linewidth=1.0, alpha=0.6)
            axes.plot(x, y, marker="o", markersize=3, linewidth=1.2, **style)
    _legend(figure, systems)
    return figure


def confusion_figure(
    confusion: Mapping[str, Mapping[str, int]], thresholds: Mapping[str, float], title: str = ""
) -> Figure:
    """Confusion matrices, one per class: rows are the truth, shades the share of the row, numbers the cases.

    Args:
        confusion: class -> numbers tp, fp, fn, tn, as in `MultilabelResult.confusion`.
        thresholds: class -> threshold; a class without one has no matrix, and says so.
        title: above everything.
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
    if title:
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
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
    values = [interval.value for interval in means.values()]
    ends = [v for i in means.values() for v in (i.low, i.high, i.value) if math.isfinite(v)]
    for i, (interval, value) in enumerate(zip(means.values(), values, strict=True)):
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


def _drawn(panels: Sequence[Axes], labels: np.ndarray, names: Sequence[str]) -> Iterator[tuple[int, Axes]]:
    """The panels of classes that have positive and negative cases; the others say what they lack."""
    for c, (axes, name) in enumerate(zip(panels, names, strict=True)):
        positives, negatives = int((labels[:, c] == 1).sum()), int((labels[:, c] == 0).sum())
        axes.set_title(f"{name} ({positives})", fontsize=9 if len(name) < 20 else 7.5, loc="left")
        if positives and negatives:
            yield c, axes
        else:
            _empty(axes, f"{positives} positive,\n{negatives} negative")


def _empty(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=8.5, color=GREY, transform=axes.transAxes)


def _corner(axes: Axes, text: str, where: str) -> None:
    y, vertical = (0.04, "bottom") if where.startswith("lower") else (0.97, "top")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
    axes.text(0.97, y, text, ha="right", va=vertical, fontsize=8, transform=axes.transAxes, bbox=box)


def _style(i: int) -> dict[str, object]:
    return {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}


def _legend(figure: Figure, systems: Mapping[str, np.ndarray]) -> None:
    lines = [Line2D([], [], label=name.replace("_", " "), **_style(i)) for i, name in enumerate(systems)]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(7, len(lines)), fontsize=8.5, frameon=False)


def _wilson(share: np.ndarray, n: np.ndarray, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share of n cases (Wilson, JASA 22:209, 1927)."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half
