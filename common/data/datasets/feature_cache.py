"""Outputs of frozen networks on disk, computed once per weights, input and transform.

Layout of a cache folder:

    entries/ab/abcd....safetensors   one entry per key; its metadata holds the key in words and a checksum
    entries/ab/abcd....damaged       one that was found damaged, until it is computed again
    locks/abcd....lock               exists while somebody computes that entry
    file_hashes/....json             SHA-256 of files already hashed, by path, size and times
    tmp/                             files being written

Several processes may share a folder. An entry appears whole or not at all (written to `tmp/`, synced, renamed), and
a lock makes one process compute while the others wait. Entries may disappear at any time when another process makes
room, hence the `suppress(FileNotFoundError)`. The cache never holds the only copy of anything: an entry that
cannot be read is computed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError
from torch import Tensor

from common.io.output_folder import atomic_path

__all__ = ["FeatureCache", "FeatureKey", "hash_array", "tensor_checksum"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
# A file changed twice within one clock tick keeps its size and time, so a fresh file's hash is not remembered.
_SETTLED_NS = 2_000_000_000
_DAMAGED = ".damaged"
_ABANDONED_SECONDS = 24 * 3600


class FeatureKey(NamedTuple):
    """What the output of a frozen network depends on; a change in any part is another entry.

    Attributes:
        weights: hash of the network's weights (`common.networks.weights.weights_hash`).
        input: hash of the input (`hash_array`, `FeatureCache.hash_file`).
        transform: everything else that changes the output (preprocessing, dtype, layer, settings that are not weights),
            as JSON types: str, int, float, bool, None, lists and dicts with str keys.
    """

    weights: str
    input: str
    transform: Any

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the three parts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The key in words, the same for equal keys.

        Raises:
            TypeError: if a hash is not a string or the transform is not made of JSON types.
        """
        if not (isinstance(self.weights, str) and isinstance(self.input, str)):
            raise TypeError(
                f"weights and input of a FeatureKey are hashes (str), got {self.weights!r}, {self.input!r}."
            )
        try:
            return json.dumps(self._asdict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the transform of a FeatureKey must be made of JSON types: {error}.") from error


class FeatureCache:
    """A folder of cached outputs.

    Instances hold no open files, so they can be copied to data loader workers; counters are per instance.

    Args:
        root: the folder, made if missing.
        max_bytes: remove the least recently used entries when the entries exceed this; None for no limit. Entries being
            read stay, and so does the newest. Additions of other processes are noticed with a delay of 5 %.

    Attributes:
        hits: outputs read from disk.
        misses: outputs computed.
    """

    def __init__(self, root: str | Path, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes <= 0:
            raise ValueError(f"max_bytes must be positive or None, got {max_bytes}.")
        self.root = Path(root)
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._known_bytes: int | None = None  # size at the last scan
        self._added_bytes = 0  # written by this instance since
        for folder in ("entries", "locks", "file_hashes", "tmp"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for leftover in (self.root / "tmp").iterdir():  # by processes that were killed while writing
            with suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                    leftover.unlink()

    def get_or_compute(
        self, key: FeatureKey | tuple[str, str, Any], fn: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The cached output for `key`, or `fn()` stored under it.

        Args:
            key: a `FeatureKey` or its three parts.
            fn: computes the output, a dict of tensors; called by at most one process at a time per key. It must not ask
                for the same key itself.

        Returns:
            Plain CPU tensors without gradient, the same on a hit as on a miss.

        Raises:
            TypeError: if the key is malformed or `fn` does not return a dict of tensors.
        """
        key = FeatureKey(*key)
        found = self.get(key)
        if found is not None:
            return found
        with _exclusive(self.root / "locks" / f"{key.digest()}.lock"):
            found = self.get(key)  # another process may have computed it while this one waited
            if found is not None:
                return found
            tensors = _plain(fn())
            self.misses += 1
            self._put(key, tensors)
        return tensors

    def get(self, key: FeatureKey | tuple[str, str, Any] | str) -> dict[str, Tensor] | None:
        """The cached output for `key` or its digest, or None if there is none that can be read."""
        digest = key if isinstance(key, str) else FeatureKey(*key).digest()
        path = self._path(digest)
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # eviction skips entries that are being read
                tensors = _parse(file.read(), digest)
        except FileNotFoundError:
            return None
        except _CorruptEntryError as error:
            logger.warning("Cache entry %s is damaged (%s) and is computed again.", path, error)
            with suppress(FileNotFoundError):
                path.replace(path.with_suffix(_DAMAGED))
            return None
        with suppress(FileNotFoundError):
            os.utime(path, (time.time(), path.stat().st_mtime))  # set by hand: mounts often do not record access
        self.hits += 1
        return tensors

    def was_damaged(self, digest: str) -> bool:
        """Whether an entry was found damaged and has not been computed again since."""
        return self._path(digest).with_suffix(_DAMAGED).is_file()

    def size_bytes(self) -> int:
        """Bytes of all entries on disk."""
        return sum(size for _, size, _ in self._scan())

    def hash_file(self, path: str | Path) -> str:
        """SHA-256 of a file's bytes, or of the names and bytes of all files below a folder (a DICOM series).

        A file is read once: its hash is remembered in the cache folder, never beside the file, as long as path, size
        and times stay.

        Raises:
            FileNotFoundError: if there is no such file or folder.
        """
        path = Path(path).resolve()
        if path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()}\n{self.hash_file(file)}\n".encode())
            return digest.hexdigest()
        status = path.stat()
        identity = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        identity["ctime_ns"] = status.st_ctime_ns  # a copy in its place may keep the other two
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        memo = self.root / "file_hashes" / f"{name}.json"
        if memo.is_file():
            with suppress(ValueError, LookupError, TypeError):  # a damaged one is none; another hash is another entry
                return json.loads(memo.read_text())["sha256"]
        with open(path, "rb") as file:
            result = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
            # Without the path, which may name the patient.
            self._write(memo, json.dumps({"sha256": result}).encode())
        return result

    # ---- storage ------------------------------------------------------------------------------------------------

    def _path(self, digest: str) -> Path:
        return self.root / "entries" / digest[:2] / f"{digest}.safetensors"

    def _scan(self) -> list[tuple[Path, int, float]]:
        """Path, size and time of last use of every entry."""
        found = []
        for path in (self.root / "entries").glob("??/*.safetensors"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((path, status.st_size, status.st_atime))
        return found

    def _put(self, key: FeatureKey, tensors: dict[str, Tensor]) -> None:
        data = safetensors.torch.save(tensors, metadata={"key": key.to_json(), "checksum": tensor_checksum(tensors)})
        path = self._path(key.digest())
        if self.max_bytes is not None and len(data) > self.max_bytes:
            logger.warning("An output of %d bytes is not cached: the limit is %d bytes.", len(data), self.max_bytes)
            return
        self._write(path, data)
        path.with_suffix(_DAMAGED).unlink(missing_ok=True)
        self._added_bytes += len(data)
        if self.max_bytes is not None:
            self._make_room(newest=path)

    def _write(self, path: Path, data: bytes) -> None:
        """Write so that `path` holds all of `data` or is not touched, even if the machine stops."""
        with atomic_path(path, sync=True, folder=self.root / "tmp") as part:
            part.write_bytes(data)

    def _make_room(self, newest: Path) -> None:
        unsure = self._known_bytes is None or self._added_bytes > self.max_bytes / 20
        if not unsure and self._known_bytes + self._added_bytes <= self.max_bytes:
            return
        with _exclusive(self.root / "locks" / "eviction.lock"):
            entries = sorted(self._scan(), key=lambda entry: entry[2])
            total = sum(size for _, size, _ in entries)
            for path, size, _ in entries:
                if total <= self.max_bytes:
                    break
                if path != newest and _remove_unless_read(path):
                    total -= size
        self._known_bytes, self._added_bytes = total, 0


def hash_array(array: np.ndarray | Tensor) -> str:
    """SHA-256 over dtype, shape and values; equal for a NumPy array and a tensor of the same content.

    Metadata (an affine on a MONAI `MetaTensor`) does not count: name it in the transform if the output depends on it.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array
    tensor = tensor.detach().cpu().as_subclass(torch.Tensor).contiguous()
    shape = tuple(array.shape)  # NumPy makes at least one dimension above
    digest = hashlib.sha256(f"{str(tensor.dtype).removeprefix('torch.')}|{shape}\n".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _CorruptEntryError(ValueError):
    """The bytes of an entry are not what was written."""


def _plain(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Own contiguous CPU copies, as safetensors stores them."""
    if not isinstance(output, Mapping) or not all(isinstance(value, Tensor) for value in output.values()):
        raise TypeError(f"the function must return a dict of tensors, got {type(output).__name__}: {output!r:.100}.")
    return {
        name: value.detach().cpu().as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
        for name, value in output.items()
    }


def tensor_checksum(tensors: Mapping[str, Tensor], other: str = "", shapes: bool = True) -> str:
    """CRC-32 of some tensors, their names, dtypes and shapes, and of a text that belongs to them."""
    crc = zlib.crc32(other.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        text = f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n" if shapes else name
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), zlib.crc32(text.encode(), crc))
    return str(crc)


def _parse(data: bytes, digest: str) -> dict[str, Tensor]:
    """The tensors of an entry, if it is intact and belongs to the key of this digest."""
    try:
        tensors = safetensors.torch.load(data)
        # safetensors: 8 bytes with the length of a JSON header, the header, the tensors.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, RuntimeError, LookupError) as error:
        raise _CorruptEntryError(str(error)) from error
    metadata = header.get("__metadata__", {})
    written = {"checksum": tensor_checksum(tensors)}
    if "crc32" in metadata:  # entries of before said nothing of dtypes and shapes
        written = {"crc32": tensor_checksum(tensors, shapes=False)}
    if metadata != {"key": metadata.get("key")} | written:
        raise _CorruptEntryError("checksum differs")
    if hashlib.sha256(metadata["key"].encode()).hexdigest() != digest:
        raise _CorruptEntryError("stored under another key")
    return tensors


def _remove_unless_read(path: Path) -> bool:
    """Remove an entry, unless somebody holds it open for reading."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
        return True
    return False


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file that exists only while it is held or waited for."""
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink()  # who waits for it notices, and takes a new one
