"""Where the headers of a report are: on lines of their own, before text, within a line.

Capitals decide first: a report whose headers are in capitals, as MIMIC-CXR's, is not cut at "Comparison:" in the middle
of its text. Then the line above: where it was broken to fit the page, what follows is text unless in plain capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.text.section_headers import (
    BARE,
    BODY,
    CAPITALS_ONLY,
    OWN_LINE_ONLY,
    SECTION_OF,
    could_open,
    is_anatomy,
    is_capitals,
    is_generic,
    known_section,
    plain_name,
    section_of_capitals,
)

PREAMBLE = "preamble"

BANNER = re.compile(
    r"^(?: *_{8,} *\n(?: *\n)?)? *(?:FINAL|PRELIMINARY|PROVISIONAL|WET READ|PFI) (?:REPORT|ADDENDUM)"
    r"(?: \(REVISED\))? *$",
    re.MULTILINE,
)
"""The line above a report, and the rule that parts it from an earlier reading: "FINAL REPORT"."""

LETTER = re.compile(r"[^\W_]")

_NARROWEST = 60  # characters: no page is narrower
_MARK = r"(?P<mark>(?:#{1,6} *|[-+\u2022] +|\d{1,2}[.)] +)?\*{0,3} *)"
_COLON_LINE = re.compile(
    rf"^ *+{_MARK}(?P<name>(?:(?:\d|_++)[ -])?[A-Za-z](?:[^\n:*#]|(?<=\d):(?=\d\d)){{0,99}}+)"
    r"\*{0,3} *:\*{0,3}(?P<gap>[ \n]|\Z)?",
    re.MULTILINE,
)
_BARE_LINE = re.compile(
    rf"^ *+{_MARK}(?P<name>{'|'.join(sorted(map(re.escape, BARE), key=len, reverse=True))})"
    r"\*{0,3}(?: *(?P<gap>\n|\Z)| +- *)",
    re.MULTILINE | re.IGNORECASE,
)
_INLINE = re.compile(r"(?<![A-Za-z])(?P<last>[A-Za-z]{2,20})(?:\(s\))?\*{0,3} ?:\*{0,3}(?:[ \n]|\Z)")
_WORD_START = re.compile(r"(?<![\w/&-])[A-Za-z]")
_LAST_WORDS = frozenset(spelling.split()[-1].split("/")[-1] for spelling in SECTION_OF)
_LONGEST = max(map(len, SECTION_OF))


@dataclass(frozen=True)
class Header:
    """A header found.

    Attributes:
        section: what it opens; `PREAMBLE` for a banner amid the report.
        label: the header in lower case.
        cut: where the section before it ends.
        name_at: its own first character, or that of the bullet or mark-up before it.
        text_at: the first character of its text.
    """

    section: str
    label: str
    cut: int
    name_at: int
    text_at: int


class _Line(NamedTuple):
    """A line that begins like a header, and what stands above it."""

    name: str
    mark: str  # "## ", "- **"
    has_colon: bool
    has_gap: bool  # a blank or the end of the line follows
    after_blank: bool  # the line above is empty
    after_end: bool  # or it ends a sentence, or opens a section itself
    after_break: bool  # or the first word of this line would have fitted on it
    after_capitals: bool  # it is all in capitals
    inside: str  # the section that is open, "" before the first
    inside_empty: bool  # which has no text yet


class _Style(NamedTuple):
    """What the lines of a report tell about each other."""

    shouting: bool  # there is no lower case, so that capitals say nothing
    capitals: bool  # a known header is in capitals
    width: int  # characters of the longest line, of the page


def find_headers(plain: str) -> list[Header]:
    """All headers of a report, and the banners after its beginning, in order.

    Args:
        plain: the text of a `PlainText`.
    """
    lines = [match for match in _COLON_LINE.finditer(plain) if could_open(match["name"])]
    found = [*lines, *_BARE_LINE.finditer(plain)]
    style = _Style(
        shouting=re.search(r"[a-z]{3}", plain) is None,
        capitals=any(is_capitals(match["name"]) and known_section(match["name"]) for match in found),
        width=max(_NARROWEST, *map(len, plain.split("\n"))),
    )
    banners = [match for match in BANNER.finditer(plain) if match.start() > 0]
    headers: list[Header] = []
    letter = -1  # the first one of the section that is open
    for match in sorted([*found, *banners], key=lambda match: match.start()):
        last = headers[-1] if headers else None
        if match.re is BANNER:
            headers.append(Header(PREAMBLE, PREAMBLE, match.start() - 1, match.start(), match.start()))
            continue
        if last is not None and match.start("name") < last.text_at:
            continue  # a line that both expressions match
        if last is not None and letter < last.text_at:
            first = LETTER.search(plain, last.text_at)
            letter = first.start() if first else len(plain)
        is_empty = last is not None and letter >= match.start()
        section = _section_of_line(_line(plain, match, last, is_empty, style.width), style)
        label = plain_name(match["name"])
        # "INDICATION:" and below it "INDICATION: cough" is one header, whose text begins with its name.
        is_repeated = is_empty and last is not None and last.label == label and section not in BODY
        if section is not None and not is_repeated:
            headers.append(Header(section, label, max(match.start() - 1, 0), match.start("mark"), match.end()))
    return sorted([*headers, *_inline_headers(plain, headers, style)], key=lambda header: header.name_at)


def _line(plain: str, match: re.Match[str], last: Header | None, is_empty: bool, width: int) -> _Line:
    end = max(match.start() - 1, 0)
    start = plain.rfind("\n", 0, end) + 1
    above = plain[start:end].strip()
    name = match["name"].rstrip()
    first_word = match.start("name") - match.start() + len(name.partition(" ")[0]) + (" " not in name)  # and its colon
    fits = end - start + first_word <= width
    opens = (last is not None and last.name_at >= start) or BANNER.fullmatch(above) is not None
    after_end = not above or above[-1] in ".!?:;*_" or opens
    return _Line(
        name=name,
        mark=match["mark"].strip(),
        has_colon=match.re is _COLON_LINE,
        has_gap=match["gap"] is not None,
        after_blank=not above,
        after_end=after_end,
        after_break=after_end or fits,
        after_capitals=above.isupper(),
        inside="" if last is None else last.section,
        inside_empty=is_empty,
    )


def _section_of_line(line: _Line, style: _Style) -> str | None:
    """The section that a line opens, None if it is a line of text."""
    known = known_section(line.name)
    if "#" in line.mark or "**" in line.mark:
        return known
    if is_capitals(line.name):
        if not line.has_colon:
            is_text = style.shouting or (line.after_capitals and not line.after_break)
            return known if line.after_blank or not is_text else None
        if known is not None:
            return known
        return _section_of_other_capitals(line, style) if line.after_break and not line.mark else None
    is_title = line.name[0].isupper()
    never = CAPITALS_ONLY if is_title and line.has_colon else CAPITALS_ONLY | OWN_LINE_ONLY
    if known is None or plain_name(line.name) in never or (line.mark and not line.has_colon):
        return None
    if style.capitals:
        return known if line.after_blank and (line.has_colon or is_title) else None
    if is_title:
        return known if line.has_colon or line.after_break else None
    return known if line.has_colon and line.after_break else None


def _section_of_other_capitals(line: _Line, style: _Style) -> str | None:
    """The section of a header in capitals whose spelling is not listed."""
    if line.inside in BODY and is_anatomy(line.name):
        return None
    section = section_of_capitals(line.name)
    if section == "findings" and line.inside == "impression" and line.inside_empty:
        return None  # the impression begins with the name of the study
    if section is not None:
        return section
    placed = line.after_blank if style.shouting else line.after_end
    return plain_name(line.name) if placed and line.has_gap and is_generic(line.name) else None


def _inline_headers(plain: str, headers: Sequence[Header], style: _Style) -> Iterator[Header]:
    """Headers within a line: of a report written as one paragraph, else of findings and impression that no line opens.

    In a paragraph a header in capitals counts; one in mixed case if there is none in capitals and it begins a sentence
    or is one of several.
    """
    of_lines = [header for header in headers if header.section != PREAMBLE]
    missing = set(BODY) - {header.section for header in of_lines}
    if not missing:
        return
    first = LETTER.search(plain)
    first_end = plain.find("\n", first.start()) if first else 0
    is_paragraph = first_end < 0 or all(header.name_at < first_end for header in of_lines)
    taken = {header.text_at for header in headers}
    found = [name for name in _inline_names(plain) if name.end not in taken]
    found = [name for name in found if is_paragraph or name.section in missing]
    in_capitals = sum(name.in_capitals for name in found)
    is_capital_style = not style.shouting and (style.capitals or 0 < len(found) <= 2 * in_capitals)
    capitalised = sum(plain[name.at].isupper() for name in found) + len(of_lines)
    label_before = {header.text_at: header.label for header in headers}
    for name in found:
        before = plain[max(name.at - 200, 0) : name.at].rstrip(" \n*")
        begins = not before or before[-1] in ".!?;)|"
        if name.label in (label_before.get(name.at), label_before.get(name.at - 1)):
            counts = False  # the text of a section begins with its name
        elif name.in_capitals:
            counts = begins or (is_paragraph and not style.shouting)
        elif name.label in CAPITALS_ONLY | OWN_LINE_ONLY or (is_paragraph and is_capital_style):
            counts = False
        elif plain[name.at].isupper():
            counts = begins or (is_paragraph and capitalised >= 2)
        else:
            counts = begins and len(found) + len(of_lines) >= 2
        if counts:
            label_before[name.end] = name.label
            mark = plain[max(name.at - 3, 0) : name.at]
            cut = name.at - len(mark) + len(mark.rstrip("*"))
            yield Header(name.section, name.label, cut, cut, name.end)


class _Name(NamedTuple):
    """A listed header within a line: its section, first character, and the end of it with its colon and blank."""

    section: str
    label: str
    at: int
    end: int
    in_capitals: bool


def _inline_names(plain: str) -> Iterator[_Name]:
    """Listed headers, as long as they can be, that do not begin a line."""
    for match in _INLINE.finditer(plain):
        if match["last"].lower() not in _LAST_WORDS:
            continue
        colon = plain.index(":", match.start())
        earliest = max(
            match.end("last") - _LONGEST, *(plain.rfind(sign, max(colon - 200, 0), colon) + 1 for sign in "\n:")
        )
        for start in _WORD_START.finditer(plain, max(earliest, 0), match.end("last")):
            at = start.start()
            text = plain[at:colon].rstrip(" *")
            section = known_section(text)
            in_capitals = match["last"].isupper()
            if section is not None and in_capitals == is_capitals(text):  # "Clinical INDICATION:" is the latter
                line_start = max(plain.rfind("\n", max(at - 200, 0), at) + 1, at - 200)
                if plain[line_start:at].strip(" *#-"):
                    yield _Name(section, plain_name(text), at, match.end(), in_capitals)
                break
