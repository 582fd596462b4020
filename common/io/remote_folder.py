"""Folders in object storage (gs://, s3://, whatever fsspec opens) as local ones: fetched before use, uploaded after.

    folder = fetch("gs://bucket/prepared")                  # a second call fetches what has changed
    with working_copy("gs://bucket/run") as folder:         # has what is there already
        ...; publish(folder)                                # uploads what has changed since

A copy has the size and the modification time of its original, as with `rsync -t`, so no list of versions is kept. The
copies lie in `common.io.output_folder.cache_folder()` (~/.cache/thorax-bundles), which is safe to delete between runs.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, cache_folder, locked
from common.io.remote_store import Remote, is_url, list_remote, remote_file

__all__ = ["fetch", "fetch_files", "is_url", "publish", "remote_facts", "to_url", "working_copy"]

_BAR = {"max_workers": 16, "tqdm_class": tqdm, "unit": "file", "delay": 1, "leave": False}
_MARKS = ("finished.json", "iteration_*.pt")  # say that what is beside them is complete, so they are uploaded last
_TABLES = ("manifest.csv", "excluded.csv")  # name files, by paths of this machine
_Stat = tuple[int, int]

_open: list[_WorkingCopy] = []


def fetch(url: str, required: bool = True) -> Path:
    """The local copy of a folder or file, brought up to date: changed files are fetched, vanished ones removed.

    Processes of one machine that fetch the same do so one after the other.

    Args:
        url: of the folder or file.
        required: whether it must exist; else the copy may be an empty folder.

    Raises:
        BadInput: naming the URL, if there is nothing or it cannot be read.
    """
    place = _place(url, "read")
    with FileLock(_locks(place) / "reading"):
        there = _mirror(url, place, required)
        if not there:
            place.mkdir(parents=True, exist_ok=True)
    return place


def fetch_files(urls: Iterable[str]) -> dict[str, Path]:
    """The local copies of single files, those of a manifest for instance; each is looked at anew by every call.

    Raises:
        BadInput: naming the first URL that cannot be read.
    """
    names = sorted(set(urls))
    places = [_place(url, "read") for url in names]
    facts = remote_facts(names)
    stale = [(facts[url], place) for url, place in zip(names, places, strict=True) if _stat(place) != facts[url].stat]
    _download(stale, "files")
    return dict(zip(names, places, strict=True))


def remote_facts(urls: Iterable[str]) -> dict[str, Remote]:
    """Size and modification time of files, without fetching them.

    Raises:
        BadInput: naming the first URL that cannot be read.
    """
    names = sorted(set(urls))
    return dict(zip(names, thread_map(remote_file, names, desc="look at files", **_BAR), strict=True))


@contextmanager
def working_copy(url: str, go_on: bool = True) -> Iterator[Path]:
    """A local folder whose content is uploaded by `publish`, and when the block ends, even by an exception.

    Nothing is deleted there but what was removed here after it had been fetched or uploaded. Temporary files, whose
    names begin with a dot, and the folder `cache` are not uploaded.

    Args:
        url: of the folder; it need not exist.
        go_on: begin with what is there, so that work goes on that was interrupted on another machine; False begins
            with an empty folder.

    Raises:
        BadInput: naming the URL, if it cannot be read or written, if another process of this machine is writing it,
            or if another machine has written a file of it in the meantime.
    """
    place, ended = _place(url, "write"), False
    Remote.at(url).again()  # a store that does not answer is noticed before the work is done
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(_locks(place)))
        except BadInput as error:
            raise BadInput(url, error.reason) from error
        if not go_on and place.is_dir():
            shutil.rmtree(place)
        there = _mirror(url, place, required=False) if go_on else {}
        place.mkdir(parents=True, exist_ok=True)
        copy = _WorkingCopy(url, place, {name: (remote.stat, remote) for name, remote in there.items()})
        _open.append(copy)
        try:
            yield place
            ended = True
            copy.publish()
        except BaseException:
            if not ended:
                with suppress(BadInput):  # the first reason is the one to tell
                    copy.publish()
            raise
        finally:
            _open.remove(copy)


def publish(path: str | os.PathLike[str]) -> None:
    """Upload what has changed, if the path lies in a working copy; a path that stands for no URL is left alone.

    Raises:
        BadInput: as `working_copy`.
    """
    for copy in _open:
        if Path(path).resolve().is_relative_to(copy.place):
            copy.publish()


def to_url(value: Any) -> Any:
    """A text, or all texts in lists and dicts, with URLs in place of the local copies that stand for them."""
    if isinstance(value, dict):
        return {key: to_url(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_url(item) for item in value)
    if isinstance(value, str):
        return re.sub(
            rf"{re.escape(str(cache_folder()))}/(?:read|write)/([^/\s]+)/(_/)?",
            lambda found: f"{found[1]}://{'/' if found[2] else ''}",
            value,
        )
    return value


# ---- working copies ----------------------------------------------------------------------------------------------


@dataclass
class _WorkingCopy:
    """A local folder and what is known of its original: name -> (stat of the local file, the remote one)."""

    url: str
    place: Path
    known: dict[str, tuple[_Stat, Remote]] = field(default_factory=dict)

    def publish(self) -> None:
        here = {name: stat for name, stat in _files(self.place).items() if not _stays_here(name)}
        changed = [name for name, stat in here.items() if name not in self.known or self.known[name][0] != stat]
        marks = [name for name in changed if any(fnmatch(Path(name).name, mark) for mark in _MARKS)]
        thread_map(self._upload, [name for name in changed if name not in marks], desc=f"upload to {self.url}", **_BAR)
        for name in sorted(marks, key=lambda name: here[name][1]):
            self._upload(name)
        for name in [name for name in self.known if name not in here]:
            self._check(name)
            self.known.pop(name)[1].remove()

    def _upload(self, name: str) -> None:
        local = self.place / name
        before = _stat(local)
        self._check(name)
        target = Remote.at(f"{self.url.rstrip('/')}/{name}")
        if local.name in _TABLES:
            with tempfile.TemporaryDirectory() as folder:
                table = Path(folder) / local.name
                table.write_text(self._portable(local), encoding="utf-8", newline="")
                remote = target.upload(table)
        else:
            remote = target.upload(local)
        if _stat(local) == before:  # a log may have grown, and is uploaded again
            os.utime(local, ns=(remote.modified, remote.modified))
            before = _stat(local)
        self.known[name] = (before, remote)

    def _portable(self, table: Path) -> str:
        """A table whose paths are relative to it, or URLs, so that it can be used on another machine."""
        with table.open(encoding="utf-8", newline="") as file:
            return to_url(file.read().replace(f"{table.parent}{os.sep}", ""))

    def _check(self, name: str) -> None:
        """Raise a BadInput if somebody else has changed the file since this run read or wrote it."""
        if name in self.known:
            then, now = self.known[name][1], self.known[name][1].again()
            if now is not None and now.stat != then.stat:
                raise BadInput(then.url, "was changed by another run, expected one run per output folder")


# ---- copies ------------------------------------------------------------------------------------------------------


def _place(url: str, kind: str) -> Path:
    """Where the local copy of a URL lies; what is read and what is written are kept apart. `to_url` turns it back."""
    protocol, _, path = url.partition("://")
    parts = [part for part in path.split("/") if part]
    if not parts or ".." in parts:
        raise BadInput(url, "names no folder or file, expected PROTOCOL://BUCKET/PATH")
    return cache_folder().joinpath(kind, protocol, *(["_"] if path.startswith("/") else []), *parts)


def _locks(place: Path) -> Path:
    """A folder for the locks of a local copy."""
    folder = cache_folder() / "locks" / sha256(str(place).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mirror(url: str, place: Path, required: bool) -> dict[str, Remote]:
    """Make the local copy equal to the original; gives the listing, name -> file ("" if the URL is a file)."""
    there = list_remote(url)
    if not there and required:
        raise BadInput(url, "does not exist, expected a file or a folder with files")
    here = _files(place)
    for name in here:
        if name not in there and not _stays_here(name):
            (place / name).unlink()
    if "" in there and place.is_dir():
        shutil.rmtree(place)
    elif "" not in there and place.is_file():
        place.unlink()
    stale = [(remote, place / name if name else place) for name, remote in there.items()]
    for remote, local in stale:
        if ".." in local.parts:
            raise BadInput(remote.url, "has a name that leaves the folder, expected one below it")
    _download([(remote, local) for remote, local in stale if _stat(local) != remote.stat], url)
    return there


def _download(files: Sequence[tuple[Remote, Path]], what: str) -> None:
    def one(item: tuple[Remote, Path]) -> None:
        remote, local = item
        with atomic_path(local) as part:
            remote.download(part)
            os.utime(part, ns=(remote.modified, remote.modified))

    thread_map(one, files, desc=f"fetch {what}", **_BAR)


def _files(folder: Path) -> dict[str, _Stat]:
    """Name below the folder -> stat, of all files."""
    paths = folder.rglob("*") if folder.is_dir() else ()
    found = {path.relative_to(folder).as_posix(): _stat(path) for path in paths if not path.is_dir()}
    return {name: stat for name, stat in found.items() if stat is not None}


def _stat(path: Path) -> _Stat | None:
    """Size and modification time, in whole microseconds as stores have it; None if there is no such file."""
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns // 1000


def _stays_here(name: str) -> bool:
    """Whether a file is of use on this machine alone: temporary, or in a run's cache, which can be made again."""
    parts = name.split("/")
    return parts[0] == "cache" or any(part.startswith(".") for part in parts)
