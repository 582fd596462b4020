"""Cases of a prepared folder of X-rays: image, note, clinical values and labels of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.cxr.listing import LABEL_VALUES
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS, plausible
from common.data.ehr.mimic_tables import parse_number
from common.data.manifest import read_manifest, with_files
from common.io.bad_input import BadInput
from common.io.table import iter_rows, read_columns
from common.text.cxr_labeller import CHEXPERT_LABELS

__all__ = [
    "FRONTAL", "NOT_MENTIONED", "POLICIES", "clinical_values", "label_vector", "read_cxr_cases", "read_cxr_splits",
]  # fmt: skip

FRONTAL = ("PA", "AP")
POLICIES = ("ignore", "zeros", "ones", "lsr")
"""What -1 (uncertain) becomes: masked, 0, 1, or a number from U(.55, .85) (label smoothing, Pham 2019)."""
NOT_MENTIONED = ("zeros", "ignore")
"""What a blank becomes: 0, as in the work on CheXpert, or masked."""
_LSR = (0.55, 0.85)


def read_cxr_cases(
    dataset_dir: str | os.PathLike[str],
    split: str | Sequence[str] | None,
    labels: Sequence[str] = CHEXPERT_LABELS,
    views: Sequence[str] | None = FRONTAL,
    policy: str = "ignore",
    limit: int | None = None,
    not_mentioned: str = "zeros",
    excluded: list[dict[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Read the cases of one split, in the order of the manifest.

    Args:
        dataset_dir: a folder that `prepare mimic_cxr|covid|nih` wrote, or its manifest.
        split: "train", "val" or "test", or several of them; None takes all.
        labels: columns of the manifest, in the order wanted.
        views: which views; None takes all, those not stated too.
        policy: one of `POLICIES`, for -1.
        limit: take the first so many.
        not_mentioned: one of `NOT_MENTIONED`, for blanks.
        excluded: {"path", "reason"} are added of cases whose notes or values cannot be used, and of rows that cannot be
            read; None raises instead.

    Returns:
        Per image: case, patient, study (str), image (str; None if the manifest names none; of a URL the local copy),
        note (str, None if nothing is known), clinical ((30,) float32 of `CLINICAL_COLUMNS`, NaN where missing; None if
        all are), label ((n_labels,) float32, NaN masked). The patient is a number, the same in every split: what is
        made of the cases says which belong together, and not the identifier that the data set gives.

    Raises:
        BadInput: if a table is missing or damaged, lacks a label, holds an unknown value or one that no body has, says
            two things of one study, or no row is left.
        ValueError: for an unknown policy.
    """
    if policy not in POLICIES or not_mentioned not in NOT_MENTIONED:
        raise ValueError(
            f"policy is {policy!r}, not_mentioned is {not_mentioned!r}, expected one of {', '.join(POLICIES)} and one "
            f"of {', '.join(NOT_MENTIONED)}."
        )
    path = Path(dataset_dir)
    manifest = path / "manifest.csv" if path.is_dir() else path
    rows = read_manifest(manifest)
    for name in ("patient", "study", "view", *labels):
        if name not in rows[0]:
            raise BadInput(manifest, f"has no column {name!r}, expected one of an X-ray layout with that label")
    patients = dict.fromkeys(row["patient"] for row in rows)  # of the manifest, whatever is asked for
    numbers = {patient: str(number) for number, patient in enumerate(patients, 1)}
    wanted = None if views is None else {view.upper() for view in views}
    splits = [split] if isinstance(split, str) else split
    rows = [row for row in rows if splits is None or row["split"] in splits]
    rows = [row for row in rows if wanted is None or row["view"].upper() in wanted]
    if not rows:
        which = "any view" if views is None else f"a view {' or '.join(views)}"
        which = f"{'any split' if splits is None else 'split ' + ' or '.join(splits)} and {which}"
        raise BadInput(manifest, f"has no row with {which}, expected at least one")
    rows = with_files(rows[:limit])
    studies = {row["study"] for row in rows}
    refused = _Refused(excluded)
    notes = _notes(manifest.parent / "notes.csv", studies, refused)
    clinical = _clinical(manifest.parent / "clinical.csv", studies, refused)
    rows = refused.without(rows)
    return [
        {
            "case": row["case"],
            "patient": numbers[row["patient"]],
            "study": row["study"],
            "split": row["split"],
            "image": row["image"] or None,
            "note": notes.get(row["study"]),
            "clinical": clinical.get(row["study"]),
            "label": _label(manifest, row, labels, policy, not_mentioned),
        }
        for row in rows
    ]


def read_cxr_splits(
    dataset_dir: str | os.PathLike[str],
    labels: Sequence[str] = CHEXPERT_LABELS,
    views: Sequence[str] | None = FRONTAL,
    policy: str = "ignore",
    limit: int | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Split ("train", "val", "test") -> its cases, see `read_cxr_cases`; the policy is for training cases alone."""
    return {
        split: read_cxr_cases(dataset_dir, split, labels, views, policy if split == "train" else "ignore", limit)
        for split in ("train", "val", "test")
    }


def label_vector(
    values: Mapping[str, float | None], labels: Sequence[str], case: str, policy: str, not_mentioned: str
) -> np.ndarray:
    """Apply the policies to the values of one case.

    Args:
        values: label -> 1.0, 0.0, -1.0 or None.
        labels: which, in order.
        case: its name; the numbers of "lsr" depend on it and on the label, on nothing else.
        policy: one of `POLICIES`.
        not_mentioned: one of `NOT_MENTIONED`.

    Returns:
        (n_labels,) float32, NaN where masked.
    """
    blank = 0.0 if not_mentioned == "zeros" else np.nan
    uncertain = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}

    def number(name: str) -> float:
        value = values[name]
        if value is None:
            return blank
        if value != -1:
            return value
        return _smooth(case, name) if policy == "lsr" else uncertain[policy]

    return np.array([number(name) for name in labels], dtype=np.float32)


def clinical_values(path: Path, line: int, row: Mapping[str, str]) -> np.ndarray:
    """The values of one row of a table.

    Args:
        path: of the table, for errors.
        line: of the row, for errors.
        row: column -> text; columns other than `CLINICAL_COLUMNS` do not count.

    Returns:
        (30,) float32, NaN where a column is blank or missing.

    Raises:
        BadInput: for a text that is no number, or a value that no body has.
    """
    values = np.full(len(CLINICAL_COLUMNS), np.nan, dtype=np.float32)
    for i, name in enumerate(CLINICAL_COLUMNS):
        if (text := row.get(name, "")).strip():
            number = parse_number(text)
            if number is None:
                raise BadInput(path, f"line {line} has {name} {text!r}, expected a number or a blank")
            if not plausible(name, number):
                raise BadInput(path, f"line {line} has {name} {text!r}, which no body has")
            values[i] = number
    return values


class _Refused:
    """Studies whose note or values cannot be used: the first is raised, unless there is a list to name them in."""

    def __init__(self, excluded: list[dict[str, str]] | None) -> None:
        self.excluded, self.reasons = excluded, {}

    def add(self, problem: BadInput, study: str | None = None) -> None:
        """Name a problem, of a study where it is known whose it is."""
        if self.excluded is None:
            raise problem
        if study is None:
            self.excluded.append({"path": str(problem.path), "reason": problem.reason})
        else:
            self.reasons.setdefault(study, problem)

    def without(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """The rows of the other studies; those of these are listed.

        Raises:
            BadInput: if none is left.
        """
        for row in rows:
            if problem := self.reasons.get(row["study"]):
                self.excluded.append({"path": row["case"], "reason": f"{problem.reason} ({problem.path.name})"})
        kept = [row for row in rows if row["study"] not in self.reasons]
        if not kept:
            raise next(iter(self.reasons.values()))
        return kept


def _smooth(case: str, name: str) -> float:
    share = int.from_bytes(hashlib.sha256(f"{case}\n{name}".encode()).digest()[:8], "big") / 2**64
    return _LSR[0] + (_LSR[1] - _LSR[0]) * share


def _label(
    manifest: Path, row: Mapping[str, str], labels: Sequence[str], policy: str, not_mentioned: str
) -> np.ndarray:
    for name in labels:
        if row[name] not in LABEL_VALUES:
            raise BadInput(manifest, f"row {row['case']!r} has {name} {row[name]!r}, expected 1.0, 0.0, -1.0 or blank")
    return label_vector({name: LABEL_VALUES[row[name]] for name in labels}, labels, row["case"], policy, not_mentioned)


def _notes(path: Path, studies: set[str], refused: _Refused) -> dict[str, str]:
    """Study -> note, of those that have one."""
    if not path.is_file():
        raise BadInput(path, "does not exist, expected the notes that prepare writes (blank where nothing is known)")
    found: dict[str, str] = {}
    for line in iter_rows(path, ["study", "note"]):
        if isinstance(line, BadInput):
            refused.add(line)
            continue
        study, note = line[1]["study"], line[1]["note"]
        if study in studies and note.strip() and found.setdefault(study, note) != note:
            refused.add(BadInput(path, f"has two notes of study {study!r}, expected one"), study)
    return found


def _clinical(path: Path, studies: set[str], refused: _Refused) -> dict[str, np.ndarray]:
    """Study -> (30,) values, of those that have any."""
    if not path.is_file():
        raise BadInput(path, "does not exist, expected the values that prepare writes (blank where nothing is known)")
    lacking = [name for name in ("study", *CLINICAL_COLUMNS) if name not in read_columns(path)]
    if lacking:
        raise BadInput(path, f"has no column {lacking[0]!r}, expected the clinical columns of this version")
    found: dict[str, np.ndarray] = {}
    for item in iter_rows(path):
        if isinstance(item, BadInput):
            refused.add(item)
            continue
        line, row = item
        if row["study"] not in studies:
            continue
        try:
            values = clinical_values(path, line, row)
        except BadInput as problem:
            refused.add(problem, row["study"])
            continue
        if np.isnan(values).all():
            continue
        if not np.array_equal(found.setdefault(row["study"], values), values, equal_nan=True):
            what = f"line {line} is about study {row['study']!r} again, with other values"
            refused.add(BadInput(path, f"{what}, expected one row"), row["study"])
    return found
