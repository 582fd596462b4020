"""Decoded CTs as memory-mapped arrays, so that a patch costs a few pages of disk and not a whole volume."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common.data.ct.reader import input_files, read_ct
from common.data.ct.volume import axial_axes
from common.io.checksum import find_damage, seal
from common.io.output_folder import atomic_path

__all__ = ["VolumeStore"]

logger = logging.getLogger(__name__)


class VolumeStore:
    """A folder with one `.npy` per CT: (D, H, W) int16 HU, D the slice axis, decoded once.

    Entries are found by path, size and modification time of the input, so a changed CT is decoded again, and end with
    a checksum, which an instance looks at once. Several processes may share a folder: files appear whole. Instances
    hold no open files and can go to data loader workers.

    Args:
        root: the folder, made if missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root, self._opened, self._known = Path(root), time.time(), set[str]()
        self.root.mkdir(parents=True, exist_ok=True)

    def get(self, path: str | os.PathLike[str]) -> np.memmap:
        """The volume of a CT, read-only; decoded now if it is new.

        Args:
            path: as `common.data.ct.reader.read_ct` takes it.

        Returns:
            (D, H, W) int16 in HU, axes ordered like those of `common.transforms.ct_io.to_axial`; fractions of a HU are
            rounded.

        Raises:
            BadInput: if it is no sound CT.
        """
        path = Path(path).resolve()

        def decoded() -> np.ndarray:
            volume = read_ct(path)
            hu = volume.hu.transpose(axial_axes(volume.affine))
            return np.rint(hu).astype(np.int16)

        stored = self._file(path)
        changed = max((file.stat().st_ctime_ns for file in input_files(path)), default=0) if path.exists() else 0
        if stored.is_file() and stored.stat().st_mtime_ns < changed:  # to another content of the same size and time
            stored.unlink(missing_ok=True)
        volume = self.get_or_make(stored, decoded)
        if stored.stat().st_mtime_ns < changed:  # by a clock that is ahead
            os.utime(stored, ns=(changed, changed))
        return volume

    def get_or_make(self, stored: Path, make: Callable[[], np.ndarray]) -> np.memmap:
        """An array of this folder, read-only; made now if it is new or its checksum shows that it is damaged."""
        self._remove_damaged(stored)
        if not stored.is_file():
            with atomic_path(stored) as part:
                np.save(part, np.ascontiguousarray(make()))
                seal(part)
        return np.load(stored, mmap_mode="r")

    def check(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Look at what is stored of these CTs once for all workers that get a copy of this store."""
        for path in paths:
            self._remove_damaged(self._file(Path(path).resolve()))

    def _remove_damaged(self, stored: Path) -> None:
        """Remove a file that is not as it was written, unless it has been looked at or was written by this run."""
        if stored.name in self._known or not stored.is_file() or stored.stat().st_mtime > self._opened:
            return
        self._known.add(stored.name)
        if damage := find_damage(stored, sealed=True):
            logger.warning("%s is damaged (%s) and is made again.", stored, damage)
            stored.unlink(missing_ok=True)

    def _file(self, path: Path) -> Path:
        files = input_files(path) if path.exists() else []
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.sha256(json.dumps([str(path), facts]).encode()).hexdigest()
        return self.root / f"{digest[:32]}.npy"
