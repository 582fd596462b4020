"""The clinical variables of a study as numbers: what they are, and the 45 numbers that a network gets.

30 variables known before the X-ray, each standardised with the training cases, and 15 numbers that say which share of
a group of variables is missing (0 or 1 for a group of one). Identifiers, dates, outcomes and whatever was charted after
the study are no variables: what predicts too well is left out by construction.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.ehr.mimic_items import LAB_TESTS
from common.data.ehr.vital_signs import VITAL_SIGNS
from common.io.bad_input import BadInput, read_text
from common.io.output_folder import write_text
from common.text.notes.ed_note import value_of

__all__ = ["CLINICAL_COLUMNS", "CLINICAL_FEATURES", "CLINICAL_GROUPS", "ClinicalScaler", "clinical_row", "plausible"]

CLINICAL_GROUPS: dict[str, tuple[str, ...]] = {
    "age": ("age",),
    "sex": ("sex",),
    "temperature": ("temperature",),
    "heart and breathing rate": ("heartrate", "resprate"),
    "o2sat": ("o2sat",),
    "blood pressure": ("sbp", "dbp"),
    "pain": ("pain",),
    "acuity": ("acuity",),
    "arrival": ("ambulance", "hours_since_arrival"),
    "n_earlier_stays": ("n_earlier_stays",),
    "bmi": ("bmi",),
    "blood count": ("wbc", "hemoglobin", "platelets"),
    "differential count": ("neutrophils", "lymphocytes"),
    "chemistry": ("sodium", "potassium", "bicarbonate", "urea_nitrogen", "creatinine"),
    "further tests": ("albumin", "c_reactive_protein", "lactate", "troponin_t", "nt_probnp", "d_dimer"),
}
"""Variables that are mostly measured together -> one number says how many of them are missing."""

CLINICAL_COLUMNS: tuple[str, ...] = tuple(name for group in CLINICAL_GROUPS.values() for name in group)
"""The 30 variables. Units: years, 1 man / 0 woman, C, /min, %, mmHg, of 10, 1 (worst) to 5, 1 by ambulance or
helicopter / 0 walked in, hours, stays, kg/m2; cells in K/uL (also neutrophils and lymphocytes), other tests as in
`common.data.ehr.mimic_items.LAB_TESTS`."""

CLINICAL_FEATURES: tuple[str, ...] = (*CLINICAL_COLUMNS, *(f"missing {name}" for name in CLINICAL_GROUPS))
"""The 45 numbers."""

_LABS = {
    "wbc": "White Blood Cells", "hemoglobin": "Hemoglobin", "platelets": "Platelet Count", "sodium": "Sodium",
    "potassium": "Potassium", "bicarbonate": "Bicarbonate", "urea_nitrogen": "Urea Nitrogen",
    "creatinine": "Creatinine", "albumin": "Albumin", "c_reactive_protein": "C-Reactive Protein", "lactate": "Lactate",
    "troponin_t": "Troponin T", "nt_probnp": "NTproBNP", "d_dimer": "D-Dimer",
}  # fmt: skip
_SHARES = {"neutrophils": "Neutrophils", "lymphocytes": "Lymphocytes"}  # per cent of the white cells
_VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "pain")
_TRANSPORT = {"AMBULANCE": 1.0, "HELICOPTER": 1.0, "WALK IN": 0.0}
_SKEWED = frozenset(
    "hours_since_arrival n_earlier_stays wbc platelets neutrophils lymphocytes urea_nitrogen creatinine "
    "c_reactive_protein lactate troponin_t nt_probnp d_dimer".split()
)
"""Taken as log(1 + 1000 x) for troponin and log(1 + x) for the others: a few very large values would set the scale."""
_CLIP = 6.0
_TESTS = {test.name: test for test in LAB_TESTS}
_BOUNDS = (
    {name: (VITAL_SIGNS[name].low, VITAL_SIGNS[name].high) for name in _VITALS}
    | {name: (_TESTS[test].low, _TESTS[test].high) for name, test in _LABS.items()}
    | {"age": (0, 120), "sex": (0, 1), "acuity": (1, 5), "ambulance": (0, 1), "hours_since_arrival": (0, math.inf)}
    | {"n_earlier_stays": (0, math.inf), "bmi": (5, 150), "neutrophils": (0, 1000), "lymphocytes": (0, 1000)}
)


def plausible(name: str, value: float) -> bool:
    """Say whether a body can have the value; `name` is one of `CLINICAL_COLUMNS`."""
    low, high = _BOUNDS[name]
    return low <= value <= high


def clinical_row(context: Any) -> dict[str, float]:
    """Return what a context knows of `CLINICAL_COLUMNS`; what is missing has no entry.

    Args:
        context: `common.data.ehr.context.EHRContext`, or a mapping with some of its fields, as `ed_note` takes it.

    Raises:
        ValueError: for a value that no body can have, which a reader should have left out.
    """

    def get(name: str) -> Any:
        return context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)

    vitals, labs, body = get("vitals") or {}, get("labs") or {}, get("body") or {}
    found: dict[str, Any] = {name: get(name) for name in ("age", "acuity", "hours_since_arrival", "n_earlier_stays")}
    found["sex"] = {"M": 1.0, "F": 0.0}.get(get("sex"))
    found["ambulance"] = _TRANSPORT.get((get("arrival_transport") or "").strip().upper())
    found["bmi"] = body.get("bmi")
    found |= {name: vitals.get(name) for name in _VITALS}
    found |= {name: labs.get(test) for name, test in _LABS.items()}
    row = {name: float(number) for name, item in found.items() if (number := value_of(item)) is not None}
    for name, test in _SHARES.items():
        share = value_of(labs.get(test))
        if share is not None and "wbc" in row:
            row[name] = row["wbc"] * share / 100
    for name, value in row.items():
        if not plausible(name, value):
            low, high = _BOUNDS[name]
            raise ValueError(f"{name} is {value:g}, expected {low:g} to {high:g}.")
    return {name: row[name] for name in CLINICAL_COLUMNS if name in row}


@dataclass(frozen=True)
class ClinicalScaler:
    """Median, mean and standard deviation of the training cases, per variable; None for one that no case had.

    A variable without statistics counts as missing wherever it turns up later.

    Attributes:
        median: what stands for a missing value, after the logarithm where one is taken.
        mean: of the values, after the logarithm.
        std: their standard deviation, 1 where all were alike.
    """

    median: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]

    @classmethod
    def fit(cls, rows: Sequence[np.ndarray | None] | np.ndarray) -> ClinicalScaler:
        """Learn from the training cases.

        Args:
            rows: (30,) each, NaN where missing; None stands for a case of which nothing is known.

        Raises:
            ValueError: if there is no case, or one has another number of columns.
        """
        raw = _stacked(rows)
        if not len(raw):
            raise ValueError("There are no cases to fit the clinical scaler on, expected those of the training split.")
        values = _compressed(raw)
        statistics: list[tuple[float | None, ...]] = []
        for column in values.T:
            known = column[~np.isnan(column)]
            if known.size:
                spread = float(known.std())
                statistics.append((float(np.median(known)), float(known.mean()), spread if spread > 1e-6 else 1.0))
            else:
                statistics.append((None, None, None))
        median, mean, std = zip(*statistics, strict=True)
        return cls(median, mean, std)

    def transform(self, raw: np.ndarray | Sequence[np.ndarray | None]) -> np.ndarray:
        """Standardise, impute and flag.

        Args:
            raw: (N, 30), NaN where missing; None stands for a case of which nothing is known.

        Returns:
            (N, 45) float32: the values of `CLINICAL_COLUMNS` within +-6 standard deviations, then the share of each of
            `CLINICAL_GROUPS` that is missing.

        Raises:
            ValueError: for another number of columns.
        """
        values = _compressed(_stacked(raw))
        unknown = np.array([mean is None for mean in self.mean])
        values[:, unknown] = np.nan
        missing = np.isnan(values)
        median, mean, std = (
            np.array([default if v is None else v for v in numbers], dtype=np.float64)
            for numbers, default in ((self.median, 0.0), (self.mean, 0.0), (self.std, 1.0))
        )
        scaled = ((np.where(missing, median, values) - mean) / std).clip(-_CLIP, _CLIP)
        places = {name: i for i, name in enumerate(CLINICAL_COLUMNS)}
        shares = [missing[:, [places[name] for name in group]].mean(axis=1) for group in CLINICAL_GROUPS.values()]
        return np.concatenate([scaled, np.stack(shares, axis=1)], axis=1).astype(np.float32)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as JSON, by the name of the variable, atomically."""
        table = {
            name: {"median": a, "mean": b, "std": c}
            for name, a, b, c in zip(CLINICAL_COLUMNS, self.median, self.mean, self.std, strict=True)
        }
        write_text(Path(path), json.dumps(table, indent=1) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> ClinicalScaler:
        """Read it.

        Raises:
            BadInput: if it is missing, no JSON, or of other columns.
        """
        path = Path(path)
        try:
            table = json.loads(read_text(path, "the scaler of a training"))
        except json.JSONDecodeError as error:
            raise BadInput(path, f"is no JSON ({error})") from error
        if not isinstance(table, dict) or list(table) != list(CLINICAL_COLUMNS):
            raise BadInput(path, f"is not about the {len(CLINICAL_COLUMNS)} clinical columns of this version")
        try:
            columns = [tuple(table[name][key] for name in CLINICAL_COLUMNS) for key in ("median", "mean", "std")]
        except (KeyError, TypeError) as error:
            raise BadInput(path, "lacks a median, mean or std, expected all three of every column") from error
        return cls(*columns)


def _stacked(rows: np.ndarray | Sequence[np.ndarray | None]) -> np.ndarray:
    nothing = np.full(len(CLINICAL_COLUMNS), np.nan)
    raw = np.array([nothing if row is None else np.asarray(row, dtype=np.float64) for row in rows], dtype=np.float64)
    raw = raw.reshape(0, len(CLINICAL_COLUMNS)) if not len(raw) else raw
    if raw.ndim != 2 or raw.shape[1] != len(CLINICAL_COLUMNS):
        raise ValueError(f"clinical rows have the shape {raw.shape}, expected (N, {len(CLINICAL_COLUMNS)}).")
    return raw


def _compressed(raw: np.ndarray) -> np.ndarray:
    values = raw.copy()
    for i, name in enumerate(CLINICAL_COLUMNS):
        if name in _SKEWED:
            values[:, i] = np.log1p(values[:, i] * (1000 if name == "troponin_t" else 1))
    return values
