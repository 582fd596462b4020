"""`score labels`: a table of predicted labels or probabilities against a table of labels, matched by id and by name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.apps.run.bundle import UsageError
from common.data.label_table import difference_words, find_id_column, find_label_columns, read_label_values
from common.io.bad_input import BadInput, read_text
from common.io.inputs import is_same
from common.io.output_folder import write_text
from common.io.table import read_columns
from common.metrics.delong import delong_by_class
from common.metrics.multilabel import choose_thresholds, multilabel_comparison, multilabel_scores
from common.visualize.tables import json_text

POLICIES = ("ignore", "zeros", "ones")
CHOSEN = "thresholds_for_other_cases"
_LEVEL = 0.95

PathLike = str | os.PathLike[str]


@dataclass
class _Prediction:
    """What a system says: probabilities, and which cells its policy leaves out, (n, C) each."""

    kind: str
    values: np.ndarray
    left_out: np.ndarray
    counts: dict[str, int]
    id_column: str
    other_columns: list[str]


def score_labels(
    pred: PathLike,
    ref: PathLike,
    out: PathLike | None = None,
    thresholds: PathLike | Mapping[str, float] | None = None,
    draws: int = 1000,
    seed: int = 0,
    *,
    pred2: PathLike | None = None,
    uncertain: str = "ignore",
    not_mentioned: str = "ignore",
    labels: Sequence[str] | str | None = None,
    id_column: str | None = None,
    patient_column: str | None = None,
) -> dict[str, Any]:
    """Score predicted labels or probabilities against true ones: AUROC, AUPRC, F1, calibration, with intervals.

    Labels are matched by their names. One with a single class has no AUROC: it is named, and left out of the mean. With
    a second system the two are compared on the same cases: paired intervals, and DeLong's test per label. The result
    is printed as JSON.

    Args:
        pred: FILE P.csv, probabilities without gaps, or 1, 0, -1 and blank (not mentioned, scored as 0)
        ref: FILE R.csv, true labels, 1.0, 0.0, -1.0 (uncertain) and blank (not mentioned), of the same ids in any order
        out: FILE S.json, also written there
        thresholds: FILE T.json, a threshold per label, or the result for other cases, whose
            thresholds_for_other_cases are taken (default: 0.5)
        draws: N of the bootstrap
        seed: N of the bootstrap
        pred2: FILE Q.csv, the predictions of a second system
        uncertain: NAME what -1.0 counts as, on either side: ignore (the cell is left out), zeros or ones
        not_mentioned: NAME what blank counts as in the reference: ignore or zeros
        labels: A,B only these (default: those of the reference)
        id_column: NAME of the case (default: case, id, VolumeName, study_id ..., else the first column)
        patient_column: NAME in the reference; whole patients are then resampled, and cases of one are not independent
            (Obuchowski 1997)

    Returns:
        Ready for JSON: `cases`, `labels`, `kind` (probabilities or labels), `policies`, `cells` (uncertain and blank
        ones met on each side), `id_columns`, `columns_not_scored`, the parts of `MultilabelResult.to_dict`, for
        probabilities `thresholds_for_other_cases` (best F1 here), and with `pred2`: `pred2`, `difference`, `delong`.

    Raises:
        BadInput: if a table is damaged, lacks a label or an id of the other, has an id twice, holds an unknown value,
            or the thresholds were chosen on these very cases.
        UsageError: for an unknown policy, draws below 1, or an output that is an input.

    Examples:
        python -m common score labels --pred predictions.csv --ref labels.csv
        python -m common score labels --pred ours.csv --pred2 theirs.csv --ref labels.csv --patient_column subject_id
    """
    if uncertain not in POLICIES:
        raise UsageError(f"--uncertain is {uncertain!r}, expected {', '.join(POLICIES)}")
    if not_mentioned not in POLICIES[:2]:
        raise UsageError(f"--not_mentioned is {not_mentioned!r}, expected {' or '.join(POLICIES[:2])}")
    if draws < 1:
        raise UsageError(f"--draws is {draws}, expected at least 1")
    predictions = [Path(path) for path in (pred, pred2) if path is not None]
    if out is not None and any(is_same(out, path) for path in (*predictions, ref)):
        raise UsageError(f"--out is {out}, which is an input, expected another file")
    wanted = [name.strip() for name in labels.split(",")] if isinstance(labels, str) else labels
    if wanted is not None and not all(wanted):
        raise UsageError(f"--labels is {','.join(wanted)!r}, expected names with commas between them")
    columns = read_columns(ref)
    key = find_id_column(ref, columns, id_column)
    names = list(wanted) if wanted is not None else find_label_columns(columns, key)
    if not names:
        raise BadInput(ref, f"has no label, expected a column for each beside {key}")
    true, patients = read_label_values(ref, key, names, text_column=patient_column)
    ids = sorted(true)
    groups = [patients[case] for case in ids] if patient_column else None
    reference = np.stack([true[case] for case in ids])
    target = _apply(uncertain, reference == -1, reference)
    target = _apply(not_mentioned, np.isnan(reference), target)

    systems = [_read_prediction(path, ref, ids, names, id_column, uncertain) for path in predictions]
    cases_hash = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    chosen = None if thresholds is None else _read_thresholds(thresholds, names, cases_hash)
    options = {"draws": draws, "level": _LEVEL, "seed": seed, "groups": groups}
    one = systems[0]
    labelled = np.where(one.left_out, np.nan, target)
    result: dict[str, Any] = {
        "labels": names,
        "kind": one.kind,
        "policies": {"uncertain": uncertain, "not_mentioned": not_mentioned},
        "cells": {"ref": _gaps(reference), "pred": one.counts},
        "id_columns": {"ref": key, "pred": one.id_column},
        "columns_not_scored": {
            "ref": [name for name in columns if name not in (key, *names)],
            "pred": one.other_columns,
        },
        "seed": seed,
        "cases_hash": cases_hash,
        **multilabel_scores(one.values, labelled, names, thresholds=chosen, **options).to_dict(),
    }
    if one.kind == "probabilities":
        result[CHOSEN] = choose_thresholds(one.values, labelled, names)
    if pred2 is not None:
        two = systems[1]
        result["cells"]["pred2"], result["id_columns"]["pred2"] = two.counts, two.id_column
        result["columns_not_scored"]["pred2"] = two.other_columns
        result |= _compare(one, two, target, names, options)
    result = json.loads(json_text(result))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(out), json_text(result, indent=1))
    return result


def _apply(policy: str, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(cells, {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[policy], values)


def _gaps(values: np.ndarray) -> dict[str, int]:
    return {"uncertain": int((values == -1).sum()), "blank": int(np.isnan(values).sum())}


def _read_prediction(
    path: PathLike, ref: PathLike, ids: list[str], names: list[str], id_column: str | None, uncertain: str
) -> _Prediction:
    columns = read_columns(path)
    key = find_id_column(path, columns, id_column)
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadInput(path, f"has no column {missing[0]!r}, expected the {len(names)} labels of {os.fspath(ref)}")
    found, _ = read_label_values(path, key, names, "both")
    difference = difference_words(ids, sorted(found), "ids,")
    if difference:
        raise BadInput(path, f"{difference}, compared with {os.fspath(ref)}, expected the same ids in both")
    values = np.stack([found[case] for case in ids])
    counts = _gaps(values)
    if ((values > 0) & (values < 1)).any():
        gaps = np.isnan(values) | (values == -1)
        if gaps.any():
            case, label = np.argwhere(gaps)[0]
            raise BadInput(path, f"has no probability of {names[label]} for {ids[case]!r}, expected one in every row")
        kind = "probabilities"
    else:
        kind = "labels"
    said = np.where(np.isnan(values), 0.0, _apply(uncertain, values == -1, values))
    left_out = np.isnan(_apply(uncertain, values == -1, np.zeros_like(values)))
    others = [name for name in columns if name not in (key, *names)]
    return _Prediction(kind, np.where(left_out, 0.0, said), left_out, counts, key, others)


def _read_thresholds(
    thresholds: PathLike | Mapping[str, float], names: Sequence[str], cases_hash: str
) -> dict[str, float]:
    """Thresholds of the labels that are scored."""
    path = "thresholds" if isinstance(thresholds, Mapping) else thresholds
    if not isinstance(thresholds, Mapping):
        text = read_text(thresholds, "a JSON file of thresholds")
        try:
            thresholds = json.loads(text)
        except ValueError as error:
            raise BadInput(path, f"is no JSON ({error}), expected an object of label and threshold") from error
    if not isinstance(thresholds, Mapping):
        raise BadInput(path, f"holds a {type(thresholds).__name__}, expected an object of label and threshold")
    if thresholds.get("cases_hash") == cases_hash:
        raise BadInput(path, "was chosen on the cases that are scored here, expected thresholds of other cases")
    chosen = thresholds.get(CHOSEN, thresholds)
    found = {name: chosen[name] for name in names if name in chosen}
    if not found:
        raise BadInput(path, f"has no threshold for {', '.join(names)}, expected an object of label and threshold")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadInput(path, f"has {name} = {value!r}, expected a threshold from 0 to 1")
    return {name: float(value) for name, value in found.items()}


def _compare(
    one: _Prediction, two: _Prediction, target: np.ndarray, names: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """The second system alone, and the first minus the second on the cells that both are scored on."""
    both = np.where(one.left_out | two.left_out, np.nan, target)
    alone = multilabel_scores(two.values, np.where(two.left_out, np.nan, target), names, **options)
    _, differences = multilabel_comparison({"pred": one.values, "pred2": two.values}, both, names, "pred2", **options)
    tests, undefined = delong_by_class(both, one.values, two.values, names, _LEVEL, options["groups"])
    return {
        "pred2": {"kind": two.kind, **alone.to_dict()},
        "difference": differences["pred"].to_dict()["metrics"],
        "delong": {"per_class": {name: test.to_dict() for name, test in tests.items()}, "undefined": undefined},
    }
