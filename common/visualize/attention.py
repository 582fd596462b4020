"""Where a model looked: attention over an X-ray as a picture, attention over the tokens of a note as coloured text.

Attention weights say where a network read from, not why it decided; captions of these pictures should not say more.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.visualize.figures import GREY, OKABE_ITO

__all__ = [
    "attention_overlay",
    "case_figure",
    "grey_picture",
    "token_attention_figure",
    "token_attention_html",
    "token_attention_page",
]

_COLOURS, _OPACITY = "inferno", 0.65  # where the attention is largest
_TEXT_COLOUR = (230, 159, 0)  # orange of Okabe and Ito; black text stays readable on it


def grey_picture(image: np.ndarray) -> np.ndarray:
    """An X-ray of any range as a grey picture.

    Args:
        image: (H, W) or (H, W, 3); uint8 is taken as it is, of other types the 0.5th percentile becomes black and the
            99.5th white.

    Returns:
        uint8 (H, W).

    Raises:
        ValueError: for other shapes, or values that are not finite.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"The image has the shape {image.shape}, expected (H, W) or (H, W, 3).")
    if not np.isfinite(image).all():
        raise ValueError("The image holds values that are not finite, expected pixels.")
    grey = image if image.ndim == 2 else image.mean(axis=2).astype(image.dtype)
    if grey.dtype == np.uint8:
        return grey
    low, high = np.percentile(grey, (0.5, 99.5))
    return (255 * np.clip((grey - low) / max(high - low, np.finfo(float).tiny), 0, 1)).round().astype(np.uint8)


def attention_overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Attention in colour over an X-ray; where there is none, the X-ray is untouched.

    Args:
        image: (H, W) or (H, W, 3), see `grey_picture`.
        attention: (h, w) >= 0, the weights of a grid of patches that covers the image; the largest has full colour.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: if the attention is not a grid of numbers >= 0.
    """
    grey = grey_picture(image)
    scaled = _share_of_largest(attention, dimensions=2).astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    colour = 255 * matplotlib.colormaps[_COLOURS](smooth)[..., :3]
    opacity = _OPACITY * smooth[..., None]
    return (grey[..., None] * (1 - opacity) + colour * opacity).round().astype(np.uint8)


def case_figure(
    image: np.ndarray | None,
    probabilities: Mapping[str, float],
    attention: np.ndarray | None = None,
    thresholds: Mapping[str, float] | None = None,
    title: str = "",
    attention_name: str = "saliency",
) -> Figure:
    """One case: its X-ray, the attention over it, and the probability of every label.

    Args:
        image: (H, W) or (H, W, 3), None for a case without an X-ray.
        probabilities: label -> probability.
        attention: (h, w) weights over the image, None for none.
        thresholds: label -> threshold, drawn as a tick; bars from it on are full, others pale.
        title: above everything, such as the case.
        attention_name: what the weights are: an encoder without attention has a saliency.

    Raises:
        ValueError: if there is attention but no image, or as in `attention_overlay`.
    """
    if image is None and attention is not None:
        raise ValueError("There is attention over an image, but no image, expected both or none.")
    pictures = [] if image is None else [("X-ray", np.repeat(grey_picture(image)[..., None], 3, axis=2))]
    if attention is not None:
        pictures.append((f"image encoder:\n{attention_name}", attention_overlay(image, attention)))
    columns = len(pictures) + 1
    height = max(3.4 if pictures else 1.6, 0.9 + 0.24 * len(probabilities))
    figure = Figure(figsize=(3.6 * columns + 1.2, height), layout="constrained")
    *left, right = figure.subplots(1, columns, squeeze=False, width_ratios=[1] * (columns - 1) + [1.25])[0]
    for axes, (name, picture) in zip(left, pictures, strict=True):
        axes.imshow(picture)
        axes.set_title(name, fontsize=9.5, loc="left")
        axes.axis("off")
    for i, (label, value) in enumerate(probabilities.items()):
        threshold = None if thresholds is None else thresholds.get(label)
        over = value >= (0.5 if threshold is None else threshold)
        right.barh(i, value, color=OKABE_ITO[0] if over else "#a9c7dd", height=0.72)
        right.annotate(f"{value:.2f}", (value, i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        if threshold is not None:
            right.plot([threshold] * 2, [i - 0.42, i + 0.42], color="black", linewidth=1.2)
    right.set_yticks(range(len(probabilities)), list(probabilities), fontsize=8.5)
    right.invert_yaxis()
    right.set_xlim(0, 1.12)
    right.set_xticks([0, 0.5, 1])
    right.set_xlabel("probability" + (", tick: threshold chosen on validation" if thresholds else ""), fontsize=8.5)
    right.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    return figure


def token_attention_html(text: str, spans: Sequence[tuple[int, int]], weights: Sequence[float]) -> str:
    """The note with its tokens shaded by their attention, as one HTML element without scripts or links.

    Args:
        text: the note.
        spans: (start, end) of each token in the text, in order; an empty span (a special token) has no place in it.
        weights: >= 0, one for each token; the largest of those shown has full colour.

    Returns:
        `<div class="note-attention">`; every text is escaped, the weight of a token is its tooltip.

    Raises:
        ValueError: if spans and weights do not fit the text and each other.
    """
    red, green, blue = _TEXT_COLOUR
    parts, end = [], 0
    for (start, stop), weight, share in _placed_tokens(text, spans, weights):
        parts.append(html.escape(text[end:start]))
        style = f"background:rgba({red},{green},{blue},{share:.2f})"
        parts.append(f'<span style="{style}" title="{weight:.4f}">{html.escape(text[start:stop])}</span>')
        end = stop
    parts.append(html.escape(text[end:]))
    return f'<div class="note-attention" style="white-space:pre-wrap">{"".join(parts)}</div>'


def token_attention_page(title: str, text: str, spans: Sequence[tuple[int, int]], weights: Sequence[float]) -> str:
    """`token_attention_html` as a page of its own.

    Args:
        title: its heading, such as the case.
        text: the note.
        spans: of its tokens.
        weights: of its tokens.
    """
    style = "body{font:15px/1.7 system-ui,sans-serif;max-width:76ch;margin:2em auto;padding:0 1em}"
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{style}</style></head>\n"
        f"<body><h1>{title}</h1>\n<p>Attention of the first token of the note encoder through all its layers: the "
        "stronger the colour, the larger the weight. It does not say why the network decided.</p>\n"
        f"{token_attention_html(text, spans, weights)}\n</body></html>\n"
    )


def token_attention_figure(
    text: str,
    spans: Sequence[tuple[int, int]],
    weights: Sequence[float],
    width: int = 96,
    max_lines: int = 40,
    title: str = "",
) -> Figure:
    """`token_attention_html` as a figure, in lines of fixed width.

    Args:
        text: the note.
        spans: of its tokens.
        weights: of its tokens.
        width: characters in a line.
        max_lines: of a longer note the first lines are shown, and how many are not.
        title: above everything.
    """
    shade = np.zeros(len(text))
    for (start, stop), _, share in _placed_tokens(text, spans, weights):
        shade[start:stop] = share
    lines = _wrapped(text, width)
    hidden = max(0, len(lines) - max_lines)
    lines = lines[:max_lines]
    rows = len(lines) + bool(hidden)
    figure = Figure(figsize=(0.076 * width + 0.3, 0.2 * max(rows, 1) + (0.55 if title else 0.2)))
    axes = figure.add_axes((0.01, 0.0, 0.98, 1 - (0.4 / figure.get_figheight() if title else 0)))
    axes.set_xlim(0, width)
    axes.set_ylim(max(rows, 1), 0)
    axes.axis("off")
    red, green, blue = (value / 255 for value in _TEXT_COLOUR)
    for row, (start, stop) in enumerate(lines):
        picture = np.zeros((1, stop - start, 4))
        picture[..., :3] = (red, green, blue)
        picture[0, :, 3] = shade[start:stop]
        if stop > start:
            axes.imshow(picture, extent=(0, stop - start, row + 0.92, row + 0.08), aspect="auto", interpolation="none")
        for column, letter in enumerate(text[start:stop]):  # one by one: no font has exactly the width of a cell
            if not letter.isspace():
                axes.text(column + 0.5, row + 0.5, letter, ha="center", va="center", fontsize=8, family="monospace",
                          parse_math=False)  # fmt: skip
    if hidden:
        axes.text(0, rows - 0.5, f"... {hidden} more lines", va="center", fontsize=8, color=GREY)
    axes.set_xlim(0, width)  # a picture changes the limits
    axes.set_ylim(max(rows, 1), 0)
    if title:
        figure.text(0.01, 1 - 0.1 / figure.get_figheight(), title, fontsize=10.5, fontweight="bold", va="top")
    return figure


def _share_of_largest(weights: np.ndarray, dimensions: int) -> np.ndarray:
    weights = np.asarray(weights, float)
    if weights.ndim != dimensions or not weights.size or not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError(
            f"The attention has the shape {weights.shape}, expected {dimensions} dimensions of weights from 0 on."
        )
    return weights / max(weights.max(), np.finfo(float).tiny)


def _placed_tokens(
    text: str, spans: Sequence[tuple[int, int]], weights: Sequence[float]
) -> list[tuple[tuple[int, int], float, float]]:
    """Span, weight and share of the largest weight, of the tokens that have a place in the text."""
    if len(spans) != len(weights):
        raise ValueError(f"There are {len(spans)} spans and {len(weights)} weights, expected one of each per token.")
    placed = [((int(a), int(b)), float(w)) for (a, b), w in zip(spans, weights, strict=True) if b > a]
    end = 0
    for (start, stop), _ in placed:
        if start < end or stop > len(text):
            raise ValueError(
                f"A token lies at {start} to {stop}, expected it behind {end} in a text of {len(text)} characters."
            )
        end = stop
    if not placed:
        return []
    shares = _share_of_largest(np.array([weight for _, weight in placed]), dimensions=1)
    return [(span, weight, float(share)) for (span, weight), share in zip(placed, shares, strict=True)]


def _wrapped(text: str, width: int) -> list[tuple[int, int]]:
    """(start, end) of the lines of a text that is broken at spaces where it is too wide."""
    lines, start = [], 0
    for paragraph in text.split("\n"):
        end = start + len(paragraph)
        while end - start > width:
            space = text.rfind(" ", start, start + width + 1)
            stop = start + width if space <= start else space
            lines.append((start, stop))
            start = stop + (space > start)
        lines.append((start, end))
        start = end + 1
    return lines
