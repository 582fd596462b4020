"""Pictures of answers to questions about an image."""

from __future__ import annotations

import textwrap
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from common.visualize.attention import grey_picture

__all__ = ["answer_figure"]

_WIDTH = 62  # characters of a line


class _Answer(Protocol):
    impression: str
    reasoning: tuple[str, ...]
    icd: tuple[str, ...]


def answer_figure(image: np.ndarray, case: str, answer: _Answer, warning: str | None = None) -> Figure:
    """The image (H, W) beside the impression, the reasoning and the diagnoses that were said of it."""
    parts = [("Impression", [answer.impression or "no answer that can be read"])]
    parts += [("Reasoning", list(answer.reasoning))] if answer.reasoning else []
    parts += [("Diagnoses", list(answer.icd))] if answer.icd else []
    figure = Figure(figsize=(9.5, 4.4))
    axes = figure.add_axes((0.01, 0.02, 0.43, 0.86))
    axes.imshow(grey_picture(image), cmap="gray")
    axes.axis("off")
    lines = []
    for title, texts in parts:
        lines += [title, *(line for text in texts for line in textwrap.wrap(f"  {text}", _WIDTH)), ""]
    # Texts of a model are shown as they are: a dollar would begin a formula.
    figure.text(0.47, 0.88, "\n".join(lines).replace("$", r"\$"), va="top", fontsize=9)
    title = f"{case}. {warning}" if warning else case
    figure.text(0.01, 0.94, title.replace("$", r"\$"), fontsize=9)
    return figure
