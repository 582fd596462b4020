"""What the pixels of a DICOM X-ray show: look-up tables, window and padding applied, and the ends of the scale.

>>> shown = shown_pixels(path, pydicom.dcmread(path))
>>> unit = ((shown.values - shown.dark) / (shown.bright - shown.dark)).clip(0, 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from common.io.bad_input import BadInput

try:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space
except ModuleNotFoundError:  # pydicom 2, with which MONAI Label 0.8.5 runs
    from pydicom.pixel_data_handlers import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

__all__ = ["LUMA", "ShownPixels", "shown_pixels"]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601, as Pillow converts colour to grey."""
_GREY = ("MONOCHROME1", "MONOCHROME2")
_OPTIONAL = (
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip
"""Tags that may be there without a value, which is as good as none."""


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

    Grey goes through the modality look-up, then the VOI look-up or window, as pydicom applies them; without one, the
    smallest and largest value outside of the padding are dark and bright. Colour becomes grey.

    Args:
        path: of the file, for errors.
        ds: single frame; tags without a value are removed from it.

    Raises:
        BadInput: for pixels that are neither grey nor colour, or padding alone. What pydicom raises goes through.
    """
    for name in _OPTIONAL:
        if name in ds and ds[name].is_empty:
            delattr(ds, name)
    stored, photometric = ds.pixel_array, str(ds.get("PhotometricInterpretation", ""))
    if stored.ndim == 3 or photometric == "PALETTE COLOR":
        return _colour(ds, stored, photometric)
    if photometric not in _GREY:
        raise BadInput(path, f"has PhotometricInterpretation {photometric!r}, expected grey or colour")
    padding = _padding(path, ds, stored)
    values = apply_modality_lut(stored, ds)
    if "VOILUTSequence" in ds:
        shown = apply_voi_lut(values, ds)
        depth = int(ds.VOILUTSequence[0].LUTDescriptor[2])
        return ShownPixels(shown.astype(np.float64), 0.0, float(max(2**depth - 1, shown.max())), padding)
    values = values.astype(np.float64)
    if "WindowCenter" in ds and "WindowWidth" in ds:
        # pydicom spreads the window over the range that the stored bits allow, upside down for a negative slope; its
        # ends are found with two values that no window holds.
        with np.errstate(over="ignore"):  # of a window that is a sigmoid
            dark, bright = apply_voi_lut(np.array([-1e12, 1e12]), ds)
        return ShownPixels(apply_voi_lut(values, ds), float(dark), float(bright), padding)
    own = values if padding is None else values[~padding]
    return ShownPixels(values, float(own.min()), float(own.max()), padding)


def _padding(path: Path, ds: pydicom.Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Where stored values are PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    if "PixelPaddingValue" not in ds:
        return None
    value = int(ds.PixelPaddingValue)
    first, last = sorted((value, int(ds.get("PixelPaddingRangeLimit", value))))
    padding = (stored >= first) & (stored <= last)
    if padding.all():
        raise BadInput(path, f"holds nothing but padding, values from {first} to {last}, expected an X-ray")
    return padding if padding.any() else None


def _colour(ds: pydicom.Dataset, stored: np.ndarray, photometric: str) -> ShownPixels:
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, ds)
        return ShownPixels(stored[..., :3].astype(np.float32) @ LUMA, 0.0, float(np.iinfo(stored.dtype).max))
    if photometric.startswith("YBR"):
        stored = convert_color_space(stored, photometric, "RGB")
    return ShownPixels(stored[..., :3].astype(np.float32) @ LUMA, 0.0, float(2 ** int(ds.BitsStored) - 1))
