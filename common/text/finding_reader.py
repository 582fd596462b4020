"""Finds what a lexicon describes in a report and says, for each mention, whether the finding is there, and why."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.text.context import IGNORED, NEGATIVE, POSITIVE, UNCERTAIN, Assertion, assess
from common.text.phrases import Match, PhraseMatcher, Tokens
from common.text.plain_text import PlainText, has_text, is_english
from common.text.sections import split_sections
from common.text.sentences import split_sentences, statement_starts

__all__ = ["ASIDE", "Evidence", "FindingReader"]

ASIDE = (
    "indication", "history", "technique", "comparison", "examination", "recommendations", "notification", "signature",
    "date",
)  # fmt: skip
"""Sections whose words are not findings of this examination."""

_ASIDE = re.compile(
    "indicat|histor|hx|clinical|reason|techn|compar|prior|exam|recommend|notif|pfi|protocol|complaint", re.I
)
VALUES = {POSITIVE: 1.0, NEGATIVE: 0.0, UNCERTAIN: -1.0}
_HYPHEN = re.compile(r"-(?<=[^\W\d_]{2}-)[^\S\n]*\n?[^\S\n]*(?=[^\W\d_]{2})")
_LONGEST_LEAD = 100
_ITEM = re.compile(r"(?:\A|\n)[ \t]*(?:[-*+>\u2022]|\(?\d{1,2}[.)])[ \t]*\S?\Z")
_LAST_WORD = re.compile(r"[^\W\d_]+\Z")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a label has its value.

    Attributes:
        label: the finding.
        value: 1.0 there, 0.0 not there, -1.0 uncertain; None where it is mentioned, but not of this examination.
        start: character of the report where the phrase starts.
        end: character after it.
        text: `report[start:end]`.
        rule: the phrase of the lexicon and, after an arrow, the cue that decided.
    """

    label: str
    value: float | None
    start: int
    end: int
    text: str
    rule: str


class FindingReader:
    """Reads findings by a lexicon (see cxr_lexicon.yaml) and the cues of context_lexicon.yaml."""

    def __init__(self, lexicon: str) -> None:
        """Compile a lexicon of this folder, given by its file name, and the cues that all lexicons share.

        Raises:
            ValueError: if a phrase is not understood; it is named.
        """
        files = (_HERE / lexicon, _HERE / "context_lexicon.yaml")
        findings, cues = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)
        words = cues.pop("words", {}) | findings.pop("words", {})
        tables = (cues, findings.pop("cues", {}))
        self.cues = PhraseMatcher(((key, p) for table in tables for key, texts in table.items() for p in texts), words)
        self.findings = PhraseMatcher(
            (((kind, label), p) for kind, labels in findings.items() for label, texts in labels.items() for p in texts),
            words,
        )

    def read(self, report: str) -> list[Evidence]:
        """Return the evidence in a report, in its order; sections that say what was asked or done are left out.

        Args:
            report: any text, with or without headers; nothing is found where it says nothing or is not in English.
        """
        return [item for sentence in self.sentences(report, _told) for item in sentence]

    def sentences(
        self, report: str, told: Callable[[str], list[tuple[int, int]]], stops: str = ""
    ) -> Iterator[list[Evidence]]:
        """Yield the evidence in each sentence that has any.

        Args:
            report: any text.
            told: gives the parts of a text that say what the image shows.
            stops: signs that part statements in these reports, besides those of all.
        """
        if not has_text(report) or not is_english(report):
            return
        plain = PlainText(report)
        if "-" in plain.text:
            plain.replace(_HYPHEN, self._joined)
        text = plain.text.translate(str.maketrans(dict.fromkeys(stops, ";"))) if stops else plain.text
        lead: Match | None = None  # "No evidence of:", above a list
        for start, end in told(text):
            for sentence in split_sentences(text[start:end]):
                first, last = start + sentence.start, start + sentence.end
                lead = lead if lead and _ITEM.search(text, max(0, first - 8), first + 1) else None
                found = self._read(plain, report, text, first, last, lead)
                if found:
                    yield found
                elif text[last - 1] == ":" and last - first < _LONGEST_LEAD:
                    lead = self._lead(Tokens(sentence.text))

    def _lead(self, tokens: Tokens) -> Match | None:
        """The cue at the end of a sentence, as it holds for each item of the list below."""
        cues = [cue for cue in self.cues.find(tokens) if cue.last >= len(tokens.words) - 4]
        return next((Match(c.key, 0, 0, c.phrase) for c in cues if str(c.key).endswith("_before")), None)

    def _joined(self, match: re.Match[str]) -> str | None:
        """Nothing, where a hyphen broke a word that the lexicon knows: "pneumo-thorax", but not "mass-like"."""
        before = _LAST_WORD.search(match.string, max(0, match.start() - 40), match.start())[0]
        word = before + _FIRST_WORD.match(match.string, match.end())[0]
        return "" if self.findings.knows(word.lower(), len(before)) else None

    def _read(
        self, plain: PlainText, report: str, text: str, start: int, end: int, lead: Match | None, is_whole: bool = True
    ) -> list[Evidence]:
        """The evidence in `text[start:end]`, a sentence, or one of several statements in it."""
        tokens = Tokens(text[start : end + (text[end : end + 1] == "?")], start)
        mentions = _mentions(self.findings.find(tokens))
        if len(mentions) > 1 and ":" in tokens.words:
            mentions = _without_headings(tokens.words, mentions)
        if not mentions:
            return []
        cues = self.cues.find(tokens)
        if lead and not any(cue.first == 0 for cue in cues):
            cues.insert(0, lead)
        if cues and is_whole:
            spans = [tokens.span(mention.first, mention.last) for mention in mentions]
            pieces = _statements(text, start, end, plain, spans)
            if len(pieces) > 1:
                leads = [lead] + [None] * len(pieces)
                read = (self._read(plain, report, text, *piece, leads[k], False) for k, piece in enumerate(pieces))
                return [item for found in read for item in found]
        places = [mention for mention in mentions if mention.key[0] == "places"]
        findings = [mention for mention in mentions if mention.key[0] != "places"] if places else mentions
        said = assess(tokens, findings, cues) + [Assertion(place, POSITIVE, None) for place in places]
        found = []
        for assertion in sorted(said, key=lambda one: one.mention[1:3]) if places else said:
            kind, label = assertion.mention.key
            begin, finish = plain.span(*tokens.span(assertion.mention.first, assertion.mention.last))
            rule = assertion.mention.phrase + (f" <- {assertion.cue.phrase}" if assertion.cue else "")
            found.append(Evidence(label, _value(kind, assertion), begin, finish, report[begin:finish], rule))
        return found


def _statements(
    text: str, start: int, end: int, plain: PlainText, mentions: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Where the statements of a sentence stand: it is cut where one that names a finding may end, but not amid one."""
    firsts = [first for first, _ in mentions]
    pieces = []
    for stop, following, is_sure in statement_starts(text, start, end, plain):
        own, after = bisect_left(firsts, start), bisect_left(firsts, stop)
        names = own < after and any(last <= stop for _, last in mentions[own : own + 3])
        is_inside = any(last > stop for _, last in mentions[max(own, after - 3) : after])
        begins = is_sure or firsts[after : after + 1] == [following]
        if names and begins and not is_inside:
            pieces.append((start, stop))
            start = following
    return [*pieces, (start, end)]


def _told(report: str) -> list[tuple[int, int]]:
    """The parts of a report that say what the image shows."""
    if ":" not in report or not _ASIDE.search(report):
        return [(0, len(report))]
    return [(part.start, part.end) for part in split_sections(report) if part.name not in ASIDE]


def _value(kind: str, assertion: Assertion) -> float | None:
    if kind == "normal":  # only "the heart is not normal" turns it round
        inside = assertion.cue is not None and assertion.cue.first > assertion.mention.first
        return 1.0 if inside and assertion.cue.last <= assertion.mention.last and assertion.status == NEGATIVE else 0.0
    return None if assertion.status == IGNORED else VALUES[assertion.status]


def _mentions(matches: Sequence[Match]) -> list[Match]:
    """What is mentioned, without what lies inside a longer phrase of its label or inside what is none."""
    if len(matches) < 2:
        return [match for match in matches if match.key[0] != "not_this"]
    by_label: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        by_label[match.key[1]].append(match)
    mentions = []
    for group in by_label.values():
        reach = -1
        for match in sorted(group, key=lambda m: (m.first, -m.last, m.key[0] == "present")):
            if match.last > reach:
                reach = match.last
                if match.key[0] != "not_this":
                    mentions.append(match)
    mentions.sort(key=lambda match: (match.first, match.last))
    return mentions


def _without_headings(words: Sequence[str], mentions: Sequence[Match]) -> list[Match]:
    """Leave out what only heads a statement that names it again: "Effusion: no effusion"."""
    later: dict[Hashable, int] = {}  # where each finding is named next
    kept = []
    for mention in reversed(mentions):
        statement = words[mention.last : later.get(mention.key, mention.last)]
        if statement[:1] != [":"] or "," in statement:
            kept.append(mention)
        later[mention.key] = mention.first
    return kept[::-1]
