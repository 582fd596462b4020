"""A checksum of all bytes at the end of a file, by which one that the disk has changed or cut off is noticed.

`torch.load` reads a zip file without looking at its CRCs, and a NumPy array or a table has none. The 14 bytes
`crc32:` and eight hexadecimal digits hinder no reader: a zip file has them as its comment, and an array ends before.
"""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

__all__ = ["find_damage", "seal"]

_SEAL = re.compile(rb"crc32:[0-9a-f]{8}")
_LENGTH = 14
_ZIP, _ZIP_END, _ZIP_END_LENGTH = b"PK\3\4", b"PK\5\6", 22  # begin and last record, which ends with a comment's length
_FOLDER = 0x10
_CHUNK = 1 << 22


def seal(path: Path) -> None:
    """Append the checksum to a file that is complete."""
    with path.open("r+b") as file:
        if file.read(4) == _ZIP:
            file.seek(-2, 2)
            file.write(struct.pack("<H", _LENGTH))
        length = file.seek(0, 2)
        file.write(_seal_of(file, length))


def find_damage(path: Path, sealed: bool = False) -> str | None:
    """What shows that a file is not as it was written; None if nothing does.

    A file without a checksum of this module is believed, but the CRCs of a zip file are looked at.

    Args:
        path: of the file.
        sealed: whether it must have one.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2) - _LENGTH
        file.seek(max(0, length))
        found = file.read()
        if _SEAL.fullmatch(found):
            return None if _seal_of(file, length) == found else "its checksum is another"
        if length == -_LENGTH:
            return "it is empty"
        if sealed:
            return "it does not end with its checksum"
        file.seek(0)
        if file.read(4) != _ZIP:
            return None
        start = file.seek(max(0, length + _LENGTH - _ZIP_END_LENGTH - 0xFFFF))
        tail = file.read()
        end = tail.rfind(_ZIP_END)
        comment = len(tail) - end - _ZIP_END_LENGTH
        if end < 0 or comment < 0 or comment != struct.unpack_from("<H", tail, end + 20)[0] or comment == _LENGTH:
            return f"it is cut off or changed after byte {start + max(end, 0)}"
    return _zip_damage(path)


def _seal_of(file: IO[bytes], length: int) -> bytes:
    """The seal of the first bytes of a file, which is then read or written behind them."""
    file.seek(0)
    crc, left = 0, length
    while left > 0 and (data := file.read(min(left, _CHUNK))):
        crc, left = zlib.crc32(data, crc), left - len(data)
    return b"crc32:%08x" % crc


def _zip_damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.external_attr & _FOLDER:  # torch.load would give zeros
                    return f"{entry.filename} is marked as a folder"
                if entry.CRC == 0:  # torch.save may be told to compute none
                    continue
                with archive.open(entry) as file:
                    while file.read(_CHUNK):
                        pass
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        return " ".join(str(error).split())
    return None
