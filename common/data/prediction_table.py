"""What models say about cases, and what is true of them, as CSV: case, patient, then one column per label by name.

The patient is a number or any other name that says which cases belong together, never an identifier of the data set.

A prediction holds a probability in every cell, a truth 1, 0 or nothing (not known, or left out by the label policy).
A folder of predictions holds `MODEL_SPLIT.csv` for every model and split, and `labels_SPLIT.csv` with the truth.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.label_table import difference_words, read_label_values
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.io.table import read_columns

TRUTH = "labels"
_IDS = ("case", "patient")

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class PredictionTable:
    """One table.

    Attributes:
        path: the file it comes from.
        cases: n different ids, in the order of the file.
        patients: (n,) the patient of each; the case itself where the file has no column for it.
        labels: C names, in the order of the file.
        values: (n, C) float64; probabilities, or 1, 0 and NaN where nothing is known.
    """

    path: Path
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray


def write_predictions(
    path: PathLike,
    cases: Sequence[str],
    patients: Sequence[str] | None,
    labels: Sequence[str],
    probabilities: np.ndarray,
) -> Path:
    """Write probabilities, atomically, with the digits of float32.

    Args:
        path: CSV file; its folder is made.
        cases: n different ids.
        patients: (n,) the patient of each; None leaves the column out.
        labels: C different names.
        probabilities: (n, C) within [0, 1].

    Returns:
        The path.

    Raises:
        ValueError: if numbers do not fit each other, an id or a name is blank or occurs twice, or a value is no
            probability.
    """
    values = np.asarray(probabilities, float)
    return _write(Path(path), cases, patients, labels, values, (values >= 0) & (values <= 1), "a probability")


def write_truth(
    path: PathLike, cases: Sequence[str], patients: Sequence[str] | None, labels: Sequence[str], values: np.ndarray
) -> Path:
    """Write labels, atomically; as `write_predictions` with 1, 0 and NaN, which is left blank."""
    values = np.asarray(values, float)
    return _write(
        Path(path), cases, patients, labels, values, np.isin(values, (0, 1)) | np.isnan(values), "1, 0 or NaN"
    )


def read_predictions(path: PathLike) -> PredictionTable:
    """Read probabilities.

    Raises:
        BadInput: if the table is damaged or has no rows, an id is blank or occurs twice, or a cell is no probability.
    """
    return _read(Path(path), "probabilities")


def read_truth(path: PathLike) -> PredictionTable:
    """Read labels: 1, 0 or nothing. Raises as `read_predictions`."""
    return _read(Path(path), "truth")


def align_predictions(predictions: PredictionTable, truth: PredictionTable) -> np.ndarray:
    """Probabilities in the order of the truth's cases and labels, (n, C).

    Raises:
        BadInput: if the two are not about the same cases, labels and patients.
    """
    for kind, ours, theirs in (
        ("cases", predictions.cases, truth.cases),
        ("labels", predictions.labels, truth.labels),
    ):
        difference = difference_words(theirs, ours, kind)
        if difference:
            raise BadInput(predictions.path, f"{difference}, expected the {kind} of {truth.path}")
    row = {case: i for i, case in enumerate(predictions.cases)}
    column = {label: i for i, label in enumerate(predictions.labels)}
    order = [row[case] for case in truth.cases]
    for case, i, patient in zip(truth.cases, order, truth.patients, strict=True):
        if predictions.patients[i] != patient:
            raise BadInput(
                predictions.path, f"gives case {case!r} to another patient, expected the patients of {truth.path}"
            )
    return predictions.values[np.ix_(order, [column[label] for label in truth.labels])]


def find_predictions(folder: PathLike, split: str) -> dict[str, Path]:
    """The predictions of a split, model -> file; the truth is not among them.

    Raises:
        BadInput: if there are none.
    """
    ending = f"_{split}.csv"
    found = {path.name.removesuffix(ending): path for path in sorted(Path(folder).glob(f"*{ending}"))}
    found.pop(TRUTH, None)
    if not found:
        raise BadInput(folder, f"holds no predictions, expected files named MODEL{ending}")
    return found


def _write(
    path: Path,
    cases: Sequence[str],
    patients: Sequence[str] | None,
    labels: Sequence[str],
    values: np.ndarray,
    usable: np.ndarray,
    expected: str,
) -> Path:
    n_patients = len(cases) if patients is None else len(patients)
    if values.shape != (len(cases), len(labels)) or n_patients != len(cases):
        raise ValueError(
            f"{path}: {len(cases)} cases, {n_patients} patients, {len(labels)} labels "
            f"and values of the shape {values.shape} do not fit, expected (cases, labels) values."
        )
    for kind, names in (("case", cases), ("label", [*_IDS, *labels])):
        times = Counter(names)
        wrong = [name for name in names if not name.strip() or times[name] > 1]
        if wrong:
            raise ValueError(f"{path}: the {kind} {wrong[0]!r} is blank or occurs twice, expected each once.")
    if not usable.all():
        case, label = np.argwhere(~usable)[0]
        raise ValueError(f"{path}: {labels[label]} of {cases[case]!r} is {values[case, label]}, expected {expected}.")
    rows = []
    for i, case in enumerate(cases):
        ids = {"case": case} if patients is None else {"case": case, "patient": patients[i]}
        # Nine digits give every float32 back.
        cells = ("" if math.isnan(value) else f"{value:.9g}" for value in values[i])
        rows.append(ids | dict(zip(labels, cells, strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text([*(_IDS[:1] if patients is None else _IDS), *labels], rows))
    return path


def _read(path: Path, cells: str) -> PredictionTable:
    columns = read_columns(path)
    labels = tuple(name for name in columns if name not in _IDS)
    if not labels:
        raise BadInput(path, "has no label, expected a column for each beside case and patient")
    patient = "patient" if "patient" in columns else None
    values, patients = read_label_values(path, "case", labels, cells, patient, as_id=str)
    of_case = tuple(patients.get(case, case) for case in values)
    return PredictionTable(path, tuple(values), of_case, labels, np.stack(list(values.values())))
