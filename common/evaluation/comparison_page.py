"""The page of a comparison of models, and its pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.data.cxr.reader import read_xray
from common.evaluation.comparison_tables import Comparison, document_rows
from common.evaluation.error_attention import StudyEncoders, attention_section
from common.evaluation.error_cases import ErrorCase
from common.metrics.curves import calibration_curves, pr_curves, roc_curves
from common.visualize.attention import grey_picture
from common.visualize.charts import label
from common.visualize.classification import (
    auroc_bars,
    calibration_figure,
    confusion_figure,
    contribution_figure,
    pr_figure,
    roc_figure,
)
from common.visualize.figures import save_picture
from common.visualize.html_report import Card, Cell, Page, Picture, Section, Table

__all__ = ["comparison_page"]

_Drawn = Callable[[str, Figure, str], Picture]
_BAND_DRAWS = 200
_THUMBNAIL = 288
_EXCERPT = 260
_BEST = dict.fromkeys(("mean_auroc", "pooled_auroc", "min_auroc", "mean_auprc", "macro_f1", "micro_f1"), True) | {
    "ece": False,
    "brier": False,
}


def comparison_page(
    out: Path,
    found: Comparison,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    errors: Sequence[ErrorCase],
    cases: Sequence[Mapping[str, Any]],
    encoders: StudyEncoders | None = None,
) -> Page:
    """Draw OUT/pictures/*.png and make the page around them.

    Args:
        out: folder of the comparison, which exists.
        found: its results.
        tables: name of the CSV file -> its rows.
        errors: cases to show.
        cases: image and note of the cases, as `compare_models` takes them.
        encoders: of the reference, to show where they looked in the worst cases.
    """

    def drawn(name: str, figure: Figure, caption: str) -> Picture:
        return Picture.of_file(save_picture(figure, out / "pictures" / f"{name}.png", caption))

    for old in (out / "pictures").glob("looked_*.png"):  # of an earlier comparison, which may have had more
        old.unlink()
    settings, reference = found.settings, _words(found.reference)
    sections = [
        _models(found, tables, drawn),
        *_document(found),
        _labels(found, tables["delong"]),
        _curves(found, drawn),
        _decisions(found, drawn),
        *_contribution(found, tables["contribution"], drawn),
        *_subgroups(reference, tables["subgroups"]),
        _errors(found, errors, cases),
        attention_section(found, errors, cases, encoders, drawn),
        _method(found),
    ]
    facts = {
        "Cases": f"{len(found.truth.cases):,}",
        "Patients": f"{len(set(found.truth.patients)):,}",
        "Labels": str(len(found.names)),
        "Models": str(len(found.scores)),
    }
    best = max(found.scores, key=lambda name: _or(found.scores[name].scores["auroc"].macro.value, -1.0))
    area = found.scores[best].scores["auroc"].macro
    lead = (
        f"{len(found.scores)} models on split {settings['split']}, seed {settings['seed']}. "
        f"Highest mean AUROC: {_words(best)}, {_interval(area.value, area.low, area.high)}."
    )
    return Page("Comparison of models", lead, facts, sections)


def _models(found: Comparison, tables: Mapping[str, Sequence[Mapping[str, Any]]], drawn: _Drawn) -> Section:
    ranked, others = [], []
    for row, mean in zip(tables["results_summary"], tables["metrics_mean"], strict=True):
        name = {"model": _words(row["model"])}
        ends = {"95 % interval": _interval(math.nan, mean["auroc_low"], mean["auroc_high"])}
        less = [mean.get(key, math.nan) for key in ("difference", "difference_low", "difference_high")]
        if row["model"] != found.reference:
            ends[f"minus {_words(found.reference)}"] = _interval(*less, "+.3f")
        ranked.append(
            name | {"mean_auroc": row["mean_auroc"]} | ends | {key: row[key] for key in ("pooled_auroc", "min_auroc")}
        )
        others.append(name | {key: row[key] for key in ("mean_auprc", "macro_f1", "micro_f1", "ece", "brier")})
    at = "at 0.5" if found.thresholds is None else "at thresholds chosen per label on other cases"
    captions = (
        "Means over the labels that have both kinds of cases; pooled: all cells as one column; best in bold",
        f"F1 {at}; of ECE and Brier score the lowest is best",
    )
    # the goals are about the document's labels
    wanted = found.document["goals"] if document_rows(found) else {}
    goals = {f"goal {_words(m)} {goal:.3f}": goal for m, goal in wanted.items() if m in found.scores}
    means = {name: result.scores["auroc"].macro for name, result in found.scores.items()}
    picture = drawn(
        "mean_auroc",
        auroc_bars(means, found.reference, goals),
        "Mean AUROC of each model with its 95 % bootstrap interval (patients resampled); bars start at 0.5, chance."
        + (" Dotted: the goals of the training guide, for its own data." if goals else ""),
    )
    undefined = found.scores[found.reference].scores["auroc"].undefined
    notes = [f"No AUROC for {name}: {why}; it is left out of every mean." for name, why in undefined.items()]
    return Section(
        "Models",
        tables=[_table(ranked, captions[0], _BEST), _table(others, captions[1], _BEST)],
        pictures=[picture],
        notes=notes,
    )


def _document(found: Comparison) -> list[Section]:
    rows = document_rows(found)
    if not rows:
        return []
    note = f"The rows {' and '.join(found.document['rows'])} are from the document; {found.document['note']}"
    text = (
        "Another protocol: the document names neither the test cases nor the label policy of its numbers. Ours are of "
        f"split {found.settings['split']} of this run's data, {len(found.truth.cases):,} cases, with the label policy "
        "of its configuration. The two may be compared only where the data are the same."
    )
    table = _table([row | {"model": _words(row["model"])} for row in rows], "AUROC; a dash: not known here")
    return [Section("The document's table", text=text, tables=[table], notes=[note])]


def _labels(found: Comparison, delong: Sequence[Mapping[str, Any]]) -> Section:
    area = {model: result.scores["auroc"].per_class for model, result in found.scores.items()}
    support = found.scores[found.reference].support
    own = area[found.reference]
    rows = []
    for name in found.names:
        row = {"label": name, "pos / neg": f"{support[name]['positive']} / {support[name]['negative']}"}
        row |= {_words(model): values[name].value for model, values in area.items()}
        row["95 % interval"] = _interval(math.nan, own[name].low, own[name].high)
        rows.append(row)
    reference = _words(found.reference)
    tables = [_table(rows, f"AUROC of every label; the interval is that of {reference}")]
    by_label: dict[str, dict[str, Any]] = {name: {"label": name} for name in found.names}
    for row in delong:
        p, words = row.get("p_holm", math.nan), _words(row["model"])
        text = row["undefined"] or ("no scale" if math.isnan(p) else f"{row['difference']:+.3f}, p {_p(p)}")
        by_label[row["label"]][words] = "-" if row["undefined"] else text
    if delong:
        caption = (
            f"AUROC minus that of {reference}, and p of DeLong's paired test, corrected for the labels of a model "
            "(Holm); images of one patient are not taken for independent (Obuchowski 1997). A dash: fewer than 2 "
            "patients with a positive or a negative case. Not corrected for the number of models."
        )
        tables.append(_table(list(by_label.values()), caption))
    return Section("Labels", tables=tables)


def _curves(found: Comparison, drawn: _Drawn) -> Section:
    systems, labels, names = found.probabilities, found.truth.values, found.names
    settings = {"seed": found.settings["seed"], "groups": found.truth.patients}
    roc = {
        name: roc_curves(p, labels, _BAND_DRAWS if name == found.reference else 0, **settings)
        for name, p in systems.items()
    }
    pr = {name: pr_curves(p, labels) for name, p in systems.items()}
    calibration = {found.reference: calibration_curves(systems[found.reference], labels)}
    reference = _words(found.reference)
    pictures = [
        drawn(
            "roc",
            roc_figure(roc, names, found.reference),
            f"ROC curves; in brackets the positive cases. Shaded: 95 % bootstrap band of {reference} at each rate, "
            f"{_BAND_DRAWS} draws of patients; the number is its AUROC.",
        ),
        drawn(
            "precision_recall",
            pr_figure(pr, names, found.reference),
            f"Precision over recall; grey: share of positive cases; the number is {reference}'s average precision.",
        ),
        drawn(
            "calibration",
            calibration_figure(calibration, names),
            f"Calibration of {reference}: observed share of positives in ten bins of equally many cases, with Wilson's "
            "95 % interval; on the diagonal a probability means what it says.",
        ),
    ]
    return Section("Curves and calibration", pictures=pictures)


def _decisions(found: Comparison, drawn: _Drawn) -> Section:
    point, result = found.operating_point, found.scores[found.reference]
    where = "0.5" if found.thresholds is None else f"the best F1 of each label on {found.settings['thresholds_from']}"
    caption = (
        f"Confusion matrices of {_words(found.reference)}; threshold: {where}. Shades and per cent: share of a row."
    )
    picture = drawn("confusion", confusion_figure(result.confusion[point], result.thresholds[point]), caption)
    rates = ("f1", "precision", "recall", "specificity", "accuracy")
    rows = []
    for name in found.names:
        values = {rate: result.scores[f"{rate}@{point}"].per_class[name].value for rate in rates}
        rows.append({"label": name, "threshold": result.thresholds[point].get(name, math.nan)} | values)
    notes = [
        f"No threshold for {name}: the cases it would be chosen on are all positive or all negative."
        for name in found.names
        if name not in result.thresholds[point]
    ]
    return Section("Decisions", tables=[_table(rows)], pictures=[picture], notes=notes)


def _contribution(found: Comparison, rows: Sequence[Mapping[str, Any]], drawn: _Drawn) -> list[Section]:
    if not rows:
        return []
    shown = [
        {"model": _words(row["model"]), "not given": row["without"].replace("_", " and "),
         "change of mean AUROC": row["mean_auroc"],
         "95 % interval": _interval(math.nan, row["low"], row["high"], "+.3f")}
        for row in rows
    ]  # fmt: skip
    pictures = []
    for model, dropped in found.contribution.items():
        values = {
            modality: {"mean": result.scores["auroc"].macro.value}
            | {name: interval.value for name, interval in result.scores["auroc"].per_class.items()}
            for modality, result in dropped.items()
        }
        caption = f"{_words(model)}, not given a modality at test time: change of AUROC. Orange: the modality helps."
        pictures.append(drawn(f"contribution_{model}", contribution_figure(values), caption))
    text = (
        "What a trained model loses when it is not given a modality; models trained without it are in the first table."
    )
    tables = [_table(shown, "Paired on the same resampled patients")]
    return [Section("Contribution of the modalities", text=text, tables=tables, pictures=pictures)]


def _subgroups(reference: str, rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    if not rows:
        return []
    shown = [
        {"column": row["column"], "group": row["group"], "cases": row["n"], "labels": row.get("labels"),
         "mean_auroc": row.get("mean_auroc", math.nan),
         "95 % interval": _interval(math.nan, row.get("low", math.nan), row.get("high", math.nan))}
        for row in rows
    ]  # fmt: skip
    caption = (
        f"{reference}; the mean is over the labels that every group of a column has positive and negative cases of. "
        "Unknown: counted, not scored."
    )
    table = _table(shown, caption)
    return [Section("Groups of patients", tables=[table])]


def _errors(found: Comparison, errors: Sequence[ErrorCase], cases: Sequence[Mapping[str, Any]]) -> Section:
    known = {str(row["case"]): row for row in cases}
    text = (
        f"The worst cases of {_words(found.reference)} per label: negative cases with the highest probability, "
        "positive ones with the lowest. The label may be what is wrong: most labels come from reports."
    )
    if not errors:
        return Section("Errors", text=text, notes=["No case is on the wrong side of a threshold."])
    pictures: dict[str, Picture | None] = {}
    cards = []
    for error in errors:
        known_case = known.get(error.case, {})
        if error.case not in pictures:
            pictures[error.case] = _thumbnail(error.case, known_case.get("image"))
        true = found.truth.values[error.index]
        said = found.probabilities[found.reference][error.index]
        positive = [
            f"{name} {said[c]:.2f}" for c, name in enumerate(found.names) if true[c] == 1 and name != error.label
        ]
        side = "from" if error.kind == "false positive" else "below"
        lines = [
            f"Case {error.case}",
            f"Probability {error.probability:.3f}, {side} the threshold {error.threshold:.3f}",
            f"Other labels of the case: {', '.join(positive) or 'none'}",
        ]
        note = " ".join(str(known_case.get("note") or "").split())
        lines.append(f"Note: {note[:_EXCERPT]}{'...' if len(note) > _EXCERPT else ''}" if note else "No note")
        if pictures[error.case] is None:
            lines.append("No X-ray")
        cards.append(Card(f"{error.label}: {error.kind}", lines, pictures[error.case]))
    return Section("Errors", text=text, cards=cards)


def _method(found: Comparison) -> Section:
    settings = found.settings
    facts = {
        "Interval": "95 %, bootstrap percentile",
        "Draws": str(settings["draws"]),
        "Resampled": "patients",
        "Seed": str(settings["seed"]),
        "Thresholds from": str(settings["thresholds_from"] or "0.5"),
        "Reference": _words(found.reference),
    }
    return Section("Method", facts)


def _thumbnail(case: str, image: object) -> Picture | None:
    """A small picture of an X-ray, given as a path or as pixels."""
    if image is None:
        return None
    pixels = grey_picture(image if isinstance(image, np.ndarray) else read_xray(image, at_least=_THUMBNAIL).pixels)
    small = Image.fromarray(pixels)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    small.save(data, format="PNG", optimize=True)
    return Picture(data.getvalue(), f"X-ray of case {case}")


def _table(
    rows: Sequence[Mapping[str, Any]], caption: str = "", best: Mapping[str, bool] = MappingProxyType({})
) -> Table:
    """A table with three decimals, as the field prints these metrics; a dash where there is no value.

    `best` says of which columns the best value is bold, and whether that is the highest.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    numeric = {name: any(isinstance(value, int | float) for value in columns[name]) for name in names}
    winners = {
        name: (max if highest else min)([value for value in columns[name] if value is not None], default=None)
        for name, highest in best.items()
        if name in columns and len(rows) > 1
    }
    lines = []
    for i in range(len(rows)):
        line = []
        for name in names:
            value = columns[name][i]
            text = f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
            line.append(Cell(text, numeric[name], value is not None and value == winners.get(name)))
        lines.append(line)
    return Table([Cell(label(name), numeric[name]) for name in names], lines, caption)


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    """0.812 (0.790 to 0.834), without the value where it is NaN, a dash where there is nothing."""
    ends = "" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
    if math.isnan(value):
        return ends or "-"
    return f"{value:{form}} ({ends})" if ends else f"{value:{form}}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _words(model: str) -> str:
    return model.replace("_", " ")
