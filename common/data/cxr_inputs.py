"""What `predict` takes for a chest X-ray: one image, a folder of them, or a prepared folder with notes and values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.bad_input import BadInput
from common.data.clinical_vector import CLINICAL_COLUMNS, plausible
from common.data.cxr_cases import FRONTAL, read_cxr_cases
from common.data.table import read_rows

__all__ = ["xray_cases"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")


def xray_cases(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    note: str | None = None,
    clinical: str | os.PathLike[str] | None = None,
    split: str | None = None,
    views: Sequence[str] | None = FRONTAL,
) -> list[dict[str, Any]]:
    """Cases to predict.

    Args:
        path: an X-ray, a folder of them, or a folder that `prepare mimic_cxr|covid|nih` wrote; a text or CSV file alone
            is a case without image.
        labels: names; a prepared folder's own labels are read where it has them.
        note: text of the note of a single case, or a file that holds it.
        clinical: CSV with a column `case` and some of `CLINICAL_COLUMNS`, a row per case.
        split: of a prepared folder; None takes all.
        views: of a prepared folder.

    Returns:
        Items as `common.data.cxr_cases.read_cxr_cases` gives them, labels all NaN where none are known; a case is named
        by its file without extension.

    Raises:
        BadInput: if there is no X-ray, two have one name, or a table is damaged.
    """
    path = Path(path)
    if (path / "manifest.csv").is_file():
        return read_cxr_cases(path, split, labels, views)
    if not path.exists():
        raise BadInput(path, "does not exist, expected an X-ray or a folder of them")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise BadInput(path, f"holds no X-ray, expected files that end in {', '.join(SUFFIXES)}")
    names = [file.stem for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(path, f"holds two X-rays named {twice!r}, expected different names")
    if note is not None and len(files) > 1:
        raise BadInput(path, f"holds {len(files)} X-rays for one note, expected one")
    text = None if note is None else Path(note).read_text(encoding="utf-8") if Path(note).is_file() else note
    values = {} if clinical is None else _values(Path(clinical), names)
    unknown = np.full(len(labels), np.nan, np.float32)
    return [
        {"case": name, "patient": name, "study": name, "image": str(file), "note": text, "label": unknown,
         "clinical": values.get(name)}
        for name, file in zip(names, files, strict=True)
    ]  # fmt: skip


def _values(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for line, row in read_rows(path, ["case"]):
        unknown = [name for name in row if name not in ("case", *CLINICAL_COLUMNS)]
        if unknown:
            raise BadInput(
                path, f"has the column {unknown[0]!r}, expected case and some of {', '.join(CLINICAL_COLUMNS)}"
            )
        if row["case"] not in names:
            raise BadInput(path, f"line {line} is about {row['case']!r}, expected one of the X-rays")
        numbers = np.full(len(CLINICAL_COLUMNS), np.nan, np.float32)
        for name, text in row.items():
            if name != "case" and text.strip():
                try:
                    value = float(text)
                except ValueError as error:
                    raise BadInput(path, f"line {line} has {name} {text!r}, expected a number") from error
                if not plausible(name, value):
                    raise BadInput(path, f"line {line} has {name} {text!r}, which no body has")
                numbers[CLINICAL_COLUMNS.index(name)] = value
        found[row["case"]] = numbers
    return found
