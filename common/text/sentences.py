"""Sentences of a report, with where they stand.

Report text breaks the rules of prose: list numbers, blank lines and bullets end a sentence, a line that was wrapped
does not, and a decimal point or an abbreviation never does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

__all__ = ["Sentence", "split_sentences"]

_ABBREVIATION = r"(?<!\b[Dd]r)(?<!\b[Mm]r)(?<!\b[Mm]rs)(?<!\b[Pp]rof)(?<!\bvs)(?<!\bapprox)(?<!\bi\.e)(?<!\be\.g)"
_END = re.compile(
    rf"""
    {_ABBREVIATION}[.!?]+(?=["')\]]*(?:\s|$)|[A-Z])   # a stop before a blank, or glued to the next capital
    | \n[ \t]*(?:\n\s*)+                              # a blank line
    | \n(?=[ \t]*(?:[-*•·+]|\(?\d{{1,2}}[.)])[ \t])     # a line that starts with a bullet or a number
    | (?:(?<=^)|(?<=\s))\d{{1,2}}[.)](?=\s)             # a list number
    | \n(?=[ \t]*[A-Z][A-Za-z ]{{2,30}}:)               # a line that starts with a header
    | ;
    """,
    re.VERBOSE,
)
_SHORT_LINE = 50
"""A line that ends before this column and is followed by a capital was ended on purpose, not wrapped."""


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
        text: ``report[start:end]``.
        start: character where it starts.
        end: character after its last, its stop not included.
    """

    text: str
    start: int
    end: int


def split_sentences(report: str) -> list[Sentence]:
    """Cut a report into sentences; semicolons cut too, as they part statements in reports.

    Args:
        report: any text.

    Returns:
        Sentences in order, without the blanks around them and without empty ones.
    """
    found = []
    start = 0
    for end, following in _cuts(report):
        piece = report[start:end]
        text = piece.strip()
        if text:
            first = start + len(piece) - len(piece.lstrip())
            found.append(Sentence(text, first, first + len(text)))
        start = following
    return found


def _cuts(report: str) -> Iterator[tuple[int, int]]:
    """End of each piece and start of the next."""
    line_start = 0
    position = 0
    newline = report.find("\n")
    for start, end in chain((match.span() for match in _END.finditer(report)), [(len(report), len(report))]):
        while -1 < newline < start:
            if _ended(report, line_start, newline) and newline >= position:
                yield newline, newline + 1
                position = newline + 1
            line_start, newline = newline + 1, report.find("\n", newline + 1)
        yield start, end
        position = end


def _ended(report: str, start: int, end: int) -> bool:
    """Whether the line was ended on purpose."""
    following = report[end + 1 : end + 2]
    return end - start < _SHORT_LINE and following.isupper() and report[end - 1 : end] not in (",", "")
