"""What all writers of virtual patients share: a folder marked with how it was made, and files that appear whole."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.data.virtual.geometry import Grid
from common.data.virtual.patient import SHAPE, SPACING, virtual_labels
from common.io.output_folder import atomic_path, csv_text
from common.io.parallel import Failure, map_cases

STAMP = "virtual.json"
VERSION = 2  # of the generator; raise it when the same seed gives other voxels
XRAY_VERSION = 3  # raise it when the same seed gives another image, other labels or another text
_MORE_VERSIONS = {"ct_rate": {"reports": 1}} | {
    layout: {"xray": XRAY_VERSION} for layout in ("mimic_cxr", "open_i", "r2gen", "texts")
}
_OWNED = {
    "nifti": ("images", "regions", "lesions", "labels.csv"),
    "dicom": ("dicom", "labels.csv"),
    "ct_rate": ("dataset",),
    "mimic_cxr": ("files", "truth", "mimic-iv", "mimic-iv-ed", "mimic_cxr_sectioned.csv"),
    "open_i": ("images", "truth", "indiana_reports.csv", "indiana_projections.csv"),
    "texts": ("reports.csv",),
    "r2gen": ("images", "truth", "annotation.json"),
}
"""Layout -> what its writer makes in the folder."""


@dataclass(frozen=True)
class Cohort:
    """Which virtual patients are made.

    Attributes:
        n: how many (CT-RATE: how many scans).
        seed: of the first patient; patient i has the seed ``seed + i``.
        shape: voxels along (z, y, x) of the CT, also of one that is X-rayed.
        spacing: millimetres along (z, y, x) of the CT.

    Raises:
        ValueError: if one of them is not usable.
    """

    n: int
    seed: int = 0
    shape: Sequence[int] = SHAPE
    spacing: Sequence[float] = SPACING

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or int(self.n) != self.n or self.n < 1:
            raise ValueError(f"n {self.n} is not a whole number of at least 1.")
        virtual_labels(self.seed)
        Grid.fit(self.shape, self.spacing)

    @property
    def seeds(self) -> range:
        """The seeds of the patients."""
        return range(self.seed, self.seed + self.n)

    def stamp(self, layout: str) -> dict[str, Any]:
        """Everything that decides what is written in a layout, as it stands in virtual.json."""
        grid = Grid.fit(self.shape, self.spacing)
        wanted = {"layout": layout, "version": VERSION, "n": int(self.n), "seed": int(self.seed)}
        return wanted | {"shape": list(grid.shape), "spacing": list(grid.spacing)} | _MORE_VERSIONS.get(layout, {})


def claim(output_dir: str | os.PathLike[str], layout: str, cohort: Cohort) -> Path:
    """Create a folder and mark it with what is to be written there, and return its path.

    Raises:
        FileExistsError: if the folder holds something else.
    """
    out, wanted = Path(output_dir), cohort.stamp(layout)
    stamp = out / STAMP
    if stamp.exists():
        try:
            found = json.loads(stamp.read_text(encoding="utf-8"))
        except ValueError:
            found = "unreadable"
        if found != wanted:
            raise FileExistsError(f"{out} holds virtual patients made with {found}, expected {wanted} or a new folder.")
    else:
        for name in _OWNED[layout]:
            if (out / name).exists():
                raise FileExistsError(f"{out / name} was not written by this command, expected a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(stamp) as part:
            part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    return out


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, lines ended by a newline, None left blank; a name that ends in .gz is packed."""
    text = csv_text(columns, list(rows)).encode()
    with atomic_path(path) as part:
        # Neither the time nor the name is stored, so the same table is the same bytes.
        part.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def for_each(
    make: Callable[..., Any], items: Sequence[Any], workers: int, layout: str, unit: str, **shared: Any
) -> list[Any]:
    """Call ``make(item, **shared)`` for every item, in several processes, and show how far it is.

    Raises:
        RuntimeError: if the process of an item died every time.
    """
    with tqdm(total=len(items), desc=layout, unit=unit) as bar:
        results = map_cases(partial(make, **shared), items, workers, on_done=bar.update)
    for item, result in zip(items, results, strict=True):
        if isinstance(result, Failure):
            raise RuntimeError(f"{unit} {item}: {result.reason}")
    return results


def virtual_uid(*parts: object) -> str:
    """Return a DICOM UID that depends on ``parts`` only."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
