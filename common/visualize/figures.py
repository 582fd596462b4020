"""What all figures share: colours for colour-blind readers and grey print, and pictures that carry their caption."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.io.output_folder import atomic_path

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#000000", "#F0E442")
"""The eight colours of Okabe and Ito (2008), which every kind of colour blindness leaves distinct; in an order in which
neighbours differ in grey print too."""

HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
GREY = "#555555"

DPI = 110


def figure_image(figure: Figure, dpi: float = DPI) -> np.ndarray:
    """Pixels of a figure, uint8 (H, W, 3); what it says is text, with no formulas but those of its axes' numbers."""
    numbers = {id(label) for axis in figure.findobj(Axis) for label in axis.get_ticklabels(which="both")}
    for text in figure.findobj(Text):
        if id(text) not in numbers:
            text.set_parse_math(False)
    figure.set_dpi(dpi)
    _take_literally(figure)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in another script, say
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _take_literally(figure: Figure) -> None:
    """Let a dollar sign in a name be one: matplotlib would read what stands between two as a formula.

    Only the powers of ten of a logarithmic axis are formulas.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.get_scale() == "log"):
        for text in axis.get_ticklabels(which="both"):
            text.set_parse_math(True)


def save_picture(picture: Figure | np.ndarray, path: str | os.PathLike[str], caption: str) -> Path:
    """Write a PNG that carries its caption (as the PNG text "Description"); folders are made, the write is atomic.

    Args:
        picture: a figure, or uint8 pixels (H, W, 3).
        path: ends in `.png`.
        caption: a sentence that says what is seen, with units.

    Returns:
        The path.

    Raises:
        ValueError: for another file type, or pixels of another kind.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: is not named as a PNG, expected the ending .png.")
    pixels = figure_image(picture) if isinstance(picture, Figure) else np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{path}: the pixels are {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3).")
    text = PngInfo()
    text.add_itxt("Description", caption)
    with atomic_path(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", pnginfo=text)
    return path


def picture_caption(path: str | os.PathLike[str]) -> str:
    """The caption of a PNG; without one, its file name in words."""
    with Image.open(path) as image:
        image.load()
        caption = image.info.get("Description", "").strip()
    return caption or Path(path).stem.replace("_", " ")


def figure_png(figure: Figure, dpi: float = DPI) -> bytes:
    """A figure as the bytes of a PNG."""
    data = io.BytesIO()
    Image.fromarray(figure_image(figure, dpi)).save(data, format="PNG")
    return data.getvalue()
