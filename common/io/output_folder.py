"""Write into an output folder so that a run may be killed at any moment, and so that only one run writes at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from filelock import FileLock, Timeout

from common.io.bad_input import BadInput
from common.io.inputs import refuse_input


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """A table as CSV text: `columns` in order, None left blank, lines ended by a newline on every system."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(_rows_to(text), columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_writer(file: IO[str]) -> Any:
    """A writer of rows whose lines end by a newline, and whose cells may hold one, or a carriage return."""
    return csv.writer(_rows_to(file))


def _rows_to(file: IO[str]) -> Any:
    # The csv module puts quotes around what its own line ends consist of.
    return SimpleNamespace(write=lambda row: file.write(row.removesuffix("\r\n") + "\n"))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically: a reader sees the whole file or the one before it."""
    with atomic_path(path) as part:
        # A file name that is no UTF-8 goes out as the bytes it came in.
        part.write_bytes(text.encode("utf-8", "surrogateescape"))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path``, a file or folder to be, that takes its name when the block succeeds.

    Raises:
        BadInput: if it is an input of what is running, see `common.io.inputs`.
    """
    refuse_input(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part{os.getpid()}_{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that takes the name ``path`` when the block succeeds; lines end as they are written."""
    # A file name that is no UTF-8 goes out as the bytes it came in.
    with atomic_path(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on the disk, so that they outlast a machine that stops."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of the names and bytes of a folder's files."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where this user's files lie that can be made or fetched again: $THORAX_CACHE, else in the system's cache."""
    system = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "thorax-bundles"
    return Path(os.environ.get("THORAX_CACHE") or system).expanduser().resolve()


def link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file a second name, which takes no room; a copy where the file system has no hard links.

    For files that are replaced, never written into, such as those of this module: then each name has its own content.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def locked(out: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold OUT/.lock, which names the process that writes the folder; a process that dies lets go of it.

    Args:
        out: the folder.
        waiting: what to print before waiting for another process that holds it; None refuses the folder instead.

    Raises:
        BadInput: if another run holds it.
    """
    path = out / ".lock"
    lock = FileLock(path, on_acquired=_write_owner)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        if waiting is None:
            owner = path.read_text(errors="replace")
            raise BadInput(out, f"is being written by process {owner}, expected one run per output folder") from error
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        os.truncate(path, 0)
        lock.release()


def _write_owner(file: int) -> None:
    os.truncate(file, 0)
    os.write(file, str(os.getpid()).encode())
