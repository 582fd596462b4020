"""The page of an evaluation of reports: figures beside those of simple methods, reports beside their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.visualize.attention import grey_picture
from common.visualize.figures import OKABE_ITO
from common.visualize.html_report import Card, Page, Picture, Section, Table

__all__ = ["report_page", "thumbnail"]

_BARS = {"bleu_4": "BLEU-4", "micro_f1_14": "micro-F1, findings"}
_WORDING = ("system", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor_exact_stem", "rouge_l", "cider")
_FINDINGS = ("system", "micro_f1_14", "macro_f1_14", "micro_f1_5", "distinct_reports")


def report_page(
    scored: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]],
    examples: Sequence[tuple[Mapping[str, Any], np.ndarray | None]],
) -> Page:
    """Put the page together.

    Args:
        scored: a row per method on the split that counts, the model first; see
            `common.evaluation.reports.ReportEvaluation`.
        others: rows of the model on other splits.
        published: rows of others' figures.
        examples: cases with "case", "report" and "reference", and their images (H, W) or None.
    """
    model = scored[0]
    split, cases = model["split"], model["cases"]
    lead = f"Reports of {cases} cases of the split {split}, beside those of simple methods, some of which do not look."
    facts = {"Cases": str(cases), "Split": str(split), "Intervals": "95 %, bootstrap over patients"}
    wording = "Wording, on texts in small letters without punctuation; METEOR with exact words and stems"
    findings = (
        "Findings that a labeller reads in both texts, uncertain ones as positive, over 14 labels and over 5; p of the "
        "difference to the model, paired over patients; distinct: different texts per case"
    )
    compared = [name for name in scored[-1] if name.endswith("_p")]
    results = Section(
        "Results",
        facts,
        "Shuffled are the model's own reports of other patients' images: what is left of a figure then is language.",
        [
            Table.of_rows(scored, _WORDING, wording),
            Table.of_rows(scored, (*_FINDINGS, *compared), findings),
        ],
        [Picture.of_figure(_bars(scored), f"Split {split}: {' and '.join(_BARS.values())} with 95 % intervals.")],
    )
    cards = [
        Card(
            str(case["case"]),
            [f"Reference: {case['reference']}", f"Model: {case['report'] or 'nothing'}"],
            None if image is None else Picture.of_figure(thumbnail(image), f"X-ray of case {case['case']}."),
        )
        for case, image in examples
    ]
    sections = [results, Section("Reports beside their references", cards=cards)]
    if others:
        sections.append(Section("Other splits", tables=[Table.of_rows(others, ("split", "cases", *_WORDING[1:]))]))
    if published:
        text = "As others published or logged them, on other data; not to be compared with figures above."
        columns = [name for name in dict.fromkeys(key for row in published for key in row) if name != "split"]
        sections.append(Section("Published figures", text=text, tables=[Table.of_rows(published, columns)]))
    return Page("Evaluation of reports", lead, facts, sections)


def _bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 0.9 + 0.36 * len(rows)), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(_BARS), sharey=True), _BARS.items(), strict=True):
        for i, row in enumerate(rows):
            axes.barh(i, np.nan_to_num(row[name]), color=OKABE_ITO[0] if i == 0 else "#a9c7dd")
            axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [i, i], color="black", linewidth=1.2)
        axes.set_yticks(range(len(rows)), [str(row["system"]) for row in rows], fontsize=9)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    return figure


def thumbnail(image: np.ndarray) -> Figure:
    """A small grey picture of an image (H, W)."""
    figure = Figure(figsize=(2.2, 2.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grey_picture(image), cmap="gray")
    axes.axis("off")
    return figure
