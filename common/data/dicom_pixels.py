"""What every DICOM reader of this library does alike: decode the stored values of an image, and find its padding.

>>> ds = read_dataset(path.read_bytes())
>>> stored, padding = stored_values(path, ds)
"""

from __future__ import annotations

import os

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit

from common.io.bad_input import BadInput

__all__ = ["stored_values"]

_DECODERS = 'install the extra "serve" (pip install "thorax-bundles[serve]": pylibjpeg and its plugins)'


def stored_values(
    path: str | os.PathLike[str], ds: FileDataset, name: str = ""
) -> tuple[np.ndarray, np.ndarray | None]:
    """The stored values of an image, each made of its BitsStored bits alone whatever the transfer syntax, and padding.

    What lies above HighBit, such as an overlay, is no part of a value (PS3.5, 8.1.1); codecs hand it over, and so does
    a native pixel cell. Padding equals PixelPaddingValue, or lies between it and PixelPaddingRangeLimit.

    Args:
        path: named in errors.
        ds: as `common.data.dicom_file.read_dataset` gives it.
        name: of the file within the path, where that is a folder or a zip.

    Returns:
        Values, (rows, columns) of a grey image, (rows, columns, 3) of colour that is left as it is stored, signed where
        PixelRepresentation is 1; and where they are padding, bool of the same shape, None where nothing is.

    Raises:
        BadInput: if the transfer syntax is not known, or no decoder for it is installed. What a decoder raises of
            damaged values goes through.
    """
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise BadInput(path, f"{name} has no TransferSyntaxUID, expected one in its file header".lstrip())
    lacking = _no_decoder(ds, syntax)
    if lacking:
        raise BadInput(path, f"{name} is compressed as {syntax.name} and {lacking}".lstrip())
    if hasattr(ds, "pixel_array_options"):  # pydicom 2 never touches them
        ds.pixel_array_options(raw=True, correct_unused_bits=False)
    cells = ds.pixel_array
    if cells.dtype.kind not in "iu":
        return cells, None
    bits, low = int(ds.BitsStored), 0
    if not syntax.is_encapsulated:
        low = max(0, int(ds.get("HighBit", bits - 1)) + 1 - bits)
    values = _of_bits(cells, bits, low)
    return values, _padding(ds, cells, values)


def _of_bits(values: np.ndarray, stored: int, low: int = 0) -> np.ndarray:
    """Integers made of `stored` bits from bit `low` on, sign-extended where the type is signed."""
    width = 8 * values.dtype.itemsize
    above = width - stored - low
    if above < 0 or (above == 0 and low == 0):
        return values
    return (values << above) >> (above + low)


def _no_decoder(ds: FileDataset, syntax: pydicom.uid.UID) -> str:
    """Why values compressed like this cannot be decoded here, "" if they can."""
    if not syntax.is_private and syntax.is_transfer_syntax and not syntax.is_encapsulated:
        return ""
    try:
        # Imported here because pydicom 2, which MONAI Label is bound to, lacks it; native values need none of it.
        from pydicom.pixels import get_decoder
    except ModuleNotFoundError:
        return ""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return "there is no decoder for it, expected a transfer syntax that pydicom knows"
    plugins = set(decoder.available_plugins)
    deep = int(ds.get("BitsStored") or 8) > 8
    # Pillow takes 8 bits alone of the one, and of colour of the other.
    if (syntax == JPEGExtended12Bit and deep) or (
        syntax in JPEG2000TransferSyntaxes and deep and int(ds.get("SamplesPerPixel") or 1) > 1
    ):
        plugins.discard("pillow")
    if plugins or (decoder.is_available and not decoder.missing_dependencies):
        return ""
    return f"no decoder for it is installed, {_DECODERS}"


def _padding(ds: FileDataset, cells: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """Where values are padding; a padding value that needs more than BitsStored bits is sought in the whole cells."""
    first, last = (_padding_value(ds, values.dtype, f"PixelPadding{name}") for name in ("Value", "RangeLimit"))
    if first is None:
        return None
    first, last = sorted((first, first if last is None else last))
    bits, signed = int(ds.BitsStored), values.dtype.kind == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    sought = cells if first < low or last > high else values
    padding = (sought >= first) & (sought <= last)
    return padding if padding.any() else None


def _padding_value(ds: FileDataset, dtype: np.dtype, keyword: str) -> int | None:
    """One end of the padding, None if it is not there or empty.

    It is as wide and as signed as a pixel, but some write -2000 as 63536, or the other way round.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    value, span = int(value), 1 << int(ds.BitsAllocated)
    if dtype.kind == "i" and value >= span // 2:
        return value - span
    return value + span if dtype.kind == "u" and value < 0 else value
