"""How hard a chest X-ray report is to write, from its text, and the regions that its findings are seen in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from common.text.cxr_labeller import CHEXPERT_LABELS, explain_cxr, label_cxr
from common.text.phrases import PhraseMatcher, Tokens
from common.text.sentences import split_sentences

__all__ = ["REGIONS", "WEIGHTS", "Difficulty", "finding_regions", "report_difficulty"]

REGIONS = ("right lung", "left lung", "heart", "mediastinum", "spine", "diaphragm", "costophrenic angles")
"""Of a frontal chest X-ray, in the order of everything that has one of them each."""

WEIGHTS = {"findings": 2.0, "uncertain": 1.5, "regions": 0.5, "severe": 1.0, "words": 0.02}
"""Points of each count of `Difficulty`, added up."""
_BESIDE = ("No Finding", "Support Devices")
_SIDES = {"right": "right lung", "left": "left lung"}


class Difficulty(NamedTuple):
    """Counts of a report."""

    findings: int
    """Labels of CheXpert that are there, without devices and "No Finding"."""
    uncertain: int
    """Labels that are uncertain."""
    regions: int
    """Regions that are named, whatever is said of them."""
    severe: int
    """Words that say that something is bad, in sentences with a finding."""
    words: int

    def score(self, weights: Mapping[str, float] = WEIGHTS) -> float:
        """0 for a report that is normal (no label is there or uncertain), else the weighted sum."""
        if not self.findings and not self.uncertain:
            return 0.0
        return sum(weights[name] * count for name, count in self._asdict().items())


def report_difficulty(report: str) -> Difficulty:
    """Count what makes a report hard to write."""
    labels = {label: value for label, value in label_cxr(report).items() if label not in _BESIDE}
    found = [item for item in explain_cxr(report) if item.value in (1.0, -1.0) and item.label not in _BESIDE]
    regions, severe, words = set(), 0, 0
    for sentence in split_sentences(report):
        tokens = Tokens(sentence.text, sentence.start)
        keys = [match.key for match in _words().find(tokens)]
        regions |= {key for key in keys if key != "severe"}
        if any(sentence.start <= item.start < sentence.end for item in found):
            severe += keys.count("severe")
        words += len(tokens.words)
    values = list(labels.values())
    return Difficulty(values.count(1.0), values.count(-1.0), len(regions), severe, words)


def finding_regions(report: str) -> dict[str, tuple[str, ...]]:
    """Each label of CheXpert that a report says is there or uncertain, with the regions where it is seen."""
    table, regions = _table(), {}
    for item in explain_cxr(report):
        if item.value not in (1.0, -1.0) or not table["labels"][item.label]:
            continue
        where = table["labels"][item.label]
        if set(where) == set(_SIDES.values()):
            near = Tokens(_around(report, item.start)).words
            where = [lung for side, lung in _SIDES.items() if side in near] or where
        regions.setdefault(item.label, set()).update(where)
    return {label: tuple(name for name in REGIONS if name in found) for label, found in regions.items()}


def _around(report: str, place: int) -> str:
    """The sentence that a character of a report stands in."""
    return next((s.text for s in split_sentences(report) if s.start <= place < s.end), "")


@cache
def _table() -> dict:
    table = yaml.safe_load((Path(__file__).parent / "label_regions.yaml").read_text(encoding="utf-8"))
    known = set(REGIONS)
    named = {name for where in table["labels"].values() for name in where} | set(table["words"])
    if set(table["labels"]) != set(CHEXPERT_LABELS) or not named <= known:
        raise ValueError(f"label_regions.yaml names {sorted(named - known)}, expected the labels and its own regions")
    return table


@cache
def _words() -> PhraseMatcher:
    table = _table()
    phrases = [(region, phrase) for region, rows in table["words"].items() for phrase in rows]
    return PhraseMatcher([*phrases, *(("severe", phrase) for phrase in table["severe"])])
