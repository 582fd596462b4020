"""The curriculum of a report model as its training reads it, and all steps to it in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data.curriculum.rows import CURRICULUM, check_row
from common.data.curriculum.steps import image_folder, run_steps
from common.data.curriculum.subset import read_json_lines
from common.io.bad_input import BadInput

__all__ = ["read_curriculum", "write_curriculum"]


def write_curriculum(
    source: str | os.PathLike[str], output_dir: str | os.PathLike[str], **options: Any
) -> dict[str, Any]:
    """Run all steps, see `common.data.curriculum.steps.run_steps`; what is there already is kept."""
    return run_steps(source, output_dir, "all", **options)


def read_curriculum(
    folder: str | os.PathLike[str], split: str, stage: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Rows of one split, each checked.

    Args:
        folder: that the steps wrote.
        split: "train", "val" or "test".
        stage: "a" or "b"; None gives both.
        limit: take the first so many.

    Returns:
        Rows as in the file: ``id``, ``image`` (absolute), ``conversations``, ``stage``, ``study``, ``patient``,
        ``split``, ``ehr`` (the record, None where the prompt has none), ``impression``, ``labels`` (label -> 1.0, 0.0
        or -1.0, of those mentioned) and ``icd`` (groups; empty in stage a).

    Raises:
        BadInput: if a file is missing or damaged, a row is refused by `check_row` or of another split, its patient is
            in another split as well, its image is not there, no row is left, or no row of stage b has a record.
        ValueError: for an unknown split or stage.
    """
    if split not in CURRICULUM or stage not in (None, "a", "b"):
        raise ValueError(f"split and stage are {split!r} and {stage!r}, expected train, val or test, and a, b or None")
    path = Path(os.path.abspath(folder)) / CURRICULUM[split]
    if not path.is_file():
        raise BadInput(path, "does not exist, expected what prepare mimic_cxr --step curriculum writes")
    images, rows = image_folder(path.parent), []
    patients = _patients(path.parent, [other for other in CURRICULUM if other != split])
    for number, row in enumerate(read_json_lines(path), 1):
        check_row(path, number, row)
        if row["split"] != split:
            raise BadInput(path, f"row {number} ({row['id']!r}) is of split {row['split']!r}, expected {split!r}")
        if row["patient"] in patients:
            both = f"{split} and {patients[row['patient']]}"
            raise BadInput(path, f"row {number} is of patient {row['patient']}, who is in {both}, expected one split")
        if stage in (None, row["stage"]):
            rows.append(row | {"image": str(images / row["image"])})
    if not rows:
        raise BadInput(path, f"has no row{f' of stage {stage}' if stage else ''}, expected one at least")
    if stage == "b" and all(row["ehr"] is None for row in rows):
        raise BadInput(path, "has no row of stage b with a record, expected some: MIMIC-IV beside the X-rays")
    rows = rows[:limit]
    for row in rows:
        if not Path(row["image"]).is_file():
            raise BadInput(row["image"], f"does not exist, expected the image of {row['id']!r}")
    return rows


def _patients(folder: Path, splits: Sequence[str]) -> dict[str, str]:
    """Patient -> split, of some splits."""
    files = {split: folder / CURRICULUM[split] for split in splits}
    return {str(row.get("patient")): split for split, f in files.items() if f.is_file() for row in read_json_lines(f)}
