"""Write into an output folder so that a run may be killed at any moment, and so that only one run writes at a time."""

from __future__ import annotations

import _thread
import csv
import errno
import functools
import hashlib
import inspect
import io
import os
import secrets
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, TypeVar

from filelock import FileLock, Timeout

from common.io.bad_input import BadInput, DiskFailure
from common.io.inputs import refuse_input

F = TypeVar("F", bound=Callable[..., Any])
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HARDLY_ANYTHING = 1 << 16  # bytes that are left on a disk where a library says no more than that it cannot write
_TOUCH_SECONDS, _LOOK_SECONDS, _LOOKS = 5.0, 1.0, 30


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


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed within `atomic_path` left below a folder that nobody else writes now."""
    for part in sorted(folder.rglob(".part????????_*")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path, sync: bool = False, folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path``, a file or folder to be, that takes its name when the block succeeds.

    Args:
        path: what is written; its folder is created. A folder replaces one of the same name.
        sync: wait until the file is on the disk, so that it outlasts a machine that stops.
        folder: where the temporary file lies instead, on the same disk.

    Raises:
        BadInput: if it is an input of what is running, see `common.io.inputs`.
        DiskFailure: naming the path, if the disk is full or fails; nothing new is left on it.
    """
    refuse_input(path)
    part = (folder or path.parent) / f".part{secrets.token_hex(4)}_{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if sync:
            _wait_for_disk(part)
        if part.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
        if sync:
            _wait_for_disk(path.parent)  # the name
    except Exception as error:
        reason = _failure_of_disk(error, part.parent)
        if reason is None:
            raise
        raise DiskFailure(path, reason) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def named_if_disk_fails(path: Path) -> Iterator[None]:
    """Raise a DiskFailure that names ``path``, which the block adds something to, if the disk is full or fails."""
    try:
        yield
    except OSError as error:
        reason = _failure_of_disk(error, path.parent)
        if reason is None:
            raise
        raise DiskFailure(path, reason) from error


def _failure_of_disk(error: BaseException | None, folder: Path) -> str | None:
    """Why something could not be written, if that is what an error says; libraries hide it in errors of their own."""
    while error is not None:
        if isinstance(error, BadInput | DiskFailure):
            return None
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return f"cannot be written ({os.strerror(error.errno)}), expected room for it"
        if isinstance(error, OSError) and error.errno == errno.EIO and error.filename is None:
            return f"cannot be written ({os.strerror(error.errno)})"
        error = error.__cause__ or error.__context__
    if folder.is_dir() and shutil.disk_usage(folder).free < _HARDLY_ANYTHING:
        return f"cannot be written ({os.strerror(errno.ENOSPC)}), expected room for it"
    return None


@contextmanager
def atomic_text(path: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that takes the name ``path`` when the block succeeds; lines end as they are written."""
    # A file name that is no UTF-8 goes out as the bytes it came in.
    with atomic_path(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
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
    """Hold OUT/.lock, which names the process and machine that write the folder; a process that dies lets go of it.

    The file is there for as long as it is held.

    Between processes of one machine the system keeps the lock. Not every file system that machines share does so for
    them: there the holder touches the file every few seconds, and another machine believes a lock that is touched
    while it looks. No clocks are compared.

    Args:
        out: the folder, created.
        waiting: what to print before waiting for another process that holds it; None refuses the folder instead.

    Raises:
        BadInput: if another run holds it.
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    path = out / ".lock"
    lock = FileLock(path)
    owner = _acquire(lock, path)
    if owner is not None and waiting is None:
        raise BadInput(out, f"is being written by {owner}, expected one run per output folder")
    if owner is not None:
        print(waiting, flush=True)
    while owner is not None:
        time.sleep(_LOOK_SECONDS)
        owner = _acquire(lock, path)
    mine = f"{os.getpid()} {socket.gethostname()} {_machine()}"
    ended = threading.Event()
    try:
        with named_if_disk_fails(path):
            path.write_text(mine, encoding="utf-8")
        threading.Thread(target=_touch, args=(path, mine, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        if _read(path) == mine:
            path.unlink()  # who waits for it notices, and takes a new one
        lock.release()
        if is_new and not any(out.iterdir()):  # nothing came of it
            out.rmdir()


def locks(argument: str) -> Callable[[F], F]:
    """Let a function hold the output folder that this argument names for as long as it runs, see `locked`."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def holding(*args: Any, **kwargs: Any) -> Any:
            with locked(Path(signature.bind(*args, **kwargs).arguments[argument])):
                return function(*args, **kwargs)

        return holding

    return decorate


def _acquire(lock: FileLock, path: Path) -> str | None:
    """Take the lock, or say who holds it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _who(_read(path))
    there = _read(path)
    if not _is_held_elsewhere(path, there):
        return None
    lock.release()
    return _who(there)


def _who(there: str) -> str:
    if not there:
        return "another process"
    process, host, *_ = *there.split(), "", ""
    return f"process {process}" + (f" on {host}" if host else "")


def _is_held_elsewhere(path: Path, there: str) -> bool:
    """Whether another machine holds a lock that this one was given: by watching, for half a minute if nothing moves."""
    if len(words := there.split()) < 3 or words[2] == _machine():
        return False
    looks, before = 0, _touched(path)
    while looks < _LOOKS:
        begin = time.monotonic()
        time.sleep(_LOOK_SECONDS)
        if _read(path) != there or _touched(path) != before:
            return bool(_read(path))
        # Where the file system did not answer, the holder could not touch the file either.
        looks = looks + 1 if time.monotonic() - begin < 3 * _LOOK_SECONDS else 0
    print(f"{path.parent}: {_who(there)} has not touched its lock and is taken for dead", flush=True)
    return False


def _touch(path: Path, mine: str, ended: threading.Event) -> None:
    """Show that the holder lives; end it if another one has taken the lock, as after this machine stood still."""
    while not ended.wait(_TOUCH_SECONDS):
        with suppress(OSError):
            if (there := _read(path)) not in (mine, "") and not ended.is_set():
                print(f"{path.parent}: {_who(there)} has taken this run for dead and writes the folder", flush=True)
                _thread.interrupt_main()
                return
            os.utime(path)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _touched(path: Path) -> int:
    with path.open("rb") as file:  # opening it lets NFS ask the server
        return os.fstat(file.fileno()).st_mtime_ns


@functools.cache
def _machine() -> str:
    """The same for all processes whose locks one kernel keeps."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else f"{uuid.getnode():x}"
