"""The 14 findings of CheXpert in the text of a chest X-ray report, by rules that explain themselves.

    >>> label_cxr("Stable mild cardiomegaly. No pleural effusion or pneumothorax.")["Pneumothorax"]
    0.0

The task and the four values are those of the CheXpert labeller (Irvin 2019, https://arxiv.org/abs/1901.07031); phrases,
cues and rules are this library's own and lie in cxr_lexicon.yaml and context_lexicon.yaml.
"""

from __future__ import annotations

from functools import cache

from common.text.finding_reader import Evidence, FindingReader
from common.text.plain_text import has_text, is_english

__all__ = ["CHEXPERT_LABELS", "explain_cxr", "label_cxr"]

CHEXPERT_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
"""In the order of mimic-cxr-2.0.0-chexpert.csv."""


def label_cxr(report: str) -> dict[str, float | None]:
    """Label a report.

    Args:
        report: its text.

    Returns:
        Each of ``CHEXPERT_LABELS``: 1.0 there, 0.0 said not to be there, -1.0 uncertain, None not mentioned. Of several
        mentions the strongest counts: there, then uncertain, then not there. "No Finding" is 1.0 if the report says
        something, in English, and nothing but devices is there or uncertain, and None otherwise.
    """
    values: dict[str, set[float | None]] = {label: set() for label in CHEXPERT_LABELS}
    items = explain_cxr(report)
    for item in items:
        values[item.label].add(item.value)
    labels = {label: next((v for v in (1.0, -1.0, 0.0) if v in found), None) for label, found in values.items()}
    others = (labels[label] for label in CHEXPERT_LABELS if label not in ("No Finding", "Support Devices"))
    found = any(value in (1.0, -1.0) for value in others)
    labels["No Finding"] = None if found or not (items or (has_text(report) and is_english(report))) else 1.0
    return labels


def explain_cxr(report: str) -> list[Evidence]:
    """Return every mention of a finding in a report, with what it says and by which rule.

    Args:
        report: its text.
    """
    return _reader().read(report)


@cache
def _reader() -> FindingReader:
    return FindingReader("cxr_lexicon.yaml")
