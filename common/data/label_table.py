"""Tables with a row per case and a column per finding: labels from people or labellers, or a model's probabilities.

Columns are found by name, never by position: the CSV of MIMIC-CXR-JPG, the CheXpert labeller and CheXbert order the
same 14 findings in three ways. Ids stay strings (`000123`).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from common.io.bad_input import BadInput
from common.io.table import plain_id, read_rows
from common.text.ct_labels import CT_RATE_LABELS
from common.text.cxr_labeller import CHEXPERT_LABELS

ID_COLUMNS = (
    "case", "id", "VolumeName", "study_id", "dicom_id", "study", "uid", "filename", "AccessionNo", "Path",
)  # fmt: skip
"""Columns that name a case in the tables of this library, CT-RATE, MIMIC-CXR, Open-i, CT-CLIP and CheXpert."""
_NO_LABELS = {*ID_COLUMNS, "subject_id", "patient", "patient_id", "split", "dicom", "scan"}
_CELLS: dict[str, tuple[Callable[[float], bool], str]] = {
    "labels": (lambda x: x in (-1, 0, 1) or math.isnan(x), "1, 0, -1 (uncertain) or nothing"),
    "truth": (lambda x: x in (0, 1) or math.isnan(x), "1, 0 or nothing"),
    "probabilities": (lambda x: 0 <= x <= 1, "a probability"),
    "both": (lambda x: 0 <= x <= 1 or x == -1 or math.isnan(x), "1, 0, -1 (uncertain), a probability or nothing"),
}


def find_id_column(path: str | os.PathLike[str], columns: Sequence[str], given: str | None = None) -> str:
    """The column that names the case: `given` if the table has it, else the first of `ID_COLUMNS`, else the first one.

    Raises:
        BadInput: if that first column is a finding.
    """
    found = [name for name in columns if name == given] + [name for name in columns if name in ID_COLUMNS]
    if found:
        return found[0]
    if columns[0] in (*CHEXPERT_LABELS, *CT_RATE_LABELS):
        wanted = ", ".join(ID_COLUMNS if given is None else (given, *ID_COLUMNS))
        raise BadInput(path, f"has no column that names the case, expected one of {wanted}, or another one first")
    return columns[0]


def find_label_columns(columns: Sequence[str], id_column: str) -> list[str]:
    """The labels among the columns of a table.

    If the table has names of the CheXpert or CT-RATE findings, these; else every column but ids, patients and splits.
    """
    known = [name for name in columns if name in (*CHEXPERT_LABELS, *CT_RATE_LABELS)]
    return known or [name for name in columns if name != id_column and name not in _NO_LABELS]


def case_id(text: str) -> str:
    """An id as it is compared: a `plain_id`, without white space around it and without the ending of a NIfTI file."""
    return plain_id(re.sub(r"\.nii(\.gz)?\Z", "", text.strip()))  # CT-RATE writes VolumeName with and without


def difference_words(wanted: Iterable[str], given: Iterable[str], what: str) -> str:
    """What `given` lacks and adds, "lacks 2 cases such as 'a' and adds 1 cases such as 'z'"; "" for the same names.

    Args:
        wanted: different names.
        given: different names, in any order.
        what: they are, "cases".
    """
    wanted, given = dict.fromkeys(wanted), dict.fromkeys(given)
    lacking, more = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    said = (("lacks", lacking), ("adds", more))
    return " and ".join(f"{verb} {len(names)} {what} such as {names[0]!r}" for verb, names in said if names)


def read_label_values(
    path: str | os.PathLike[str],
    id_column: str,
    names: Sequence[str],
    cells: str = "labels",
    text_column: str | None = None,
    as_id: Callable[[str], str] = case_id,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the values of some columns.

    Args:
        path: CSV table.
        id_column: names the case.
        names: C columns.
        cells: what stands in them: "labels" are 1 (positive), 0 (negative), -1 (uncertain) or nothing (not mentioned),
            "truth" has no -1, "probabilities" are from 0 to 1 and never missing, "both" are labels or probabilities.
        text_column: another column, read as text, such as the patient.
        as_id: what an id is compared as; `str` leaves it as it is.

    Returns:
        Id -> (C,) float64, NaN where blank; and id -> `text_column`, empty without one.

    Raises:
        BadInput: if a column is missing, there is no row, an id is blank or occurs twice, a value is none of these, or
            the text is blank.
    """
    values: dict[str, np.ndarray] = {}
    texts: dict[str, str] = {}
    usable, expected = _CELLS[cells]
    for line, row in read_rows(path, [id_column, *names, *([text_column] if text_column else [])]):
        case = as_id(row[id_column])
        if not case.strip():
            raise BadInput(path, f"line {line} has no {id_column}, expected an id")
        if case in values:
            raise BadInput(path, f"line {line} has the {id_column} {case!r} again, expected each once")
        values[case] = np.array([_number(row[name]) for name in names])
        for name, value in zip(names, values[case], strict=True):
            if not usable(value):
                raise BadInput(path, f"line {line} ({case!r}) has {name} = {row[name]!r}, expected {expected}")
        if text_column:
            texts[case] = row[text_column].strip()
            if not texts[case]:
                raise BadInput(path, f"line {line} ({case!r}) has no {text_column}, expected one in every row")
    if not values:
        raise BadInput(path, "has no rows, expected one for each case")
    return values, texts


def _number(text: str) -> float:
    """NaN for a blank cell, infinity for what is no number, so that both are told apart from labels."""
    text = text.strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(value) else value
