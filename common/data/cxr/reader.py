"""Read one X-ray: PNG, JPEG or DICOM of any usual kind becomes grey values from 0 to 1 in which bone is bright.

    >>> xray = read_xray("nih/00000061_012.png")
    >>> xray.pixels.shape, xray.bits, xray.photometric
    ((1024, 1024), 8, 'MONOCHROME2')

The file's own bytes say which kind it is, its name does not matter.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image
from pydicom.errors import InvalidDicomError

from common.data.cxr.dicom import shown_pixels
from common.data.dicom_file import DAMAGE, HEAD, is_dicom, read_dataset
from common.io.bad_input import BadInput

__all__ = ["MIN_SIDE", "StoredGrey", "XrayImage", "as_unit", "check_xray", "read_grey", "read_xray", "xray_kind"]

MIN_SIDE = 32
"""Pixels; anything smaller is a thumbnail or an icon."""
_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I")
_DEPTHS = (8, 10, 12, 14, 16)
_DAMAGE = (*DAMAGE, SyntaxError)
"""What Pillow, pydicom and their decoders raise on damaged files; each becomes a BadInput that names the file."""
_DEEP_COLOUR = ("LA;16B", "RGB;16B", "RGBA;16B")
"""Layouts of PNG of which Pillow keeps the upper byte alone."""
_UPRIGHT = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).T,
    8: np.rot90,
}
"""What turns a picture upright, by its EXIF orientation."""
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)
"""ITU-R BT.601 in 65536ths, as Pillow converts 8-bit colour to grey; the sum of white still fits 32 bits."""
_END = {"jpeg": b"\xff\xd9", "png": b"IEND"}
_TAIL = 4096


@dataclass(frozen=True, eq=False)
class XrayImage:
    """One X-ray.

    Attributes:
        pixels: (H, W) float32 in [0, 1], bright = bone (MONOCHROME2), row 0 on top.
        bits: grey levels of the file, as bits per pixel: 8, or up to 16.
        photometric: as stored: "MONOCHROME1" was inverted, "MONOCHROME2" not, "RGB" was colour made grey.
        spacing: millimetres between rows and between columns, None where the file does not tell.
        size: (H, W) of the stored image, upright; ``pixels`` are fewer where `at_least` allowed it.
        source: the file.
    """

    pixels: np.ndarray
    bits: int
    photometric: str
    spacing: tuple[float, float] | None
    size: tuple[int, int]
    source: Path


def read_xray(path: str | os.PathLike[str], at_least: int | None = None) -> XrayImage:
    """Read an X-ray.

    Grey values of 16-bit images are divided by the largest value of the fewest bits (8, 10, 12, 14 or 16) that hold
    them, as PNG does not tell how many bits the detector had. DICOM goes through its modality and VOI look-up (or
    window) as pydicom applies them; without one, its smallest and largest value become 0 and 1. Pixels that DICOM calls
    padding are black and do not count. A picture is turned upright as its EXIF orientation says; what is transparent
    lies on black.

    Args:
        path: PNG, JPEG or DICOM (single frame).
        at_least: a JPEG may be decoded at half, a quarter or an eighth of its size, if its longer side then still has
            at least so many pixels; None decodes every pixel.

    Raises:
        BadInput: naming what is wrong: empty, truncated, no image, constant, too small, several frames.
    """
    path = Path(path)
    grey = read_grey(path, at_least)
    if isinstance(grey, XrayImage):
        return grey
    return XrayImage(as_unit(grey.values), grey.bits, grey.photometric, None, grey.size, path)


@dataclass(frozen=True, eq=False)
class StoredGrey:
    """Grey values of a PNG or JPEG, upright: (H, W) uint8 or uint16, bits, sense and full (H, W)."""

    values: np.ndarray
    bits: int
    photometric: str
    size: tuple[int, int]


def as_unit(values: np.ndarray) -> np.ndarray:
    """Stored grey values, uint8 or uint16, as float32 in [0, 1]."""
    return values.astype(np.float32) / np.float32(full_scale(values))


def full_scale(values: np.ndarray) -> int:
    """The value of white: 255, 1023, 4095, 16383 or 65535, the smallest that no pixel exceeds."""
    if values.dtype == np.uint8:
        return 255
    top = int(values.max())
    return next(2**depth - 1 for depth in _DEPTHS if top < 2**depth)


def read_grey(path: str | os.PathLike[str], at_least: int | None = None) -> StoredGrey | XrayImage:
    """As `read_xray`, but a PNG or JPEG keeps its integers, which are faster to resize; DICOM is an `XrayImage`."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error
    kind = _kind(path, data)
    grey = _read_dicom(path, data) if kind == "dicom" else _read_picture(path, data, kind, at_least)
    values = grey.pixels if isinstance(grey, XrayImage) else grey.values
    if values.min() == values.max():
        raise BadInput(path, f"is constant, every pixel has the value {values.flat[0]:g}, expected an X-ray")
    return grey


def xray_kind(path: str | os.PathLike[str]) -> str:
    """Tell "png", "jpeg" or "dicom" by the first bytes.

    Raises:
        BadInput: if it is empty, cannot be read or is none of them.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _kind(path, file.read(HEAD))
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error


def check_xray(path: str | os.PathLike[str], deep: bool = False) -> None:
    """Refuse a file that cannot be an X-ray, by its header and its end in about a tenth of a millisecond.

    Args:
        path: as of `read_xray`.
        deep: decode it as well, small, which also finds damage in the middle and constant images.

    Raises:
        BadInput: naming what is wrong.
    """
    path = Path(path)
    kind = xray_kind(path)
    if deep or kind == "dicom":
        read_grey(path, at_least=MIN_SIDE)
        return
    try:
        with path.open("rb") as file, _open_picture(path, file, kind):
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            ended = _END[kind] in file.read()
    except _DAMAGE as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(path, f"is a damaged {kind.upper()} ({_short(error)})") from error
    if not ended:
        # What follows the end is not forbidden, so only a decoder can tell.
        read_grey(path)


def _kind(path: Path, start: bytes) -> str:
    if not start:
        raise BadInput(path, "is empty, expected a PNG, JPEG or DICOM image")
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if is_dicom(start[:HEAD]):
        return "dicom"
    raise BadInput(path, f"starts with {start[:4]!r}, expected a PNG, JPEG or DICOM image")


def _check_header(path: Path, image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise BadInput(path, f"has pixels of the kind {image.mode!r}, expected 8 or 16 bits of grey, or colour")
    if getattr(image, "n_frames", 1) > 1:
        raise BadInput(path, f"has {image.n_frames} frames, expected one image")
    _check_size(path, image.height, image.width)


def _check_size(path: Path, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise BadInput(path, f"has {height} x {width} pixels, expected at least {MIN_SIDE} along each side")
    if height * width > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise _too_many(path, f"{height} x {width}")


def _too_many(path: Path, how_many: str) -> BadInput:
    return BadInput(
        path, f"has {how_many} pixels, more than the limit of {Image.MAX_IMAGE_PIXELS} (PIL.Image.MAX_IMAGE_PIXELS)"
    )


def _open_picture(path: Path, file: IO[bytes], kind: str) -> Image.Image:
    """Open a PNG or JPEG, whose pixels are not yet read, if its header says an X-ray."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is half of its
            image = Image.open(file, formats=(kind.upper(),))
    except Image.DecompressionBombError as error:
        raise _too_many(path, re.search(r"\d+", str(error)).group()) from error
    _check_header(path, image)
    return image


def _read_picture(path: Path, data: bytes, kind: str, at_least: int | None) -> StoredGrey:
    try:
        image = _open_picture(path, BytesIO(data), kind)
        size = (image.height, image.width)
        if kind == "jpeg" and image.mode in ("L", "RGB"):
            # The decoder then gives luma and leaves out frequencies that a smaller image cannot show.
            image.draft("L", _draft_size(image, at_least))
        photometric = "MONOCHROME2" if image.mode in ("L", "LA") or image.mode.startswith("I") else "RGB"
        values = _grey_values(image, data)
        if kind == "jpeg" and not image.info.get("progressive") and _ends_early(values, data):
            raise BadInput(path, "is a damaged JPEG (its data end early, the rows at its bottom are blank)")
    except _DAMAGE as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(path, f"is a damaged {kind.upper()} ({_short(error)})") from error
    if values.dtype != np.uint8:
        if int(values.min()) < 0 or int(values.max()) > 65535:
            raise BadInput(path, f"has values from {values.min()} to {values.max()}, expected 0 to 65535")
        values = values.astype(np.uint16)
    orientation = _orientation(image)
    if orientation in _UPRIGHT:
        values = np.ascontiguousarray(_UPRIGHT[orientation](values))
        size = size[::-1] if orientation >= 5 else size
    bits = full_scale(values).bit_length()
    return StoredGrey(values, bits, photometric, size)


def _ends_early(values: np.ndarray, data: bytes) -> bool:
    """Whether the lower rows of a JPEG are what its decoder puts where data are missing: mid grey, without a word.

    Data of rows that were mid grey from the start repeat themselves within a few bytes.
    """
    if not (values[-2:] == 128).all():
        return False
    tail = data[: data.rfind(b"\xff\xd9")][-25:-1]  # the last byte is filled up with ones
    repeats = any(tail[period:] == tail[:-period] for period in range(1, 13))
    return not repeats or set(tail) <= {0, 255}


def _orientation(image: Image.Image) -> int | None:
    """How the picture is to be turned for a viewer, by EXIF; None where that is not told, or not readable."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return None


def _grey_values(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode to (H, W): uint8 of 8 bits, else integers; what is transparent lies on black."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.array(image)
        return values if key is None else np.where(values == key, 0, values)
    layout = image.tile[0][3] if image.format == "PNG" else None
    if layout in _DEEP_COLOUR:
        return _deep_grey(_deep_colour(data, layout), key)
    if key is not None or image.mode in ("LA", "PA", "RGBA"):
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, (0, 0, 0, 255)), shown).convert("RGB")
    if image.mode == "RGBX":
        image = image.convert("RGB")
    return np.array(image if image.mode == "L" else image.convert("L"))


def _deep_colour(data: bytes, layout: str) -> np.ndarray:
    """All 16 bits of a PNG of several channels, (H, W, C) uint16, of which Pillow would keep 8.

    Its decoder is told of a layout that keeps what is wanted: the lower bytes instead of the upper, or of grey with
    alpha four channels of a byte each.
    """
    layouts = ("RGBA",) if layout == "LA;16B" else (layout, layout.replace("16B", "16L"))
    planes = []
    for wanted in layouts:
        image = Image.open(BytesIO(data), formats=("PNG",))
        image.tile = [(*tile[:3], wanted) for tile in image.tile]
        planes.append(np.array(image).astype(np.uint16))
    upper, lower = planes if len(planes) == 2 else (planes[0][..., ::2], planes[0][..., 1::2])
    return upper << 8 | lower


def _deep_grey(channels: np.ndarray, key: tuple[int, ...] | None) -> np.ndarray:
    """Grey (H, W) uint16 of (H, W, C) uint16 on black; C is 2 or 4 with alpha, `key` the colour that is transparent."""
    alpha = channels[..., -1] if channels.shape[-1] in (2, 4) else None
    grey = channels[..., 0]
    if channels.shape[-1] > 2:
        grey = (channels[..., :3].astype(np.uint32) @ _LUMA + 0x8000 >> 16).astype(np.uint16)
    if key is not None:
        grey = np.where((channels == key).all(axis=-1), 0, grey).astype(np.uint16)
    if alpha is not None:
        grey = (grey.astype(np.uint32) * alpha // 65535).astype(np.uint16)
    return grey


def _draft_size(image: Image.Image, at_least: int | None) -> tuple[int, int]:
    """(width, height) below which the decoder must not go."""
    longer = max(image.size)
    if at_least is None or at_least >= longer:
        return image.size
    return tuple(max(1, -(-side * at_least // longer)) for side in image.size)


def _read_dicom(path: Path, data: bytes) -> XrayImage:
    try:
        ds = read_dataset(data)
        frames, photometric = int(ds.get("NumberOfFrames") or 1), str(ds.get("PhotometricInterpretation", ""))
        if "PixelData" not in ds:
            raise BadInput(path, "is a DICOM file without PixelData, expected an image")
        if frames > 1:
            raise BadInput(path, f"has {frames} frames, expected one image")
        _check_size(path, int(ds.Rows), int(ds.Columns))
        shown = shown_pixels(path, ds)
        spacing = ds.get("PixelSpacing") or ds.get("ImagerPixelSpacing")
        spacing = None if spacing is None else (float(spacing[0]), float(spacing[1]))
        bits = int(ds.BitsStored)
    except _DAMAGE as error:
        if isinstance(error, BadInput):
            raise
        what = (
            "no readable DICOM" if isinstance(error, InvalidDicomError) else "a damaged DICOM, or one of no known kind"
        )
        raise BadInput(path, f"is {what} ({_short(error)})") from error
    values = shown.values
    if values.ndim != 2:
        raise BadInput(path, f"has pixels of shape {values.shape}, expected rows and columns")
    if spacing is not None and not all(0 < side < float("inf") for side in spacing):
        raise BadInput(path, f"has pixel spacing {spacing[0]:g}, {spacing[1]:g} mm, expected positive numbers")
    if not abs(shown.bright - shown.dark) > 0:
        raise BadInput(path, f"is constant, every pixel has the value {shown.dark:g}, expected an X-ray")
    pixels = ((values - shown.dark) / (shown.bright - shown.dark)).clip(0, 1).astype(np.float32)
    if photometric == "MONOCHROME1":
        pixels = 1 - pixels
    if shown.padding is not None:
        pixels[shown.padding] = 0
    sense = photometric if photometric.startswith("MONOCHROME") else "RGB"
    return XrayImage(pixels, bits, sense, spacing, values.shape, path)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
