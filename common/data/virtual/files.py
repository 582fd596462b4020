"""What all writers of virtual patients share: a folder marked with how it was made, and files that appear whole."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.virtual.geometry import Grid
from common.data.virtual.patient import virtual_labels
from common.io.output_folder import csv_text, whole

STAMP = "virtual.json"
VERSION = 2  # of the generator; raise it when the same seed gives other voxels


def claim(
    output_dir: str | Path, layout: str, n: int, seed: int, shape: Sequence[int], spacing: Sequence[float],
    owned: Sequence[str], **more: int | str,
) -> Path:  # fmt: skip
    """Check the arguments and mark the folder with them, or refuse one that holds something else.

    Args:
        output_dir: the folder.
        layout: what is written.
        n: how many.
        seed: of the first patient.
        shape: voxels along (z, y, x).
        spacing: millimetres along (z, y, x).
        owned: what the writer will make in the folder.
        more: whatever else decides what is written.

    Returns:
        The folder.

    Raises:
        ValueError: if an argument is not usable.
        FileExistsError: if the folder holds something else.
    """
    out = Path(output_dir)
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"n {n} is not a whole number of at least 1.")
    virtual_labels(seed)
    grid = Grid.fit(shape, spacing)
    wanted = {"layout": layout, "version": VERSION, "n": int(n), "seed": int(seed)}
    wanted |= {"shape": list(grid.shape), "spacing": list(grid.spacing)} | more
    stamp = out / STAMP
    if stamp.exists():
        try:
            found = json.loads(stamp.read_text(encoding="utf-8"))
        except ValueError:
            found = "unreadable"
        if found != wanted:
            raise FileExistsError(f"{out} holds virtual patients made with {found}, expected {wanted} or a new folder.")
    else:
        for name in owned:
            if (out / name).exists():
                raise FileExistsError(f"{out / name} was not written by this command, expected a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        with whole(stamp) as part:
            part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    return out


def save_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, lines ended by a newline, None left blank; a name that ends in .gz is packed."""
    text = csv_text(columns, list(rows)).encode()
    with whole(path) as part:
        # Neither the time nor the name is stored, so the same table is the same bytes.
        part.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def virtual_uid(*parts: object) -> str:
    """Return a DICOM UID that depends on ``parts`` only."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
