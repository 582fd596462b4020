"""A report whose truth is known: its sections, its text, its labels and the words that state them."""

from __future__ import annotations

import re
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

    @property
    def n_words(self) -> int:
        """Words of findings and impression, as blanks separate them."""
        return len(self.narrative.split())

    def ct_rate_columns(self) -> dict[str, str]:
        """The four report columns of CT-RATE."""
        names = {"ClinicalInformation_EN": "indication", "Technique_EN": "technique"}
        names |= {"Findings_EN": "findings", "Impressions_EN": "impression"}
        return {column: self.sections[name] for column, name in names.items()}

    def wrapped(self, width: int = 79) -> VirtualReport:
        """The same report with lines of at most `width` characters, each after a leading blank, as MIMIC-CXR has it.

        Words longer than a line stay whole. The spans point into the new text, in which words may be separated by a
        line break.

        Args:
            width: of a line, leading blank included.
        """
        moves = []  # (position in the old text, number of characters added before it)
        lines = []
        position = added = 0
        for line in self.text.splitlines(keepends=True):
            body = line.rstrip("\n")
            column = 0
            for word in re.finditer(r"\s*\S+", body):
                if column and column + len(word[0]) > width and word[0][0] == " " and len(word[0].strip()) < width:
                    lines.append("\n")
                    added += 1
                    column = 0
                    moves.append((position + word.start() + 1, added))
                lines.append(word[0])
                column += len(word[0])
            lines.append(line[len(body.rstrip()) :])
            position += len(line)

        def moved(offset: int) -> int:
            return offset + max((shift for start, shift in moves if start <= offset), default=0)

        spans = tuple(Span(s.label, s.value, moved(s.start), moved(s.end - 1) + 1) for s in self.spans)
        return VirtualReport(self.sections, "".join(lines), self.labels, spans)


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
