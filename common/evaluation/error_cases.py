"""Where a model errs most: its worst cases of every label, and its scores in groups of patients."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.cxr.cases import read_cxr_cases
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.manifest import read_manifest
from common.data.prediction_table import PredictionTable
from common.metrics.multilabel import multilabel_scores

__all__ = ["ErrorCase", "age_group", "case_details", "find_errors", "subgroup_rows"]

_AGES = (18, 40, 60, 80)


@dataclass(frozen=True)
class ErrorCase:
    """A case that a model gets wrong.

    Attributes:
        label: the label it is wrong about.
        kind: "false positive" or "false negative".
        case: its id.
        probability: what the model says of that label.
        threshold: from which it says yes.
        index: place of the case in the truth.
    """

    label: str
    kind: str
    case: str
    probability: float
    threshold: float
    index: int

    def row(self) -> dict[str, Any]:
        """For errors.csv."""
        names = ("label", "kind", "case", "probability", "threshold")
        return {name: getattr(self, name) for name in names}


def case_details(dataset_dir: str | os.PathLike[str], split: str | None = None) -> list[dict[str, Any]]:
    """What a prepared folder of X-rays knows of its cases, as `compare_models` shows it.

    Args:
        dataset_dir: as `read_cxr_cases` takes it.
        split: one split; None takes all.

    Returns:
        Per image: `case`, `image` (path or None), `note` (or None), `view`, `age` in years, `sex` (M or F); the last
        three None where they are not known.
    """
    path = Path(dataset_dir)
    views = {row["case"]: row["view"] for row in read_manifest(path)}
    age, sex = CLINICAL_COLUMNS.index("age"), CLINICAL_COLUMNS.index("sex")
    details = []
    for row in read_cxr_cases(path, split, labels=(), views=None):
        clinical = np.full(len(CLINICAL_COLUMNS), np.nan) if row["clinical"] is None else row["clinical"]
        details.append(
            {
                "case": row["case"],
                "image": row["image"],
                "note": row["note"],
                "view": views[row["case"]] or None,
                "age": None if np.isnan(clinical[age]) else float(clinical[age]),
                "sex": None if np.isnan(clinical[sex]) else "M" if clinical[sex] == 1 else "F",
            }
        )
    return details


def find_errors(
    truth: PredictionTable,
    probabilities: np.ndarray,
    thresholds: Mapping[str, float] | None = None,
    per_label: int = 2,
) -> list[ErrorCase]:
    """The false positives of highest and the false negatives of lowest probability, per label.

    Args:
        truth: labels of the cases.
        probabilities: (n, C) in its order.
        thresholds: label -> threshold; 0.5 for all without it. A label without one has no errors to list.
        per_label: how many of each kind at most.

    Returns:
        Worst first, labels in their order, false positives before false negatives.
    """
    errors = []
    for c, label in enumerate(truth.labels):
        threshold = 0.5 if thresholds is None else thresholds.get(label)
        if threshold is None:
            continue
        said, true = probabilities[:, c], truth.values[:, c]
        for kind, wrong, order in (
            ("false positive", (true == 0) & (said >= threshold), -said),
            ("false negative", (true == 1) & (said < threshold), said),
        ):
            cases = np.flatnonzero(wrong)
            worst = cases[np.argsort(order[cases], kind="stable")][:per_label]
            errors += [ErrorCase(label, kind, truth.cases[i], float(said[i]), float(threshold), int(i)) for i in worst]
    return errors


def age_group(age: float) -> str:
    """Years as a group: "under 18", "18 to 39", ... "80 and over"."""
    if age < _AGES[0]:
        return f"under {_AGES[0]}"
    for low, high in zip(_AGES, _AGES[1:], strict=False):
        if age < high:
            return f"{low} to {high - 1}"
    return f"{_AGES[-1]} and over"


def subgroup_rows(
    truth: PredictionTable,
    probabilities: np.ndarray,
    cases: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Mean AUROC of a model in groups of cases.

    The mean is over the labels that have positive and negative cases in every group of the column, so that groups are
    compared on the same labels.

    Args:
        truth: labels of the cases.
        probabilities: (n, C) in its order.
        cases: `case` and the columns; a case that is not among the truth's is passed over, a value that is missing,
            blank or NaN puts the case into the group "unknown", which is not scored but counted.
        columns: those to group by; one that no case has is left out. `age` is in years and is grouped.
        draws: bootstrap resamples of the patients.
        seed: of the resamples.

    Returns:
        A row per column and group: `column`, `group`, `n`, `labels`, `mean_auroc`, `low`, `high`; the last three are
        NaN where no label is common.
    """
    known = {str(row["case"]): row for row in cases}
    rows = []
    for column in columns:
        if not any(column in row for row in known.values()):
            continue
        group = np.array([_group(column, known.get(case, {}).get(column)) for case in truth.cases])
        names = [name for name in _in_order(set(group.tolist())) if name != "unknown"]
        both = np.ones(len(truth.labels), dtype=bool)
        for name in names:
            own = truth.values[group == name]
            both &= (own == 1).any(axis=0) & (own == 0).any(axis=0)
        used = np.flatnonzero(both)
        for name in names:
            inside = np.flatnonzero(group == name)
            row: dict[str, Any] = {"column": column, "group": name, "n": len(inside), "labels": len(used)}
            row |= dict.fromkeys(("mean_auroc", "low", "high"), math.nan)
            if len(used):
                area = multilabel_scores(
                    probabilities[np.ix_(inside, used)],
                    truth.values[np.ix_(inside, used)],
                    [truth.labels[c] for c in used],
                    draws=draws,
                    seed=seed,
                    groups=[truth.patients[i] for i in inside],
                ).scores["auroc"].macro  # fmt: skip
                row |= {"mean_auroc": area.value, "low": area.low, "high": area.high}
            rows.append(row)
        if "unknown" in group:
            rows.append({"column": column, "group": "unknown", "n": int((group == "unknown").sum())})
    return rows


def _group(column: str, value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        return "unknown"
    return age_group(float(value)) if column == "age" else str(value).strip()


def _in_order(groups: set[str]) -> list[str]:
    ages = [age_group(age) for age in (0, *_AGES)]
    return sorted(groups, key=lambda name: (ages.index(name) if name in ages else 0, name))
