"""The tables of a comparison of models: a row per model, per model and label, per test and per modality left out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.data.modalities import MODALITIES
from common.data.prediction_table import PredictionTable
from common.metrics.delong import DeLongTest
from common.metrics.multilabel import MultilabelResult

__all__ = [
    "Comparison",
    "contribution_rows",
    "delong_rows",
    "document_rows",
    "label_rows",
    "mean_rows",
    "modalities_of",
    "summary_rows",
]

ALL = "all"
WITHOUT = "_without_"
"""In the name of predictions: MODEL_without_MODALITY are those of a model that was not given that modality."""


@dataclass(frozen=True)
class Comparison:
    """What was found, for the page and for other programs.

    Attributes:
        names: the labels.
        truth: labels of the cases, 1, 0 and NaN.
        probabilities: model -> (n, C); only of models, not of those without a modality.
        thresholds: model -> label -> threshold chosen on other cases; None where none were chosen.
        scores: model -> metrics.
        differences: model -> metrics minus those of the reference.
        delong: model -> label -> paired test against the reference.
        delong_undefined: label -> why there is no test.
        contribution: model -> modality left out at test time -> metrics minus those of the whole model.
        reference: the model the others are compared with.
        settings: "split", "thresholds_from", "draws" and "seed".
        document: published figures to stand beside these: "labels" (names), "rows" {name: {"mean": as printed, "auroc":
            one per label}}, "goals" {model: mean AUROC}, "note" (where they come from); empty for none.
    """

    names: tuple[str, ...]
    truth: PredictionTable
    probabilities: dict[str, np.ndarray]
    thresholds: dict[str, dict[str, float]] | None
    scores: dict[str, MultilabelResult]
    differences: dict[str, MultilabelResult]
    delong: dict[str, dict[str, DeLongTest]]
    delong_undefined: dict[str, str]
    contribution: dict[str, dict[str, MultilabelResult]]
    reference: str
    settings: dict[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def operating_point(self) -> str:
        """Which thresholds the F1 of the tables is taken at."""
        return "0.5" if self.thresholds is None else "chosen"


def modalities_of(model: str) -> tuple[str, ...]:
    """The modalities that a model's name says it uses: `vision_text_stage2` has vision and text, `all` has all three.

    A name that begins with no modality has none.
    """
    name = model.split(WITHOUT)[0]
    if name == ALL or name.startswith(f"{ALL}_"):
        return MODALITIES
    found = re.match(f"(?:{'|'.join(MODALITIES)})(?:_(?:{'|'.join(MODALITIES)}))*(?=_|$)", name)
    return tuple(found.group().split("_")) if found else ()


def summary_rows(found: Comparison) -> list[dict[str, Any]]:
    """Rows of results_summary.csv. F1 is taken at the chosen thresholds, without any at 0.5; NaN where undefined."""
    rows = []
    for model, result in found.scores.items():
        area, f1 = result.scores["auroc"], result.scores[f"f1@{found.operating_point}"]
        areas = {name: interval.value for name, interval in area.per_class.items()}
        defined = [value for value in areas.values() if not math.isnan(value)]
        rows.append(
            {
                "model": model,
                "modalities": "+".join(modalities_of(model)),
                "mean_auroc": area.macro.value,
                "pooled_auroc": area.micro.value,
                "min_auroc": min(defined, default=math.nan),
                "mean_auprc": result.scores["auprc"].macro.value,
                "macro_f1": f1.macro.value,
                "micro_f1": f1.micro.value,
                "ece": result.scores["ece"].macro.value,
                "brier": result.scores["brier"].macro.value,
                "n": result.cases,
                **{f"auroc_{name}": value for name, value in areas.items()},
            }
        )
    return rows


def label_rows(found: Comparison) -> list[dict[str, Any]]:
    """Rows of metrics.csv: every metric of every model and label with its interval, NaN where undefined, and why."""
    rows = []
    for model, result in found.scores.items():
        for name in found.names:
            row = {"model": model, "label": name, **result.support[name]}
            for metric, scores in result.scores.items():
                interval = scores.per_class[name]
                row |= {metric: interval.value, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            row["threshold"] = (found.thresholds or {}).get(model, {}).get(name, math.nan)
            reasons = {scores.undefined[name] for scores in result.scores.values() if name in scores.undefined}
            rows.append(row | {"undefined": "; ".join(sorted(reasons))})
    return rows


def mean_rows(found: Comparison) -> list[dict[str, Any]]:
    """Rows of metrics_mean.csv: means over the labels that have a value, and the mean AUROC against the reference."""
    rows = []
    shown = ["auroc", "auprc", f"f1@{found.operating_point}", "brier", "ece"]
    for model, result in found.scores.items():
        macro = {metric: result.scores[metric].macro for metric in shown}
        area = result.scores["auroc"]
        row: dict[str, Any] = {"model": model, "labels": len(found.names) - len(area.undefined)}
        for metric, interval in macro.items():
            name = metric.split("@")[0]
            row[name] = interval.value
            if name in ("auroc", "auprc"):
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        row["pooled_auroc"] = area.micro.value
        if model != found.reference:
            difference = found.differences[model].scores["auroc"].macro
            row |= {
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
            }
        rows.append(row)
    return rows


def delong_rows(found: Comparison) -> list[dict[str, Any]]:
    """Rows of delong.csv: the test of every model against the reference per label.

    `p_holm` is corrected for the number of labels of a model (Holm, Scandinavian Journal of Statistics 6:65, 1979).
    """
    rows = []
    for model, tests in found.delong.items():
        corrected = holm([test.p for test in tests.values()])
        for (name, test), p_holm in zip(tests.items(), corrected, strict=True):
            rows.append(
                {"model": model, "reference": found.reference, "label": name, "auroc": test.auroc_a}
                | {"auroc_reference": test.auroc_b, "difference": test.difference, "low": test.low, "high": test.high}
                | {"p": test.p, "p_holm": p_holm, "undefined": ""}
            )
        for name, why in found.delong_undefined.items():
            rows.append({"model": model, "reference": found.reference, "label": name, "undefined": why})
    return rows


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of several p-values; NaN stays NaN and is not counted."""
    values = np.asarray(p, float)
    corrected, largest = values.copy(), 0.0
    order = [i for i in np.argsort(values) if not math.isnan(values[i])]
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = largest
    return corrected.tolist()


def contribution_rows(found: Comparison) -> list[dict[str, Any]]:
    """Rows of contribution.csv: AUROC without a modality minus AUROC with it; the mean's interval is paired."""
    return [
        {
            "model": model,
            "without": modality,
            "mean_auroc": result.scores["auroc"].macro.value,
            "low": result.scores["auroc"].macro.low,
            "high": result.scores["auroc"].macro.high,
            **{f"auroc_{name}": interval.value for name, interval in result.scores["auroc"].per_class.items()},
        }
        for model, dropped in found.contribution.items()
        for modality, result in dropped.items()
    ]


def document_rows(found: Comparison) -> list[dict[str, Any]]:
    """The document's table beside the models here; empty if they know none of its labels.

    The means that a document prints need not be those of its columns, so these stand beside them.
    """
    wanted = found.document.get("labels", ())
    if not set(wanted) & set(found.names):
        return []
    rows: list[dict[str, Any]] = []
    mean_of = f"mean of {len(wanted)}"
    for name, printed in found.document["rows"].items():
        areas = printed["auroc"]
        row = {"model": f"{name} (document)", "as printed": printed["mean"], mean_of: sum(areas) / len(areas)}
        rows.append(row | dict(zip(wanted, areas, strict=True)))
    for model, result in found.scores.items():
        area = result.scores["auroc"]
        values = {name: area.per_class[name].value if name in area.per_class else math.nan for name in wanted}
        known = [value for value in values.values() if not math.isnan(value)]
        # A mean over fewer labels than the document's would not be comparable.
        mean = sum(known) / len(known) if len(known) == len(wanted) else math.nan
        row = {"model": model, mean_of: mean, **values}
        rows.append({name: None if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()})
    return rows
