"""A DICOM data set from the bytes of a file, with or without the preamble and header that belong in front of it."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import VR

__all__ = ["DAMAGE", "HEAD", "is_data_set", "is_dicom", "read_dataset"]

DAMAGE = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError,
    OverflowError, struct.error, zlib.error, BytesLengthException,
)  # fmt: skip
"""What pydicom and its decoders raise on damaged files."""
HEAD = 600
"""How much of a file `is_dicom` wants to see."""
_MARK, _PREAMBLE = b"DICM", 128
_FIRST_GROUPS = (2, 8)
_LONGEST_FIRST = 256
_CODES = {code.value.encode() for code in VR if len(code.value) == 2}


def is_dicom(start: bytes) -> bool:
    """Whether the first `HEAD` of a file are those of DICOM, whatever its name.

    That is the `DICM` mark or, as scanners and archives also write them, a data set that begins without mark or
    preamble: two elements in a row, the first of group 0002 or 0008, whose lengths and order are sound.
    """
    if start[_PREAMBLE : _PREAMBLE + 4] == _MARK or start[:4] == _MARK:
        return True
    return is_data_set(start)


def is_data_set(head: bytes) -> bool:
    """Whether bytes begin as a data set with nothing in front of it, in either byte order."""
    return any(_two_elements(head, order) for order in "<>")


def _two_elements(start: bytes, order: str) -> bool:
    at, tags = 0, []
    for _ in range(2):
        if len(start) < at + 8:
            return False
        group, element = struct.unpack_from(f"{order}HH", start, at)
        if start[at + 4 : at + 6] in _CODES:
            (length,) = struct.unpack_from(f"{order}H", start, at + 6)
        else:
            (length,) = struct.unpack_from(f"{order}I", start, at + 4)
        tags.append((group, element))
        if len(tags) == 1 and (group not in _FIRST_GROUPS or length % 2 or length > _LONGEST_FIRST):
            return False
        at += 8 + length
    return tags[0] < tags[1] and tags[1][0] < 0x30


def read_dataset(data: bytes) -> FileDataset:
    """Parse a DICOM file, with or without preamble and file header.

    Where none names the transfer syntax, the values are native if the file gives their length, in the byte order in
    which the data set was found to be written.

    Raises:
        InvalidDicomError: if it is none. What else pydicom raises of a damaged file goes through.
    """
    if not is_dicom(data[:HEAD]):
        raise InvalidDicomError("neither DICM mark nor a first element of DICOM")
    if data[:4] == _MARK:
        data = bytes(_PREAMBLE) + data
    ds = pydicom.dcmread(BytesIO(data), force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        plain = {(True, True): ImplicitVRLittleEndian, (False, True): ExplicitVRLittleEndian}
        encoding = getattr(ds, "original_encoding", None) or (ds.is_implicit_VR, ds.is_little_endian)  # pydicom 2
        if not ("PixelData" in ds and ds["PixelData"].is_undefined_length):
            ds.file_meta.TransferSyntaxUID = plain.get(encoding, ExplicitVRBigEndian)
    return ds
