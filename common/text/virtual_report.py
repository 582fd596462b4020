"""A report whose truth is known: its sections, its text, its labels and the words that state them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from common.text.template_phrases import Span, plain

__all__ = ["Span", "VirtualReport", "assemble"]

MIN_WORDS, MAX_WORDS = 50, 200
"""Of findings and impression together."""

_TITLE = " " * 33 + "FINAL REPORT\n"
_ORDER = ("examination", "indication", "technique", "comparison", "findings", "impression")


@dataclass(frozen=True)
class VirtualReport:
    """A radiology report made from known facts.

    Attributes:
        sections: lower-case name -> text, in the order of the report; "findings", "impression", "indication",
            "technique" and "comparison" are always there.
        text: the whole report in the layout of MIMIC-CXR (a blank before every header), one line per section.
        labels: what the report says: 1.0, 0.0, -1.0 or None (not mentioned) for X-ray, 1 or 0 for CT.
        spans: (label, value, start, end); `text[start:end]` are the words that state the label.
    """

    sections: dict[str, str]
    text: str
    labels: dict[str, float | int | None]
    spans: tuple[Span, ...]

    @property
    def narrative(self) -> str:
        """Findings and impression, the part that labels are read from."""
        return f"{self.sections['findings']} {self.sections['impression']}"

    def ct_rate_columns(self) -> dict[str, str]:
        """The four report columns of CT-RATE."""
        names = {"ClinicalInformation_EN": "indication", "Technique_EN": "technique"}
        names |= {"Findings_EN": "findings", "Impressions_EN": "impression"}
        return {column: self.sections[name] for column, name in names.items()}

    def wrapped(self, width: int = 79) -> str:
        """The text in lines of at most `width` characters, each after a leading blank, as MIMIC-CXR has it.

        Words longer than a line stay whole.
        """
        lines = []
        for line in self.text.splitlines():
            lines += textwrap.wrap(
                line, width, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
            ) or [line]
        return "\n".join(lines) + "\n"


def assemble(sections: Mapping[str, str], labels: Mapping[str, float | int | None]) -> VirtualReport:
    """Put a report together.

    Args:
        sections: name -> marked text, see `common.text.template_phrases.expand`.
        labels: what it says.
    """
    text, found, clean = _TITLE, [], {}
    for name in sorted(sections, key=_ORDER.index):
        body, spans = plain(sections[name])
        text += f" {name.upper()}: "
        found += [Span(span.label, span.value, span.start + len(text), span.end + len(text)) for span in spans]
        text += f"{body}\n \n"
        clean[name] = body
    return VirtualReport(clean, text.rstrip() + "\n", dict(labels), tuple(found))
