"""Where the queries of each region of an image read, and what was written of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from common.visualize.attention import attention_overlay, grey_picture
from common.visualize.figures import GREY, OKABE_ITO

__all__ = ["region_figure"]

_COLUMNS = 4


def region_figure(
    image: np.ndarray,
    attention: np.ndarray,
    priors: np.ndarray,
    routing: Sequence[float],
    regions: Sequence[str],
    sentences: Sequence[tuple[str, str, float]] = (),
    title: str = "",
) -> Figure:
    """One case: its image, the attention and prior of each region with its weight, and the report.

    The patient's right is on the image's left. The line around a prior is at half of its largest value.

    Args:
        image: (H, W) or (H, W, 3), see `common.visualize.attention.grey_picture`.
        attention: (R, h, w) at least 0, where the queries of each region read.
        priors: (R, h, w), likewise.
        routing: R weights that sum to 1.
        regions: R names.
        sentences: (text, region, share of its attention) of the report.
        title: above everything, such as the case.
    """
    picture = grey_picture(image)
    rows = -(-(len(regions) + 1) // _COLUMNS)
    lines = [(line, region) for sentence, region, share in sentences for line in _lines(sentence, region, share)]
    height = 0.24 * max(1, len(lines)) + 0.2
    figure = Figure(figsize=(11.6, 3.1 * rows + height), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3.1 * rows, height])
    cells = above.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for cell in cells:
        cell.axis("off")
    cells[0].imshow(picture, cmap="gray")
    cells[0].set_title("X-ray", fontsize=9.5, loc="left")
    extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
    for i, region in enumerate(regions):
        cell = cells[i + 1]
        cell.imshow(attention_overlay(image, attention[i]), extent=extent)
        y, x = ((np.arange(n) + 0.5) / n * size - 0.5 for n, size in zip(priors[i].shape, picture.shape, strict=True))
        if min(priors[i].shape) > 1 and np.ptp(priors[i]) > 0:
            cell.contour(x, y, priors[i], levels=[priors[i].max() / 2], colors=[OKABE_ITO[3]], linewidths=1.4)
        cell.set_title(f"{region}: weight {routing[i]:.2f}", fontsize=9.5, loc="left", color=_colour(region, regions))
    axes = below.subplots()
    axes.axis("off")
    for i, (line, region) in enumerate(lines):
        axes.text(0, 1 - (i + 0.5) / len(lines), line, fontsize=9.5, color=_colour(region, regions), va="center")
    if not lines:
        axes.text(0, 0.5, "The model wrote nothing.", fontsize=9.5, color=GREY, va="center")
    if title:
        above.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _lines(sentence: str, region: str, share: float) -> list[str]:
    return textwrap.wrap(f"{sentence}  [{region}, {share:.0%} of its attention to regions]", 130)


def _colour(region: str, regions: Sequence[str]) -> str:
    return OKABE_ITO[:7][list(regions).index(region) % 7] if region in regions else GREY
