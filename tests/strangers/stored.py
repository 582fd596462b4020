"""Images written bit by bit."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")

OVERLAY = 1 << 12
BOX = (slice(4, 12), slice(4, 12))
"""Where the overlay draws."""


def j2k(array: np.ndarray) -> bytes:
    """A codestream of 16 bits, as encoders make of a pixel cell that still holds its overlay."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array).view(np.uint16)).save(
        buffer, "JPEG2000", irreversible=False, no_jp2=True
    )
    return buffer.getvalue()


def pack(ds: FileDataset, syntax: UID, frame: bytes) -> None:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def store(ds: FileDataset, cells: np.ndarray, syntax: UID, stored: int = 12, high: int | None = None) -> None:
    """Put whole cells into a data set that says that only `stored` bits of them are the value."""
    ds.BitsStored, ds.HighBit, ds.Rows, ds.Columns = 16, 15, *cells.shape
    ds.PixelRepresentation = int(cells.dtype.kind == "i")
    ds.PixelData, ds["PixelData"].VR = cells.tobytes(), "OW"
    if syntax == JPEG2000Lossless:
        pack(ds, syntax, j2k(cells))
    elif syntax == RLELossless:
        ds.compress(RLELossless)
    ds.BitsStored, ds.HighBit = stored, stored - 1 if high is None else high


def xray(cells: np.ndarray | None = None, syntax: UID = ExplicitVRLittleEndian, **tags: object) -> FileDataset:
    """A DX image of 12 bits."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = "1.2.3.4", ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "DX", 1, "MONOCHROME2"
    ds.BitsAllocated = 16
    store(ds, ramp() if cells is None else cells, syntax)
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def ramp(low: int = 100, high: int = 4000) -> np.ndarray:
    """(48, 64) uint16 that rises along the rows."""
    return np.tile(np.linspace(low, high, 64).round(), (48, 1)).astype(np.uint16)


def unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


def save(path: Path, ds: FileDataset) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def png(path: Path, array: np.ndarray, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits with 1 to 4 channels, as no Pillow writes it."""
    height, width, channels = array.shape
    rows = array.astype(">u2").tobytes()
    step = len(rows) // height
    raw = b"".join(b"\0" + rows[step * i : step * (i + 1)] for i in range(height))
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    whole = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    return path
