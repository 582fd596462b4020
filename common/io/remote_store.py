"""Files in object storage, one by one, through fsspec; whatever a store complains about becomes one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from common.io.bad_input import BadInput

__all__ = ["Remote", "is_url", "list_remote", "remote_file"]

_URL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory")
"""Protocols of stores in which a file appears when all of it is there; elsewhere it is written beside and renamed."""
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")
_TAGS = ("ETag", "etag", "content_md5")


def is_url(path: Any) -> bool:
    """Whether a path is a URL for fsspec (`gs://...`), not a local one."""
    return isinstance(path, str) and _URL.match(path) is not None


@dataclass(frozen=True)
class Remote:
    """A file in a store.

    Attributes:
        url: as it is told to the user.
        store: its file system.
        path: within it.
        size: bytes.
        modified: nanoseconds since 1970, to the microsecond.
    """

    url: str
    store: AbstractFileSystem
    path: str
    size: int = 0
    modified: int = 0

    @classmethod
    def at(cls, url: str) -> Remote:
        """The file at a URL, which need not exist.

        Raises:
            BadInput: if the protocol is unknown, or its package is not installed.
        """
        protocol = url.partition("://")[0]
        try:
            store, path = url_to_fs(url)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            wanted = "pip install 'thorax-bundles[remote]'" if package else str(error)
            needs = f"the package {package}" if package else "a package"
            raise BadInput(url, f"needs {needs}, which is not installed, expected {wanted}") from error
        except ValueError as error:
            known = "gs://, s3://, abfs:// or another one of fsspec"
            raise BadInput(url, f"has the unknown protocol {protocol}://, expected {known}") from error
        except Exception as error:
            raise _complaint(url, "opened", error) from error
        return cls(url, store, path)

    @property
    def stat(self) -> tuple[int, int]:
        """Size and modification time in whole microseconds, which a copy has too."""
        return self.size, self.modified // 1000

    def again(self) -> Remote | None:
        """The same file as it is now; None if it is gone."""
        with _asking(self.url, "read"):
            try:
                self.store.invalidate_cache(self.store._parent(self.path))
                facts = self.store.info(self.path)
            except FileNotFoundError:
                return None
            return None if facts["type"] == "directory" else _remote(self.url, self.store, self.path, facts)

    def download(self, to: Path) -> None:
        """Copy to a local file."""
        with _asking(self.url, "fetched"):
            self.store.get_file(self.path, str(to))

    def upload(self, source: Path) -> Remote:
        """Copy a local file there, so that nobody sees a part of it, and return the file as it is there now."""
        with _asking(self.url, "written"):
            if self.url.partition("://")[0] in _WHOLE:
                self.store.put_file(str(source), self.path)
            else:
                parent, _, name = self.path.rpartition("/")
                self.store.makedirs(parent, exist_ok=True)
                self.store.put_file(str(source), f"{parent}/.part_{name}")
                self.store.mv(f"{parent}/.part_{name}", self.path)
        now = self.again()
        if now is None:
            raise BadInput(self.url, "is gone after it was written, expected to be the only one who writes there")
        return now

    def remove(self) -> None:
        """Delete it, if it is still there."""
        with _asking(self.url, "removed"):
            if self.store.exists(self.path):
                self.store.rm_file(self.path)


def remote_file(url: str) -> Remote:
    """Size and modification time of one file.

    Raises:
        BadInput: if it does not exist or cannot be read.
    """
    found = Remote.at(url).again()
    if found is None:
        raise BadInput(url, "does not exist, expected a file")
    return found


def list_remote(url: str) -> dict[str, Remote]:
    """All files below a folder by their names relative to it, nothing if it does not exist; a file has the name "".

    Raises:
        BadInput: if it cannot be listed.
    """
    root = Remote.at(url)
    start = root.path.rstrip("/")
    with _asking(url, "listed"):
        root.store.invalidate_cache()
        found = root.store.find(start, detail=True)
    files = {}
    for path, facts in found.items():
        name = path.removeprefix(start).lstrip("/")
        if facts["type"] == "file" and not path.endswith("/"):  # some stores mark a folder by an empty file
            files[name] = _remote(f"{url.rstrip('/')}/{name}" if name else url, root.store, path, facts)
    return files


def _remote(url: str, store: AbstractFileSystem, path: str, facts: Mapping[str, Any]) -> Remote:
    return Remote(url, store, path, int(facts["size"] or 0), _modified(facts))


def _modified(facts: Mapping[str, Any]) -> int:
    """Nanoseconds; the part below a second stands for the entity tag of a store that has one.

    Such stores tell the time in seconds, or with another precision in a listing than of a single file.
    """
    value = next((facts[key] for key in _MODIFIED if facts.get(key) is not None), 0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    tag = next((str(facts[key]) for key in _TAGS if facts.get(key)), None)
    if tag is None:
        return round(float(value) * 1e6) * 1000
    part = int.from_bytes(sha256(tag.encode()).digest()[:8]) % 1_000_000
    return (int(value) * 1_000_000 + part) * 1000


@contextmanager
def _asking(url: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each store has exceptions of its own
        raise _complaint(url, what, error) from error


def _complaint(url: str, what: str, error: Exception) -> BadInput:
    text = " ".join(str(error).split())
    return BadInput(url, f"cannot be {what} ({type(error).__name__}{f': {text}' if text else ''})")
