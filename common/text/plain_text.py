"""Report text as people read it, without mark-up and invisible characters; and whether it says anything, in English.

Every reader of reports works on this text and gives places in the report as it came.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property

__all__ = ["PlainText", "has_text", "is_english"]

# Seen as plain blanks, newlines, colons, dashes and apostrophes, each in its place.
_BLANKS = (
    dict.fromkeys("\t\u00a0\u1680\u202f\u205f\u3000\ufeff", " ")
    | {chr(code): " " for code in range(0x2000, 0x200B)}
    | dict.fromkeys("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\n")
)
_SIGNS = {"\uff1a": ":", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2019": "'", "\u02bc": "'"}
# Soft hyphens, joiners, marks of direction; and ligatures, as text copied from PDF has them.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufb00-\ufb06]")
_LIGATURES = dict(zip("\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06", "ff fi fl ffi ffl st st".split(), strict=True))
_ESCAPED_BREAK = re.compile(r"\\\.br\\|\\r\\n|\\[nr](?![a-z]{2}:)")  # of HL7 and of tables that were written twice
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LINE_TAGS = (
    "address article body blockquote br caption content dd div dl dt footer h[1-6] head header hr html item li list ol "
    "p paragraph pre section table tbody text tfoot thead title tr ul"
).replace(" ", "|")
_WORD_TAGS = "a|abbr|b|big|center|cite|code|em|font|i|mark|s|small|span|strong|sub|sup|tt|u"
_TAG = re.compile(
    r"<!--(?:(?!<!--).)*?-->|<!doctype[^<>]*>"
    r"|<(?P<hidden>style|script)\b[^<>]*>(?:(?!<style|<script).)*?</(?P=hidden)\s*>"
    rf"|</?(?:(?P<line>{_LINE_TAGS})|(?P<cell>td|th)|{_WORD_TAGS})(?:\s+[\w:-]+\s*=[^<>]*)?\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
_ODD = re.compile(r"[&<\\\t\r\x0b\x0c\x1c-\x1e]")
_LETTERS = re.compile(r"[^\W\d_]+")
_ACCENT = re.compile("[\u00df-\u024f\u1e00-\u1eff]")
_LATIN = re.compile("[a-z\u00c0-\u024f\u1e00-\u1eff]")
_HEADING = re.compile(r"\b(?:findings?|impressions?|conclusions?|report|text|narrative)\s*:", re.IGNORECASE)
_LONGEST_NOTHING = 200
_BEGINNING = 500
_NOTHING = frozenset(
    "a applicable attached above available blank data dictated dictation done empty entered entry file follow found "
    "given information is missing n na nan nat nil no none not null of on pending provided received recorded report "
    "reported reports result see specified stated text to unavailable undefined unknown value void x xx xxx "
    "xxxx yet".split()
)
"""Words that say no more than that there is no text."""

_ENGLISH = frozenset(
    "the is are was were of and with without there not or to in at for has have been this that from than which by as "
    "seen clear left right lung lungs heart small large mild moderate new stable unchanged evidence chest rib size "
    "increased decreased effusion pneumonia cardiomegaly opacity opacities nodule nodules mass fracture pulmonary tube "
    "line catheter".split()
)
_FOREIGN = frozenset(
    # Spanish, Portuguese, Italian, French, Romanian
    "el los las del que una uno unos con hay se es son derrame derrames pulmonar pulmonares izquierdo derecho "
    "derecha cardiomegalia neumotorax neumonia silueta corazon normales observa observan aprecia aprecian evidencia "
    "pulmones os das dos nas em um uma sem com nao pneumotorax direito direita esquerdo esquerda pulmao pulmoes "
    "coracao consolidacao torax torace norma il lo gli di della dei delle nel nella sono senza nessun versamento "
    "pneumotorace polmonare polmonari polmoni sinistro sinistra destro destra cuore ed assenza les du aux une et est "
    "sont pas sans avec dans epanchement gauche droit droite poumon poumons coeur cardiomegalie normale "
    "particularite fara nu sunt "
    # German, Dutch, Danish, Norwegian, Swedish
    "der das den dem ein eine einen kein keine keinen nicht und mit ohne ist sind im links rechts beidseits "
    "pleuraerguss erguss ergusse lunge lungen herz kardiomegalie nachweis befund thoraxbefund normaler auf zum zur bei "
    "het een geen niet van zijn "
    "hart longen pleuravocht rechter linker voor och ingen inga inte med utan hjarta og ikke uten uden pleuravaeske "
    "hjerte lungene eller av "
    # Turkish, Polish, Czech, Hungarian, Finnish, Indonesian, Vietnamese
    "bir yok izlenmedi izlendi saptanmadi saptanmamistir izlenmektedir mevcuttur plevral efuzyon akciger sag sol "
    "kalp nie jest oraz brak bez plynu lewej prawej pluc serce je neni vlevo vpravo srdce nem es van jobb bal "
    "tudo ei eika keuhko tidak ada dan paru jantung khong tran dich mang phoi".split()
)
"""Words of reports in other languages, without accents, and without those that English reports have, too."""


class PlainText:
    """A report without mark-up.

    Attributes:
        text: the report with HTML tags and entities decoded, invisible characters left out, and one kind of blank,
            newline, colon, dash and apostrophe.
    """

    def __init__(self, report: str, signs: bool = True) -> None:
        """Read the text of a report; unless ``signs``, its own colons, dashes and apostrophes stay as they are."""
        self.text = report
        self._spans: list[tuple[int, int]] | None = None  # of each character in the report, None where none moved
        if report.isascii() and not _ODD.search(report):
            return
        table = str.maketrans(_BLANKS | _SIGNS if signs else _BLANKS)
        self.text = report.replace("\r\n", " \n").translate(table)
        for _ in range(2 * ("&" in report)):  # twice, as text is often escaped twice
            self.replace(_ENTITY, lambda match: html.unescape(match[0]).translate(table))
        if "<" in self.text:
            self.replace(_TAG, lambda match: "\n" if match["line"] else " " if match["cell"] else "")
        if "\\" in report:
            self.replace(_ESCAPED_BREAK, lambda match: "\n")
        if not self.text.isascii():
            self.replace(_UNSEEN, lambda match: _LIGATURES.get(match[0], ""))

    @cached_property
    def width(self) -> int:
        """Characters of the longest line."""
        return max(map(len, self.text.split("\n")))

    def replace(self, pattern: re.Pattern[str], new: Callable[[re.Match[str]], str | None]) -> None:
        """Put other text in place of what a pattern finds; None leaves it."""
        pieces, spans, at = [], [], 0
        old = self._spans
        for match in pattern.finditer(self.text):
            text = new(match)
            if text is None:
                continue
            if old is None:
                old = [(k, k + 1) for k in range(len(self.text))]
            pieces += (self.text[at : match.start()], text)
            spans += old[at : match.start()] + [(old[match.start()][0], old[match.end() - 1][1])] * len(text)
            at = match.end()
        if pieces:
            self.text = "".join([*pieces, self.text[at:]])
            self._spans = spans + old[at:]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where in the report `text[start:end]` stands: first character, and the one after the last."""
        if self._spans is None:
            return start, end
        if start == end:
            start = self._spans[start][0] if start < len(self._spans) else self._spans[-1][1] if start else 0
            return start, start
        return self._spans[start][0], self._spans[end - 1][1]


def has_text(report: str | None) -> bool:
    """Whether a report says anything: not where it is blank or "nan", "None", "N/A", "Not given.", "___" and the like.

    Args:
        report: its text, of one or several paragraphs.
    """
    if not report:
        return False
    if len(report) > _LONGEST_NOTHING:
        return True
    text = PlainText(report.replace("<", " ").replace(">", " ")).text
    words = _LETTERS.findall(_HEADING.sub(" ", text).lower())
    return not _NOTHING.issuperset(words)


def is_english(report: str) -> bool:
    """Whether a report is in English, as far as its words tell: not if more of them are of another language.

    Args:
        report: its text.
    """
    lowered = report.lower()
    words = set(lowered[:_BEGINNING].split())
    if len(words & _ENGLISH) > len(words & _FOREIGN) + 1:
        return True
    found = _LETTERS.findall(lowered)
    if 2 * sum(len(word) for word in found if _LATIN.match(word)) < sum(map(len, found)):
        return False
    words = {"".join(c for c in unicodedata.normalize("NFKD", word) if c.isascii()) for word in found}
    foreign, english = len(words & _FOREIGN), len(words & _ENGLISH)
    accents = sum(_ACCENT.search(word) is not None for word in set(found))
    return not (foreign and foreign + accents >= english) and accents <= english
