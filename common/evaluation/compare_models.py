"""Every model of a table side by side, from the files of what they predicted: numbers, tests, tables and a page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from common.data.modalities import MODALITIES
from common.data.prediction_table import (
    TRUTH,
    PredictionTable,
    align_predictions,
    find_predictions,
    read_predictions,
    read_truth,
)
from common.evaluation.comparison_page import comparison_page
from common.evaluation.comparison_tables import (
    ALL,
    WITHOUT,
    Comparison,
    contribution_rows,
    delong_rows,
    label_rows,
    mean_rows,
    modalities_of,
    summary_rows,
)
from common.evaluation.error_attention import StudyEncoders
from common.evaluation.error_cases import find_errors, subgroup_rows
from common.evaluation.evaluation import Measured, write_measured
from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.metrics.delong import delong_by_class
from common.metrics.multilabel import MultilabelResult, choose_thresholds, multilabel_comparison
from common.visualize.tables import json_text

__all__ = ["compare_models", "measure_models", "modality_benefit"]

PathLike = str | os.PathLike[str]
SHOWN = ("model", "mean_auroc", "pooled_auroc", "min_auroc", "mean_auprc", "macro_f1", "ece", "n")


def compare_models(
    predictions: PathLike | Mapping[str, PathLike],
    labels_csv: PathLike,
    output_dir: PathLike,
    *args: Any,
    **kwargs: Any,
) -> dict[str, Any]:
    """Score all models on the same cases and write the tables and the page about them.

    Args:
        predictions: as of `measure_models`.
        labels_csv: as of `measure_models`.
        output_dir: created; gets `results_summary.csv` (a row per model), `metrics.csv` (per model and label),
            `metrics_mean.csv` (per model), `delong.csv`, `contribution.csv`, `errors.csv`, `subgroups.csv`,
            `thresholds.json`, `pictures/*.png` and `index.html`.
        args: further arguments of `measure_models`.
        kwargs: further arguments of `measure_models`.

    Returns:
        For JSON: `models` (rows of the results summary), `reference`, `differences`, `delong`, `contribution`,
        `undefined` (label -> why it has no AUROC), `thresholds`, `page`.
    """
    measured = measure_models(predictions, labels_csv, output_dir, *args, **kwargs)
    page = write_measured(Path(output_dir), measured)
    return json.loads(json_text(measured.details | {"page": str(page)}))


def measure_models(
    predictions: PathLike | Mapping[str, PathLike],
    labels_csv: PathLike,
    output_dir: PathLike,
    thresholds_from: str | None = "val",
    draws: int = 1000,
    seed: int = 0,
    reference: str = ALL,
    *,
    cases: Sequence[Mapping[str, Any]] | None = None,
    subgroups: Sequence[str] = ("sex", "age", "view"),
    errors_per_label: int = 2,
    encoders: StudyEncoders | None = None,
    document: Mapping[str, Any] | None = None,
) -> Measured:
    """Score all models on the same cases.

    Args:
        predictions: folder with `MODEL_SPLIT.csv`, or model -> such a file. `MODEL_without_MODALITY` is MODEL with
            that modality kept from it, and is shown as its contribution.
        labels_csv: the truth, `labels_SPLIT.csv`, 1, 0 or nothing.
        output_dir: created; gets `pictures/*.png`, and `thresholds.json` where thresholds are chosen.
        thresholds_from: split whose predictions and labels, lying beside those given, the thresholds are chosen on (the
            best F1 of each label); None for 0.5 alone.
        draws: bootstrap resamples, of patients.
        seed: of the resamples.
        reference: model that the others are compared with.
        cases: what is known of the cases for the page: `case`, and where there are any `image` (path of an X-ray, or
            pixels), `note`, and the columns of `subgroups`. Nothing else of them is shown.
        subgroups: columns of `cases` by which the reference is scored separately; `age` in years is grouped.
        errors_per_label: how many of the worst false positives, and as many false negatives, are shown.
        encoders: of the reference; the page shows where they looked in the few worst cases.
        document: published figures, as of `Comparison`.

    Returns:
        The tables that `compare_models` writes, its page, and its result as `details`.

    Raises:
        BadInput: if a table is damaged, models are about other cases, labels or patients than the truth, a model lacks
            predictions of the split that thresholds are chosen on, that split shares patients with the scored cases, or
            the reference is missing.
        ValueError: if `labels_csv` names no split, the thresholds are to be chosen on the split that is scored, or
            draws is below 1.
    """
    labels_csv, out = Path(labels_csv), Path(output_dir)
    split = _split_of(labels_csv)
    if thresholds_from == split:
        raise ValueError(f"Thresholds are to be chosen on {split!r}, which is scored; expected another split or None.")
    if draws < 1:
        raise ValueError(f"There are {draws} draws, expected at least 1.")
    if isinstance(predictions, Mapping):
        files = {model: Path(path) for model, path in predictions.items()}
    else:
        files = find_predictions(predictions, split)
    whole = {model: path for model, path in files.items() if WITHOUT not in model}
    if reference not in whole:
        raise BadInput(labels_csv.parent, f"holds no model {reference!r}, expected one of {', '.join(sorted(whole))}")
    models = sorted(whole, key=lambda model: (_rank(model), model))
    truth = read_truth(labels_csv)
    probabilities = {model: align_predictions(read_predictions(whole[model]), truth) for model in models}
    thresholds = None
    if thresholds_from is not None:
        thresholds = _choose(whole, labels_csv, split, thresholds_from, truth)
    options = {"draws": draws, "seed": seed, "groups": truth.patients}
    scores, differences = multilabel_comparison(
        probabilities, truth.values, truth.labels, reference, thresholds=thresholds, **options
    )
    tests, undefined = {}, {}
    for model in models:
        if model != reference:
            tests[model], undefined = delong_by_class(
                truth.values, probabilities[model], probabilities[reference], truth.labels, groups=truth.patients
            )
    found = Comparison(
        truth.labels, truth, probabilities, thresholds, scores, differences, tests, undefined,
        _contribution(files, probabilities, truth, options), reference,
        {"split": split, "thresholds_from": thresholds_from, "draws": draws, "seed": seed}, document or {},
    )  # fmt: skip
    errors = find_errors(truth, probabilities[reference], thresholds and thresholds[reference], errors_per_label)
    groups = subgroup_rows(found.truth, probabilities[reference], cases or (), subgroups, draws, seed)

    out.mkdir(parents=True, exist_ok=True)
    rows = summary_rows(found)
    tables = {
        "results_summary": rows,
        "metrics": label_rows(found),
        "metrics_mean": mean_rows(found),
        "delong": delong_rows(found),
        "contribution": contribution_rows(found),
        "errors": [error.row() for error in errors],
        "subgroups": groups,
    }
    if thresholds is not None:
        write_text(out / "thresholds.json", json_text(thresholds, indent=1))
    else:
        (out / "thresholds.json").unlink(missing_ok=True)
    page = comparison_page(out, found, tables, errors, cases or (), encoders)
    area = scores[reference].scores["auroc"]
    details = {
        "models": rows,
        "reference": reference,
        "differences": {model: result.scores["auroc"].macro.to_dict() for model, result in sorted(differences.items())},
        "delong": {model: {n: t.to_dict() for n, t in of_label.items()} for model, of_label in tests.items()},
        "contribution": tables["contribution"],
        "undefined": area.undefined,
        "thresholds": thresholds,
    }
    shown = [{name: row[name] for name in SHOWN} for row in rows]
    return Measured(tables, shown, cases=len(truth.cases), page=page, number_format=".6g", details=details)


def modality_benefit(summaries: Sequence[Sequence[Mapping[str, Any]]], metric: str = "mean_auroc") -> dict[str, Any]:
    """Whether all modalities beat the best single one, over several seeds.

    The single model is the best one of each seed on the scored cases, which favours it.

    Args:
        summaries: the rows of one results summary for each seed; `all` and the single modalities are used.
        metric: the column that is compared.

    Returns:
        `metric`, `seeds`, `all` and `best_single` (a value per seed), `single` (which one), `differences`, their `mean`
        and, from two seeds on, `low` and `high`, the 95 % interval of Student's t over the seeds.

    Raises:
        ValueError: if there is no seed, or one lacks a model or its value.
    """
    if not summaries:
        raise ValueError("There is no results summary, expected one for each seed.")
    whole, best, which = [], [], []
    for seed, rows in enumerate(summaries):
        values = {row["model"]: row.get(metric) for row in rows if row["model"] in (ALL, *MODALITIES)}
        missing = [name for name in (ALL, *MODALITIES) if values.get(name) in (None, "")]
        if missing:
            raise ValueError(f"Summary {seed} has no {metric} of {missing[0]!r}, expected one.")
        single = max(MODALITIES, key=lambda name, values=values: float(values[name]))
        whole.append(float(values[ALL]))
        best.append(float(values[single]))
        which.append(single)
    differences = np.subtract(whole, best)
    result = {"metric": metric, "seeds": len(whole), "all": whole, "best_single": best, "single": which}
    result |= {"differences": differences.tolist(), "mean": float(differences.mean())}
    if len(whole) > 1:
        half = float(t.ppf(0.975, len(whole) - 1) * differences.std(ddof=1) / math.sqrt(len(whole)))
        result |= {"low": result["mean"] - half, "high": result["mean"] + half}
    return result


def _split_of(labels_csv: Path) -> str:
    split = labels_csv.stem.removeprefix(f"{TRUTH}_")
    if labels_csv.suffix != ".csv" or split == labels_csv.stem or not split:
        raise ValueError(f"{labels_csv}: names no split, expected {TRUTH}_SPLIT.csv.")
    return split


def _choose(
    files: Mapping[str, Path], labels_csv: Path, split: str, other: str, scored: PredictionTable
) -> dict[str, dict[str, float]]:
    """Thresholds of each model, from the predictions of another split that lie beside those of the scored one."""
    truth = read_truth(labels_csv.with_name(f"{TRUTH}_{other}.csv"))
    shared = sorted(set(truth.patients) & set(scored.patients))
    if shared:
        raise BadInput(
            truth.path, f"shares {len(shared)} patients with {labels_csv}, expected none to choose thresholds"
        )
    if set(truth.labels) != set(scored.labels):
        raise BadInput(truth.path, f"has other labels than {labels_csv}, expected the same")
    chosen = {}
    for model, path in files.items():
        beside = path.with_name(path.name.removesuffix(f"_{split}.csv") + f"_{other}.csv")
        if not path.name.endswith(f"_{split}.csv") or not beside.is_file():
            raise BadInput(beside, f"does not exist, expected the predictions of {model} on {other} for its thresholds")
        probabilities = align_predictions(read_predictions(beside), truth)
        chosen[model] = choose_thresholds(probabilities, truth.values, truth.labels)
    return chosen


def _contribution(
    files: Mapping[str, Path],
    probabilities: Mapping[str, np.ndarray],
    truth: PredictionTable,
    options: Mapping[str, Any],
) -> dict[str, dict[str, MultilabelResult]]:
    """Model -> modality left out -> differences to the whole model."""
    kept: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(files, key=lambda name: _rank(name.partition(WITHOUT)[2])):
        model, _, modality = name.partition(WITHOUT)
        if modality:
            if model not in probabilities:
                raise BadInput(files[name], f"belongs to a model {model!r} without predictions, expected them, too")
            kept.setdefault(model, {})[modality] = align_predictions(read_predictions(files[name]), truth)
    found = {}
    for model, systems in kept.items():
        together = {WITHOUT: probabilities[model], **systems}  # no modality has that name
        found[model] = multilabel_comparison(together, truth.values, truth.labels, WITHOUT, **options)[1]
    return found


def _rank(model: str) -> int:
    """Fewer modalities first, in their order; models of none last."""
    used = modalities_of(model)
    order = sum(1 << MODALITIES.index(modality) for modality in used)
    return 8 * len(used) + order if used else 100
