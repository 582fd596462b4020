"""Findings put into sentences: what a report says that is written from labels alone."""

from __future__ import annotations

from collections.abc import Mapping

from common.data.cxr.reports import TARGETS
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.cxr_template import cxr_report

__all__ = ["FindingSentences"]


class FindingSentences:
    """Writes the sections of a report that state labels, by the template of virtual reports.

    Args:
        target: which sections, one of `common.data.cxr.reports.TARGETS`.
    """

    def __init__(self, target: str = "findings") -> None:
        self.sections = TARGETS[target]

    def __call__(self, labels: Mapping[str, float | None], seed: int) -> str:
        """A report of the labels that are 1.0; "No Finding" follows from the others."""
        given = {name: labels.get(name) if name != "No Finding" else None for name in CHEXPERT_LABELS}
        report = cxr_report([], given, None, None, seed, incidental=False)
        return " ".join(report.sections[name] for name in self.sections)
