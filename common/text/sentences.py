"""Sentences of a report, with where they stand.

Report text breaks the rules of prose: list numbers, blank lines and bullets end a sentence, a line that was wrapped
does not, and a decimal point or an abbreviation never does. A heading and its answer are one: "Effusion? No."
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from common.text.plain_text import PlainText

__all__ = ["Sentence", "split_sentences", "statement_starts"]

_ANSWER = r"""
    \s*[-=>]*\s*(?:
        (?:(?:none|nil|absent|negative|present|positive|yes)(?:\ (?:seen|noted|identified|present|detected|visible))?
            |not\ (?:seen|present|identified|visible|noted|detected)|no\ evidence)\b(?=\s*(?:[.,;!]|\Z|\n))
        |no\b(?=\s*(?:[.,;!]|\Z))
    )"""
"""All that a line or sentence says which answers the heading or question before it."""
_ELLIPSIS = r"""
    \s*(?:a\ )?(?:small|trace|tiny|minimal|mild|moderate|large|present|persists|remains|unchanged|stable)\ (?:amount\ )?
    (?:on|at|in)\ (?:the\ )?(?:left|right)\b"""
"""Says of the other side what the sentence before was about."""
_END = re.compile(
    rf"""
    [.!?;\n\d()•●▪◦‣■□➢►✓|](?:   # a set of signs at the beginning makes the search fast
        (?<=[.!?])(?<!\b[Dd]r.)(?<!\b[Mm]r.)(?<!\b[Mm]rs.)(?<!\b[Pp]rof.)(?<!\bvs.)(?<!\bapprox.)
            (?<!\bi\.e.)(?<!\be\.g.)[.!?]*(?=["')\]]*(?:\s|$)|[A-Z])
            (?!(?i:{_ANSWER}|{_ELLIPSIS}))            # a stop before a blank, or glued to a capital
        | (?<=[a-z]{{3}}\.)(?=[a-z]{{2}})             # a stop glued to the next sentence
        | (?<=\n)(?<!:\n)[ \t]*(?:\n\s*)+             # a blank line
        | (?<=\n)(?=[ \t]*(?:[-*+>]|\(?\d{{1,2}}[.)-]|\(?[a-h]\))[ \t]*[^\W\d])(?!(?i:{_ANSWER}))   # a bulleted line
        | (?<=\n)(?=[ \t]*[A-Za-z][A-Za-z ]{{2,30}}:)    # a line that starts with a header
        | (?:(?<=\()(?<!\S\()\d{{1,2}}|(?<=\d)(?<!\S\d)\d?)(?:[.)](?=\s)|[.)](?=[a-z])|-(?=\ [^\W\d]))   # a list number
        | (?<=[\s(][a-h]\))(?=\s*[^\W\d])             # a list letter
        | (?<=[•●▪◦‣■□➢►✓|])
        | (?<=;)(?!(?i:{_ANSWER})|\s*(?:\w+\ ){{0,2}}(?:on|at|in)\ the\ (?:left|right)\b)
    )
    """,
    re.VERBOSE,
)
_UNMARKED = re.compile(
    r"""
    [A-Z\n*+-](?:   # a set of signs at the beginning makes the search fast
        (?<=\n)[ \t]*(?P<line>(?:[-*+][ \t]+)?)
        | (?<=[ \t].)(?:(?<=[-*+])(?P<bullet>[ \t]+)|(?<=[A-Z])(?=[a-z]))
    )
    """,
    re.VERBOSE,
)
_ANSWERED = re.compile(r"[:?]\s*(?:no|yes|none|nil|absent|present)\W{1,3}\Z", re.IGNORECASE)
_HEADED = re.compile(r"[A-Z][A-Za-z/ ]{2,30}[:?]")
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[ \t)\].']{0,5}\Z")
_WORD = re.compile(r"[^\W_]+")
_GOES_ON = frozenset(
    "or and nor of in on at to by with for from as is are was were be been has have had which that than but who seen "
    "noted identified present visualized detected demonstrated resolved cleared".split()
)
"""A line that starts so belongs to the one above."""
_OPEN = frozenset(
    "no not nor or and of in on at to by with without for from as the a an this that is are was were be been has have "
    "had which than any new possible probable likely left right both bilateral focal acute definite evidence there due "
    "small mild moderate large trace tiny minimal pleural pulmonary".split()
)
"""A statement does not end so."""
_OR = re.compile(r"\b(?:or|nor)\b")
_GLUE = ("no", "not", "there", "the", "this", "these")
_OPENS = frozenset(
    "no not there the this these heart lungs lung left right both bilateral normal clear stable unchanged new small "
    "mild moderate large trace tiny minimal severe slight subtle patchy persistent interval increased decreased "
    "possible probable likely cardiac mediastinal pleural".split()
)
"""Words that open a statement."""
_ANSWER_LINE = re.compile(f"{_ANSWER}|{_ELLIPSIS}", re.VERBOSE | re.IGNORECASE)
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


def statement_starts(text: str, start: int, end: int, plain: PlainText) -> Iterator[tuple[int, int, bool]]:
    """Yield where a sentence may go over to another statement without a stop: at lower-case lines, bullets, capitals.

    Args:
        text: of the report.
        start: the first character of the sentence.
        end: the one after its last.
        plain: whose longest line says how wide the page is: the first word of a wrapped line would not have fitted.

    Yields:
        End of the one, start of the other, and False where it is another statement only if it begins with a finding.
        Whether the one says something is not looked at.
    """
    for match in _UNMARKED.finditer(text, start + 1, end):
        is_line, is_bullet = match["line"] is not None, match["bullet"] is not None
        following = match.end() if is_line or is_bullet else match.start()
        before = _WORD_BEFORE.search(text, max(start, match.start() - 40), match.start())
        opening = _WORD.match(text, following, end)
        if before is None or opening is None:
            continue
        word = opening[0].lower()
        if _HEADED.match(text, following, end) and _ANSWERED.search(text, start, match.start()):
            yield match.start(), following, True  # "X: no Y: no"
            continue
        if before[1].lower() in _OPEN or word in _GOES_ON or _ANSWER_LINE.match(text, following, end):
            continue
        if is_line:
            line = match.start() - text.rfind("\n", 0, match.start()) - 1
            begins = line < _SHORT_LINE and word in _OPENS
            if not begins:
                stop = text.find("\n", following, end)
                fits = line + 1 + len(word) <= plain.width or (None if line < _SHORT_LINE else False)
                begins = False if _OR.search(text, following, stop if stop >= 0 else end) else fits
        elif is_bullet:
            own = text[match.start()] == "*" or text[start] == text[match.start()]
            begins = own or (word in _OPENS and word not in _GLUE)
        else:
            begins = before[1].islower()
        if begins is not False:
            yield match.start(), following, begins is True


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
    """Whether the line was ended on purpose, and no answer to it follows."""
    following = report[end + 1 : end + 2]
    if end - start >= _SHORT_LINE or not following.isupper() or report[end - 1 : end] in (",", ""):
        return False
    return report[start:end].rstrip()[-1:] != ":" and not _ANSWER_LINE.match(report, end + 1)
