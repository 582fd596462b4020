"""Radiology reports cut into their sections: MIMIC-CXR, CT reports, plain text with or without headers.

The rules for capital headers, empty sections, the last paragraph and repeated sections are those of MIT-LCP's
`section_parser.py` and `create_section_files.py`. Beyond them: headers in mixed case where a report has none in
capitals, on the line of other text, without colon or in Markdown; times and removed text (`___`) inside a header; the
rule that parts a preliminary reading from the FINAL REPORT; and sub-headings of body parts, which stay in their
findings. Every section keeps its place in the report, and the time taken grows linearly with the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.text.plain_text import PlainText
from common.text.section_headers import BODY
from common.text.section_lines import BANNER, LETTER, PREAMBLE, find_headers

CONCLUSION_ORDER = ("impression", "findings", "last_paragraph", "comparison")
"""Where the conclusion of a report is looked for; the columns of `mimic_cxr_sectioned.csv`, in its order."""

LAST_PARAGRAPH = "last_paragraph"

_ADMINISTRATIVE = ("notification", "recommendations", "signature", "date")
_BLANK_LINE = re.compile(r"\n *\n")
_NOT_BLANK = re.compile(r"\S")
_SEPARATOR = re.compile(r"^[^\S\n]*(?:_{8,}|[-=*~]{3,})[^\S\n]*$", re.MULTILINE)
# "well-" at the end of a line goes on with "defined"; "right-" with "and left-sided" keeps its blank.
_BROKEN_WORD = re.compile(r"(?<=[^\W\d_])-[^\S\n]*\n[^\S\n]*(?=[^\W_])(?!(?:and|or|nor|to|versus|vs)\b(?!-))")
_TITLE = re.compile(r"\b(?:chest|radiographs?|x-?rays?|portable|views?|cxr|ct|film|study|exam(?:ination)?)\b", re.I)
_SAYS_SOMETHING = re.compile(r"\b(?:is|are|was|were|has|have|no|there|show|shows|clear|normal|without|seen)\b", re.I)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: the section, such as "findings"; the header itself in lower case where it opens none that is known;
            "preamble" before the first header, "last_paragraph" for the text of a report that has no body section.
        text: `report[start:end]`, without the header.
        start: first character.
        end: the one after the last.
    """

    name: str
    text: str
    start: int
    end: int


def split_sections(report: str) -> list[Section]:
    """Cut a report into its sections.

    Args:
        report: any text.

    Returns:
        Sections in the order of the report, which do not overlap. Empty findings and impressions are left out. Where
        neither is left, the text after the first paragraph of the last section is "last_paragraph"; so is all of a
        report without headers, but for its title.
    """
    decoded = PlainText(report)
    plain = decoded.text
    headers = find_headers(plain)
    spans: list[tuple[str, int, int]] = []
    first = headers[0].name_at if headers else len(plain)
    if LETTER.search(plain, 0, first):
        spans.append((PREAMBLE, 0, first))
    for header, following in zip(headers, [*headers[1:], None], strict=False):
        end = len(plain) if following is None else following.name_at if header.section == PREAMBLE else following.cut
        spans.append((header.section, header.text_at, max(header.text_at, end)))
    spans = [span for span in spans if span[0] not in BODY or LETTER.search(plain, span[1], span[2])]
    if not any(name in BODY for name, _, _ in spans):
        spans = _with_last_paragraph(plain, spans)
    places = ((name, *decoded.span(start, end)) for name, start, end in spans)
    return [Section(name, report[start:end], start, end) for name, start, end in places]


def report_sections(report: str) -> dict[str, str]:
    """The text of each section of a report: the last one of a name that holds any.

    Args:
        report: any text.

    Returns:
        Section -> text with single blanks, words broken at the end of a line joined, without mark-up and lines that
        only separate; "impression", "findings", "last_paragraph", "comparison" first, then in the order of the report.
    """
    return sections_text(split_sections(report))


def sections_text(sections: Sequence[Section]) -> dict[str, str]:
    """What `report_sections` returns, for sections that are cut already."""
    texts: dict[str, str] = {}
    for section in sections:
        text = PlainText(section.text, signs=False).text if section.name == PREAMBLE else section.text
        text = normalise(BANNER.sub(" ", text) if section.name == PREAMBLE else text)
        if text:
            texts[section.name] = text
    return {name: texts[name] for name in CONCLUSION_ORDER if name in texts} | texts


def conclusion(sections: Mapping[str, str]) -> str:
    """What a report concludes: its impression, else its findings, last paragraph or comparison, else nothing.

    Args:
        sections: from `report_sections`.
    """
    return next((sections[name] for name in CONCLUSION_ORDER if sections.get(name)), "")


def normalise(text: str) -> str:
    """Text with single blanks, broken words joined, without mark-up and lines that only separate."""
    return " ".join(_BROKEN_WORD.sub("-", _SEPARATOR.sub(" ", PlainText(text, signs=False).text)).split())


def _with_last_paragraph(plain: str, spans: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Split the section that holds the text of a report in which neither findings nor impression has a header."""
    telling = [place for place, span in enumerate(spans) if span[0] not in _ADMINISTRATIVE]
    for place in ([telling[-1]] if telling else []) + ([len(spans) - 1] if spans else []):
        name, start, end = spans[place]
        parts = _headless(plain, start, end) if name == PREAMBLE else _after_first_paragraph(plain, start, end)
        if parts is not None:
            first_end, rest = parts
            kept = [(name, start, first_end)] if name != PREAMBLE or plain[start:first_end].strip() else []
            return [*spans[:place], *kept, (LAST_PARAGRAPH, rest, end), *spans[place + 1 :]]
    return spans


def _after_first_paragraph(plain: str, start: int, end: int) -> tuple[int, int] | None:
    """Where the first paragraph of a section ends and the rest begins; a blank line after its header opens no rest."""
    first = _NOT_BLANK.search(plain, start, end)
    if first is None:
        return None
    blank = _BLANK_LINE.search(plain, first.start(), end)
    if blank is None or not LETTER.search(plain, blank.end(), end):
        blank = _BLANK_LINE.search(plain, start, first.start())
    return None if blank is None else (blank.start(), blank.end())


def _headless(plain: str, start: int, end: int) -> tuple[int, int] | None:
    """Where the title of text without headers ends and the text begins: after a banner, and a line naming the study."""
    at = start
    banner = BANNER.search(plain, start, end)
    if banner is not None and not plain[start : banner.start()].strip():
        at = banner.end()
    letter = LETTER.search(plain, at, end)
    if letter is None:
        return None
    blank = _BLANK_LINE.search(plain, letter.start(), end)
    if blank is not None and LETTER.search(plain, blank.end(), end):
        title = plain[at : min(blank.start(), at + 400)].strip()
        is_short = "\n" not in title and len(title) < 100 and not title.endswith(".")
        if is_short and _TITLE.search(title) and not _SAYS_SOMETHING.search(title):
            at = blank.end()
    return at, at
