"""The 18 abnormalities of CT-RATE in the text of a chest CT report, by rules that explain themselves.

    >>> label_ct("Linear atelectasis is observed in the left lung. Pleural effusion was not detected.")["Atelectasis"]
    1

The task is that of the labels of CT-RATE (Hamamci 2024, https://arxiv.org/abs/2403.17834), whose reports were
translated from Turkish; phrases and cues are this library's own and lie in ct_lexicon.yaml and context_lexicon.yaml.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from common.text.ct_labels import CT_RATE_LABELS
from common.text.finding_reader import ASIDE, Evidence, FindingReader
from common.text.sections import split_sections

__all__ = ["explain_ct", "label_ct"]

_LUNG, _ELSEWHERE, _SAME = "in the lung", "elsewhere", "the same place"
_PLACES = frozenset((_LUNG, _ELSEWHERE, _SAME))
_OF_THE_LUNG = " (lung)"
"""Ends the labels of phrases that are also used of other organs."""

_FINE = re.compile(r"[^.;,]{0,30}\b(?:normal|unremarkable|natural|clear|preserved)\b")
_NEXT_CLAUSE = re.compile(r"[,;]|\band\b")
_STOPS = '"“”·'
"""What parts the items of an impression, as a semicolon does."""


def label_ct(report: str) -> dict[str, int]:
    """Label a report.

    Args:
        report: its text.

    Returns:
        Each of ``CT_RATE_LABELS``: 1 there, 0 not there or not mentioned. What is only possible counts as there.
    """
    found = {item.label for item in explain_ct(report) if item.value in (1.0, -1.0)}
    return {label: int(label in found) for label in CT_RATE_LABELS}


def explain_ct(report: str) -> list[Evidence]:
    """Return every mention of an abnormality in a report, with what it says and by which rule.

    Args:
        report: its text.
    """
    found: list[Evidence] = []
    place = _LUNG
    for read in _reader().sentences(report, _told, _STOPS):
        place = _keep_lung(report, read, place, found)
    return found


def _told(report: str) -> list[tuple[int, int]]:
    """The parts of a report that say what the image shows: all but indication, technique ..., where it has such parts.

    A report that only seems to have headers ("Comparison: CT of May. The trachea is open ...") is read whole.
    """
    parts = split_sections(report) if ":" in report else []
    if not any(part.name in ("findings", "impression") for part in parts):
        return [(0, len(report))]
    return [(part.start, part.end) for part in parts if part.name not in ASIDE]


def _keep_lung(report: str, read: list[Evidence], place: str, found: list[Evidence]) -> str:
    """Add to `found` what a sentence says, but not what it says of other organs; return the last place named."""
    places = [item for item in read if item.label in (_LUNG, _ELSEWHERE)]
    inherited = place if any(item.label == _SAME for item in read) else _LUNG
    k = 0
    for item in read:
        if item.label in _PLACES:
            continue
        if item.label.endswith(_OF_THE_LUNG):
            while k < len(places) and places[k].start < item.start:
                k += 1
            near = [_distance(report, item, place) for place in places[max(0, k - 1) : k + 2]]
            if min(near, default=(False, 0, inherited))[2] == _ELSEWHERE:
                continue
            item = replace(item, label=item.label.removesuffix(_OF_THE_LUNG))
        found.append(item)
    return places[-1].label if places else place


def _distance(report: str, item: Evidence, place: Evidence) -> tuple[bool, int, str]:
    """Whether a place is in another clause, how many characters it is away, and which it is."""
    start, end = (place.end, item.start) if place.start < item.start else (item.end, place.start)
    is_apart = _NEXT_CLAUSE.search(report, start, max(start, end)) is not None
    if is_apart and end == place.start and _FINE.match(report, place.end):
        return True, len(report), _LUNG  # "nodules, liver and spleen are normal"
    return is_apart, end - start, place.label


@cache
def _reader() -> FindingReader:
    return FindingReader("ct_lexicon.yaml")
