"""Decoded CTs as memory-mapped arrays, so that a patch costs a few pages of disk and not a whole volume."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from common.data.ct.reader import input_files, read_ct
from common.data.ct.volume import axial_axes
from common.io.output_folder import atomic_path

__all__ = ["VolumeStore"]


class VolumeStore:
    """A folder with one `.npy` per CT: (D, H, W) int16 HU, D the slice axis, decoded once.

    Entries are found by path, size and modification time of the input, so a changed CT is decoded again. Several
    processes may share a folder: files appear whole. Instances hold no open files and can go to data loader workers.

    Args:
        root: the folder, made if missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
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
        stored = self._file(path)
        if not stored.is_file():
            volume = read_ct(path)
            hu = volume.hu.transpose(axial_axes(volume.affine))
            with atomic_path(stored) as part:
                np.save(part, np.ascontiguousarray(np.rint(hu).astype(np.int16)))
        return np.load(stored, mmap_mode="r")

    def _file(self, path: Path) -> Path:
        files = input_files(path) if path.exists() else []
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest = hashlib.sha256(json.dumps([str(path), facts]).encode()).hexdigest()
        return self.root / f"{digest[:32]}.npy"
