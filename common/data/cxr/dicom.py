"""What the pixels of a DICOM X-ray show: look-up tables, window and padding applied, and the ends of the scale.

>>> shown = shown_pixels(path, read_dataset(path.read_bytes()))
>>> unit = ((shown.values - shown.dark) / (shown.bright - shown.dark)).clip(0, 1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom

from common.data.dicom_file import DAMAGE
from common.data.dicom_pixels import stored_values
from common.io.bad_input import BadInput

try:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, convert_color_space
except ModuleNotFoundError:  # pydicom 2, with which MONAI Label 0.8.5 runs
    from pydicom.pixel_data_handlers.util import (
        apply_color_lut,
        apply_modality_lut,
        apply_voi,
        apply_windowing,
        convert_color_space,
    )

__all__ = ["LUMA", "ShownPixels", "shown_pixels"]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as Pillow converts colour to grey."""
_GREY = ("MONOCHROME1", "MONOCHROME2")
_OPTIONAL = (
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
"""Tags that may be there without a value, which is as good as none."""
_HINTS = ("VOILUTSequence", "WindowCenter", "WindowWidth")
"""The same of what says how a display should show the values."""


@dataclass(frozen=True, eq=False)
class ShownPixels:
    """Pixels after all look-ups.

    Attributes:
        values: (H, W), or (H, W, ...) if the file is none of an X-ray.
        dark: what stands for 0 before MONOCHROME1 is inverted; may be the larger number, and equals `bright` where all
            pixels are alike.
        bright: what stands for 1.
        padding: (H, W) bool, pixels that fill the border; None where there are none.
    """

    values: np.ndarray
    dark: float
    bright: float
    padding: np.ndarray | None = None


def shown_pixels(path: Path, ds: pydicom.Dataset) -> ShownPixels:
    """Apply what a DICOM file says of its pixels.

    Grey goes through the modality look-up, then to the first scale that leaves something of the image between black and
    white: the VOI look-up, the windows, as pydicom applies them; else the smallest and largest value outside of the
    padding are dark and bright. Look-up and window are hints for a display: one that is damaged, or shows nothing (a
    width of 0), does not spoil the values. Colour becomes grey.

    Args:
        path: of the file, for errors.
        ds: single frame; tags without a value are removed from it.

    Raises:
        BadInput: for pixels that are neither grey nor colour, or padding alone. What pydicom raises goes through.
    """
    for name in (*_OPTIONAL, *_HINTS):
        if _is_empty(ds, name):
            delattr(ds, name)
    photometric = str(ds.get("PhotometricInterpretation", ""))
    stored, padding = stored_values(path, ds)
    if stored.ndim == 3 or photometric == "PALETTE COLOR":
        return _colour(ds, stored, photometric)
    if photometric not in _GREY:
        raise BadInput(path, f"has PhotometricInterpretation {photometric!r}, expected grey or colour")
    if padding is not None and padding.all():
        raise BadInput(path, "holds nothing but padding, expected an X-ray")
    values = apply_modality_lut(stored, ds)
    image = slice(None) if padding is None else ~padding
    for scale in _scales(ds):
        try:
            shown = scale(ds, values)
        except DAMAGE:
            continue
        dark, bright = sorted((shown.dark, shown.bright))
        seen = shown.values[image]
        if ((seen > dark) & (seen < bright)).any():
            return replace(shown, padding=padding)
    values = values.astype(np.float64)
    own = values[image]
    return ShownPixels(values, float(own.min()), float(own.max()), padding)


def _is_empty(ds: pydicom.Dataset, name: str) -> bool:
    """Whether an element is there without a value, or is a hint for a display that cannot be read."""
    try:
        return name in ds and ds[name].is_empty
    except DAMAGE:
        if name not in _HINTS:
            raise
        return True


def _scales(ds: pydicom.Dataset) -> Iterator[Callable[[pydicom.Dataset, np.ndarray], ShownPixels]]:
    """What the file offers to show its values by, the first choice first."""
    if "VOILUTSequence" in ds:
        yield _by_look_up
    if "WindowCenter" in ds and "WindowWidth" in ds:
        for index in range(max(ds["WindowCenter"].VM, ds["WindowWidth"].VM)):
            yield partial(_by_window, index=index)


def _by_look_up(ds: pydicom.Dataset, values: np.ndarray) -> ShownPixels:
    table = ds.VOILUTSequence[0]
    entries, first, depth = (int(number) for number in table.LUTDescriptor)
    if (
        first >= 2**15 and values.min() < 0
    ):  # the first value is as signed as those it is for, but may be written without
        table.LUTDescriptor = [entries, first - 2**16, depth]
    shown = apply_voi(values, ds)
    return ShownPixels(shown.astype(np.float64), 0.0, float(max(2**depth - 1, shown.max())))


def _by_window(ds: pydicom.Dataset, values: np.ndarray, index: int) -> ShownPixels:
    # pydicom spreads the window over the range that the stored bits allow, upside down for a negative slope; its ends
    # are found with two values that no window holds.
    with np.errstate(over="ignore"):  # of a window that is a sigmoid
        dark, bright = apply_windowing(np.array([-1e12, 1e12]), ds, index)
        return ShownPixels(apply_windowing(values, ds, index), float(dark), float(bright))


def _colour(ds: pydicom.Dataset, stored: np.ndarray, photometric: str) -> ShownPixels:
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, ds)
        return ShownPixels(stored[..., :3].astype(np.float32) @ LUMA, 0.0, float(np.iinfo(stored.dtype).max))
    if photometric.startswith("YBR_FULL"):  # YBR_ICT and YBR_RCT are undone by their decoder
        stored = convert_color_space(stored, photometric, "RGB")
    return ShownPixels(stored[..., :3].astype(np.float32) @ LUMA, 0.0, float(2 ** int(ds.BitsStored) - 1))
