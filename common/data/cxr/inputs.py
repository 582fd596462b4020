"""What `predict` takes for a chest X-ray: one image, a folder of them, or a prepared folder with notes and values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.case_list import CaseList
from common.data.case_names import file_name, unique_names, unique_texts
from common.data.cxr.cases import FRONTAL, clinical_values, read_cxr_cases
from common.data.cxr.listing import XRAY_KINDS, XRAY_SUFFIXES
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.folder_files import PICTURES, check_regular, file_kind, other_kind, others_text, walk_files
from common.data.manifest import read_manifest
from common.io.bad_input import BadInput, read_text
from common.io.table import is_table, iter_rows, plain_id, read_columns

__all__ = ["xray_cases"]

_NOTE = ".txt"
_OTHER_PICTURES = (".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".heic")


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
        excluded = _other_views(path, split, views)
        cases = _prepared(path, labels, split, views, excluded)
        named = zip(cases, unique_texts([case["case"] for case in cases]), strict=True)
        return CaseList([case | {"case": name} for case, name in named], excluded)
    if not path.exists():
        raise BadInput(path, "does not exist, expected an X-ray or a folder of them")
    problems: list[BadInput] = []
    other: Counter[str] = Counter()
    images: dict[str, str | None]
    is_note = path.suffix.lower() == _NOTE
    if (is_note or is_table(path)) and path.is_file():
        if (note if is_note else clinical) is not None:
            raise BadInput(path, f"is given beside --{'note' if is_note else 'clinical'}, expected one of the two")
        note, clinical = (path, clinical) if is_note else (note, path)
        images = {path.stem: None} if is_note else {}
    else:
        images = _images(path, problems, other)
    values, refused = ({}, {}) if clinical is None else _values(Path(clinical), list(images) or None, problems)
    images = images or dict.fromkeys([*values, *refused])
    values = {name: row for name, row in values.items() if not np.isnan(row).all()}
    if note is not None and len(images) > 1:
        raise BadInput(path, f"holds {len(images)} cases for one note, expected one")
    text = None if note is None else _text(note)
    text = text if text and text.strip() else None
    excluded = [{"path": str(problem.path), "reason": problem.reason} for problem in problems]
    excluded += [{"path": images[name] or name, "reason": reason} for name, reason in refused.items()]
    if len(refused) == len(images):
        raise BadInput(excluded[-1]["path"], excluded[-1]["reason"])
    unknown = np.full(len(labels), np.nan, np.float32)
    cases = (
        {"case": case, "patient": case, "study": case, "image": image, "note": text, "label": unknown,
         "clinical": values.get(name)}
        for case, (name, image) in zip(unique_texts(list(images)), images.items(), strict=True) if name not in refused
    )  # fmt: skip
    return CaseList(cases, excluded, other)


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
    path: Path,
    labels: Sequence[str],
    split: str | Sequence[str] | None,
    views: Sequence[str] | None,
    excluded: list[dict[str, str]],
) -> list[dict[str, Any]]:
    columns = read_columns(path / "manifest.csv")
    known = [name for name in labels if name in columns]
    cases = read_cxr_cases(path, split, known, views, excluded=excluded)
    for case in cases:
        values = dict(zip(known, case["label"], strict=True))
        case["label"] = np.array([values.get(name, np.nan) for name in labels], np.float32)
    return cases


def _images(path: Path, problems: list[BadInput], other: Counter[str]) -> dict[str, str | None]:
    """Case -> X-ray."""
    if not path.is_dir():
        check_regular(path)
    files = sorted(_xrays(path, problems, other)) if path.is_dir() else [path]
    if not files:
        if problems:
            raise problems[0]
        held = f" ({others_text(other)})" if others_text(other) else ""
        raise BadInput(path, f"holds no X-ray{held}, expected PNG, JPEG or DICOM images")
    # A name without such an ending may hold dots, as the UID of a DICOM image does.
    names = unique_names(files, path, lambda file: file.stem if file.suffix.lower() in XRAY_SUFFIXES else file.name)
    return {name: str(file) for name, file in zip(names, files, strict=True)}


def _xrays(folder: Path, problems: list[BadInput], other: Counter[str]) -> Iterator[Path]:
    """The X-rays of a folder, by name or by content; other pictures are problems, and other files are counted."""
    for file in walk_files(folder, problems, other):
        suffix = file.suffix.lower()
        try:
            kind = "" if suffix in XRAY_SUFFIXES else file_kind(file)
        except BadInput as problem:
            problems.append(problem)
            continue
        if suffix in XRAY_SUFFIXES or kind in XRAY_KINDS:
            yield file
        elif kind in PICTURES or suffix in _OTHER_PICTURES:
            problems.append(BadInput(file, f"is {kind or suffix}, expected a PNG, JPEG or DICOM image"))
        elif kind == "empty" and other_kind(file) == "without ending":
            problems.append(BadInput(file, "is an empty file (0 bytes), expected an image"))
        else:
            other["DICOMDIR" if kind == "dicomdir" else other_kind(file)] += 1


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


def _values(
    path: Path, names: Sequence[str] | None, problems: list[BadInput]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Case -> values, and case -> why its row cannot be used; without names every row may be a case.

    Rows that are about no case are `problems`.
    """
    unknown = [name for name in read_columns(path) if name not in ("case", *CLINICAL_COLUMNS)]
    if unknown:
        expected = f"case and some of {', '.join(CLINICAL_COLUMNS)}"
        raise BadInput(path, f"has the column {unknown[0]!r}, expected {expected}")
    found: dict[str, np.ndarray] = {}
    refused: dict[str, str] = {}
    for row in iter_rows(path, ["case"]):
        if isinstance(row, BadInput):
            problems.append(row)
            continue
        line, cells = row
        forms = (cells["case"], plain_id(cells["case"]), file_name(cells["case"]))
        case = next((form for form in forms if names is None or form in names), cells["case"])
        if not case.strip():
            problems.append(BadInput(path, f"line {line} has no case, expected a name"))
        elif names is not None and case not in names:
            expected = f"expected one of {', '.join(names[:3])}"
            problems.append(BadInput(path, f"line {line} is about {case!r}, {expected}"))
        elif case in found or case in refused:
            refused[case] = f"has two rows in {path.name}, the second in line {line}, expected one row for each case"
        else:
            try:
                found[case] = clinical_values(path, line, cells)
            except BadInput as problem:
                refused[case] = f"{problem.reason} ({path.name})"
    if not found and not refused:
        raise problems[0] if problems else BadInput(path, "holds no row, expected one for each case")
    return found, refused
