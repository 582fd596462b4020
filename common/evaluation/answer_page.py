"""The page of an evaluation of answers: figures beside those of simple methods, and failures with what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.evaluation.report_page import thumbnail
from common.visualize.html_report import Card, Page, Picture, Section, Table

__all__ = ["answer_page"]

_FORMS = {
    "a": "Findings of an image",
    "b": "Reasoning and diagnoses from an image and a record",
}
_TEXT = {
    "a": "micro_f1, macro_f1 and micro_f1_5 are of the findings that an answer names, uncertain ones as positive; "
    "impression_micro_f1 of those that a labeller reads in its impression; agreement is the F1 of the two.",
    "b": "micro_f1 and macro_f1 are of the groups of diagnoses; values_told are values in the reasoning for each "
    "answer, values_in_ehr the share of these that the question told, values_right the share of those that are named "
    "as what they are.",
}


def answer_page(
    rows: Sequence[Mapping[str, Any]],
    goals: Sequence[Mapping[str, Any]],
    examples: Sequence[tuple[Mapping[str, Any], np.ndarray | None]],
) -> Page:
    """Put the page together.

    Args:
        rows: a row per form of answers and method, see `common.evaluation.answers.AnswerEvaluation`.
        goals: rows of others' figures or goals.
        examples: cases with "case", "reference", "said", "truth" and "ehr", and their images (H, W) or None.
    """
    sections = []
    for form, title in _FORMS.items():
        of_form = [row for row in rows if row["answers"] == form]
        if of_form:
            shown = [{k: v for k, v in row.items() if k not in ("answers", "split", "cases")} for row in of_form]
            columns = list(dict.fromkeys(key for row in shown for key in row))
            facts = {"Cases": str(of_form[0]["cases"]), "Split": str(of_form[0]["split"])}
            note = "model_minus: the model's micro-F1 above that of the row, 95 % interval by bootstrap over patients"
            sections.append(Section(title, facts, _TEXT[form], [Table.of_rows(shown, columns, note)]))
    cards = [
        Card(
            str(case["case"]),
            [
                f"EHR: {case['ehr'] or 'none'}",
                f"Expected: {case['truth']}",
                f"Model: {case['said'] or 'nothing'}" + ("" if case["valid"] else " (does not parse)"),
            ],
            None if image is None else Picture.of_figure(thumbnail(image), f"X-ray of case {case['case']}."),
        )
        for case, image in examples
    ]
    sections.append(Section("Failures, the worst first", cards=cards))
    if goals:
        columns = list(dict.fromkeys(key for row in goals for key in row))
        text = "Goals of the document, on other data; not to be compared with figures above."
        sections.append(Section("Goals", text=text, tables=[Table.of_rows(goals, columns)]))
    split = rows[0]["split"]
    lead = f"Answers to questions about the X-rays of the split {split}, beside those of simple methods."
    return Page("Evaluation of answers", lead, {"Split": str(split)}, sections)
