"""Reports written as MIMIC-CXR writes them: a blank before every line, 79 columns, headers in capitals.

A report is only written if it can be read back: `report_sections` of what is written gives the sections that went in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.text.plain_text import PlainText
from common.text.section_headers import section_of_capitals
from common.text.section_lines import find_headers
from common.text.sections import LAST_PARAGRAPH, normalise, report_sections

COLUMNS = 79
TITLE = "FINAL REPORT".rjust(45)

_OPEN_END = re.compile(r"[^\W\d_]-")


def render_mimic(sections: Mapping[str, str]) -> str:
    """Write sections as a MIMIC-CXR report.

    Args:
        sections: name, as `report_sections` has it, to text, in the order of the report. Blank ones are left out;
            "last_paragraph" has no header and comes last.

    Returns:
        The report, with single blanks in its text and each line ended by a newline.

    Raises:
        ValueError: if a name opens another section, or a text holds what would be read as a header of another section.
    """
    texts = {name: " ".join(text.split()) for name, text in sections.items()}
    texts = {name: text for name, text in texts.items() if text}
    lines = [TITLE]
    for name, text in texts.items():
        if name == LAST_PARAGRAPH:
            head = []
        elif section_of_capitals(name.upper()) == name:
            head = [f"{name.upper()}: "]
        else:
            raise ValueError(f"section is {name!r}, expected a name that its own header opens, such as 'findings'")
        lines += [f" {line}" for line in _wrapped([*head, *text.split()])] + [" "]
    report = "\n".join(lines[:-1] if texts else lines) + "\n"
    read = report_sections(report)
    for name, text in texts.items():
        if read.get(name) != normalise(text):
            found = read.get(name, "")[:60]
            raise ValueError(f"section {name!r} reads back as {found!r}, expected a text without headers of its own")
    return report


def _wrapped(words: list[str]) -> list[str]:
    """Break words into lines where the reader joins them again: not after "left-", not before a header."""
    lines: list[str] = []
    start = 0
    while start < len(words):
        end, length = start + 1, len(words[start])
        while end < len(words) and length + 1 + len(words[end]) < COLUMNS:
            length += 1 + len(words[end])
            end += 1
        fitting = end
        while end < len(words) and end > start + 1 and _joins_badly(words, end):
            end -= 1
        if end == start + 1 and fitting > end:
            end = fitting
        lines.append(" ".join(words[start:end]))
        start = end
    return lines


def _joins_badly(words: list[str], place: int) -> bool:
    """Whether a line broken before this word would be read as something else."""
    line = f"Text.\n {' '.join(words[place : place + 12])}\n"
    opens = any(header.cut == line.index("\n") for header in find_headers(PlainText(line).text))
    return opens or _OPEN_END.fullmatch(words[place - 1][-2:]) is not None
