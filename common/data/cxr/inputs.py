"""What `predict` takes for a chest X-ray: one image, a folder of them, or a prepared folder with notes and values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.case_names import file_name, unique_names, unique_texts
from common.data.cxr.cases import FRONTAL, clinical_values, read_cxr_cases
from common.data.cxr.listing import XRAY_SUFFIXES
from common.data.datasets.case_loader import CaseList
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.manifest import read_manifest
from common.io.bad_input import BadInput, read_text
from common.io.table import read_columns, read_rows

__all__ = ["xray_cases"]

_NOTE, _VALUES = ".txt", ".csv"


def xray_cases(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    note: str | os.PathLike[str] | None = None,
    clinical: str | os.PathLike[str] | None = None,
    split: str | Sequence[str] | None = None,
    views: Sequence[str] | None = FRONTAL,
) -> CaseList:
    """Cases to predict.

    Args:
        path: an X-ray, a folder of them, or a folder that `prepare mimic_cxr|covid|nih` wrote. Without an X-ray: the
            note of one case (.txt), or clinical values as `clinical` (.csv), of which every row is a case.
        labels: names; a prepared folder's own labels are read, those that it has.
        note: text of the note of a single case, or a file that holds it; a blank text is no note. A prepared folder has
            its own notes and values, and none is taken beside it.
        clinical: CSV with a column `case` and some of `CLINICAL_COLUMNS`, a row per case.
        split: of a prepared folder, or several; None takes all.
        views: of a prepared folder, such as PA and AP; None takes all.

    Returns:
        Items as `common.data.cxr.cases.read_cxr_cases` gives them, a label NaN where it is not known; a case is named
        by its file without extension, told apart as in `common.data.case_names`. `excluded` lists the images of a
        prepared folder that have other views.

    Raises:
        BadInput: if there is no X-ray, a table is damaged, or a note or values are given beside a
            prepared folder.
    """
    path = Path(path)
    if (path / "manifest.csv").is_file():
        if note is not None or clinical is not None:
            raise BadInput(path, "has notes.csv and clinical.csv, expected no --note and no --clinical beside them")
        cases = _prepared(path, labels, split, views)
        named = zip(cases, unique_texts([case["case"] for case in cases]), strict=True)
        return CaseList([case | {"case": name} for case, name in named], _other_views(path, split, views))
    if not path.exists():
        raise BadInput(path, "does not exist, expected an X-ray or a folder of them")
    images: dict[str, str | None]
    if path.suffix.lower() in (_NOTE, _VALUES) and path.is_file():
        other = "note" if path.suffix.lower() == _NOTE else "clinical"
        if (note if other == "note" else clinical) is not None:
            raise BadInput(path, f"is given beside --{other}, expected one of the two")
        note, clinical = (path, clinical) if other == "note" else (note, path)
        images = dict.fromkeys([path.stem] if other == "note" else _values(path, None))
    else:
        images = _images(path)
    if note is not None and len(images) > 1:
        raise BadInput(path, f"holds {len(images)} cases for one note, expected one")
    text = None if note is None else _text(note)
    text = text if text and text.strip() else None
    values = {} if clinical is None else _values(Path(clinical), list(images))
    values = {name: row for name, row in values.items() if not np.isnan(row).all()}
    unknown = np.full(len(labels), np.nan, np.float32)
    return CaseList(
        {"case": case, "patient": case, "study": case, "image": image, "note": text, "label": unknown,
         "clinical": values.get(name)}
        for case, (name, image) in zip(unique_texts(list(images)), images.items(), strict=True)
    )  # fmt: skip


def _other_views(path: Path, split: str | Sequence[str] | None, views: Sequence[str] | None) -> list[dict[str, str]]:
    """The images of a prepared folder that are left out for their view."""
    if views is None:
        return []
    splits = [split] if isinstance(split, str) else split
    wanted, expected = {view.upper() for view in views}, f"expected {' or '.join(views)} (--views)"
    return [
        {"path": row["case"], "reason": f"has the view {row['view']!r}, {expected}"}
        for row in read_manifest(path)
        if (splits is None or row["split"] in splits) and row["view"].upper() not in wanted
    ]


def _prepared(
    path: Path, labels: Sequence[str], split: str | Sequence[str] | None, views: Sequence[str] | None
) -> list[dict[str, Any]]:
    columns = read_columns(path / "manifest.csv")
    known = [name for name in labels if name in columns]
    cases = read_cxr_cases(path, split, known, views)
    for case in cases:
        values = dict(zip(known, case["label"], strict=True))
        case["label"] = np.array([values.get(name, np.nan) for name in labels], np.float32)
    return cases


def _images(path: Path) -> dict[str, str | None]:
    """Case -> X-ray."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in XRAY_SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise BadInput(path, f"holds no X-ray, expected files that end in {', '.join(XRAY_SUFFIXES)}")
    names = unique_names(files, path, lambda file: file.stem)
    return {name: str(file) for name, file in zip(names, files, strict=True)}


def _text(note: str | os.PathLike[str]) -> str:
    """The text of a note, which is given itself or as the name of its file."""
    try:
        is_file = Path(note).is_file()
    except OSError:  # a note is longer than a name of a file may be
        is_file = False
    if not is_file:
        if str(note).endswith(".txt") and not any(letter.isspace() for letter in str(note)):
            raise BadInput(note, "does not exist, expected the file of a note, or its text")
        return str(note)
    text = read_text(note, "a note")
    if not text.strip():
        raise BadInput(note, "is empty, expected a note")
    return text


def _values(path: Path, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Case -> values; without names every row may be a case."""
    found: dict[str, np.ndarray] = {}
    for line, row in read_rows(path, ["case"]):
        unknown = [name for name in row if name not in ("case", *CLINICAL_COLUMNS)]
        if unknown:
            raise BadInput(
                path, f"has the column {unknown[0]!r}, expected case and some of {', '.join(CLINICAL_COLUMNS)}"
            )
        case = row["case"] if names is None or row["case"] in names else file_name(row["case"])
        if names is not None and case not in names:
            raise BadInput(path, f"line {line} is about {row['case']!r}, expected one of {', '.join(names[:3])}")
        if case in found:
            raise BadInput(path, f"line {line} is about {row['case']!r} again, expected one row for each case")
        found[case] = clinical_values(path, line, row)
    if not found:
        raise BadInput(path, "holds no row, expected one for each case")
    return found
