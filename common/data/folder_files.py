"""Every file of a folder, once: regular files to be looked at, what is no file, and what kind a file is by its content.

A listing takes what it can use; what is left is counted by kind, so that nothing of a folder is dropped in silence.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from common.data.dicom_file import HEAD, is_dicom
from common.io.bad_input import BadInput

__all__ = [
    "PICTURES", "check_regular", "content_kind", "file_kind", "other_kind", "others_text", "walk_files",
]  # fmt: skip

PICTURES = ("png", "jpeg", "tiff", "bmp", "gif", "webp", "jpeg2000")
"""Kinds of files that hold a picture and no geometry."""

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"II*\0": "tiff", b"MM\0*": "tiff", b"II+\0": "tiff",
    b"GIF8": "gif", b"\0\0\0\x0cjP  ": "jpeg2000", b"\xff\x4f\xff\x51": "jpeg2000", b"NRRD000": "nrrd",
    b"ObjectType": "metaimage", b"NDims": "metaimage", b"PK\x03\x04": "zip",
}  # fmt: skip
_NIFTI = {(344, b"n+1\0"), (344, b"ni1\0"), (4, b"n+2\0"), (4, b"ni2\0")}
_DICOMDIR = b"1.2.840.10008.1.3.10"  # the SOP class in its file header
_SPECIAL = {
    stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISBLK: "a device", stat.S_ISCHR: "a device",
}  # fmt: skip


def check_regular(path: Path) -> None:
    """Refuse what would never end to be read, or is not there, before it is opened; links are followed.

    Raises:
        BadInput: for a pipe, a socket, a device, a link to nothing or in a circle, and what cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        what = f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "does not exist"
        raise BadInput(path, f"{what}, expected a file") from error
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error
    for is_it, what in _SPECIAL.items():
        if is_it(mode):
            raise BadInput(path, f"is {what}, expected a file")


def walk_files(folder: Path, problems: list[BadInput], other: Counter[str]) -> Iterator[Path]:
    """Yield the files at or below a folder, sorted by folder and name; links are followed, a circle of them once.

    Args:
        folder: the folder.
        problems: what is no file, and folders that cannot be read, are added.
        other: files and folders whose names begin with a dot are counted as "hidden".
    """
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        try:
            place = parent.stat()
            if (place.st_dev, place.st_ino) in visited:
                continue
            visited.add((place.st_dev, place.st_ino))
            with os.scandir(parent) as scan:  # which knows files and folders without asking for each
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            problems.append(BadInput(parent, f"cannot be read ({error.strerror}), expected a folder"))
            continue
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        other["hidden"] += len(entries) - len(shown)
        folders = []
        for entry in shown:
            path = parent / entry.name
            if _is(entry.is_dir):
                folders.append(path)
            elif _is(entry.is_file):
                yield path
            else:
                try:
                    check_regular(path)
                except BadInput as problem:
                    problems.append(problem)
        waiting += reversed(folders)


def _is(what: Callable[[], bool]) -> bool:
    """An answer of `os.scandir`, False for a link in a circle, which it cannot follow."""
    try:
        return what()
    except OSError:
        return False


def file_kind(path: Path) -> str:
    """What a file is by its content: one of `PICTURES`, "dicom", "dicomdir", "nifti", "nrrd", "metaimage", "zip".

    A DICOM file may lack the 128 bytes and the mark in front of its data set.

    Returns:
        "empty" for a file of no bytes, "" for any other kind.

    Raises:
        BadInput: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                head = file.read(HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return ""
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error
    return content_kind(head)


def content_kind(head: bytes) -> str:
    """As `file_kind`, of the first `HEAD` bytes, unpacked."""
    if not head:
        return "empty"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "bmp"
    if any(head[place : place + 4] == mark for place, mark in _NIFTI):
        return "nifti"
    if is_dicom(head):
        return "dicomdir" if _DICOMDIR in head else "dicom"
    return ""


def other_kind(path: Path) -> str:
    """What a file that nothing was looked for in is counted as: its ending, such as ".txt" or ".csv.gz"."""
    name = path.name.lower()
    packed = ".gz" * (name.endswith(".gz") and name != ".gz")
    ending = Path(name.removesuffix(packed)).suffix + packed
    return ending if ending[1:].replace(".", "").isalnum() and not ending[1:].isdigit() else "without ending"


def others_text(other: Counter[str] | dict[str, int]) -> str:
    """`12 other files: 7 .txt, 5 .json`, the most frequent first; "" if there are none."""
    counts = sorted(((n, kind) for kind, n in other.items() if n), key=lambda item: (-item[0], item[1]))
    total = sum(n for n, _ in counts)
    return f"{total} other file{'s' * (total != 1)}: {', '.join(f'{n} {kind}' for n, kind in counts)}" if counts else ""
