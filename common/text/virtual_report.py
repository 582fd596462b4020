"""A report whose truth is known: its sections, its text, its labels and the words that state them."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.text.template_phrases import Span, expand, plain, sentence, word_count

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

    def wrapped(self) -> str:
        """The text in lines of at most 79 characters, each after a leading blank, as MIMIC-CXR has it."""
        wrap = textwrap.TextWrapper(79, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False).wrap
        return "".join(f"{part}\n" for line in self.text.splitlines() for part in wrap(line) or [line])


def assemble(sections: Mapping[str, str], labels: Mapping[str, float | int | None]) -> VirtualReport:
    """Put a report together.

    Args:
        sections: name -> marked text, see `common.text.template_phrases.expand`.
        labels: of the report, as in `VirtualReport`.
    """
    text, found, clean = _TITLE, [], {}
    for name in sorted(sections, key=_ORDER.index):
        body, spans = plain(sections[name])
        text += f" {name.upper()}: "
        found += [Span(span.label, span.value, span.start + len(text), span.end + len(text)) for span in spans]
        text += f"{body}\n \n"
        clean[name] = body
    return VirtualReport(clean, text.rstrip() + "\n", dict(labels), tuple(found))


def header(
    bank: Mapping[str, Any],
    technique: Sequence[str],
    has_prior: bool,
    person: str,
    rng: random.Random,
    symptom: str = "",
    known: str = "",
) -> dict[str, str]:
    """Indication, technique and comparison of a report, marked; no label is stated in them.

    Args:
        bank: of phrases.
        technique: templates of that section.
        has_prior: whether there is an earlier examination.
        person: the patient in words.
        rng: decides between wordings.
        symptom: the first one; empty draws it.
        known: what the patient has come with before and is followed for; empty for nothing.
    """
    symptoms = rng.sample(bank["symptoms"], 2)
    values = {"person": person, "symptoms": symptom or symptoms[0], "symptoms_b": symptoms[1], "known": known}
    comparison = bank["comparison" if has_prior else "no_comparison"]
    indication = bank["indication_known" if known else "indication"]
    lines = {"indication": indication, "technique": technique, "comparison": comparison}
    return {name: sentence(expand(rng.choice(line), rng, values)) for name, line in lines.items()}


def fill_up(
    parts: dict[str, list[str]], order: Sequence[str], impression: str, target: int, more: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Findings and impression of a report, marked.

    Args:
        parts: part of the findings -> sentences that must be said; what is added is added here.
        order: of the parts.
        impression: marked.
        target: words from which on nothing is added.
        more: (part, sentence) that may be added as long as the report has at most `MAX_WORDS`.
    """
    words = word_count(impression) + sum(word_count(text) for texts in parts.values() for text in texts)
    for part, text in more:
        if words >= target:
            break
        if words + word_count(text) <= MAX_WORDS:
            parts.setdefault(part, []).append(text)
            words += word_count(text)
    return {"findings": " ".join(text for part in order for text in parts.get(part, ())), "impression": impression}
