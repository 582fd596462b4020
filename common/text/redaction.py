"""Words of a note that name what a model is to predict: found, and taken out.

    >>> redact("CHIEF COMPLAINT: SENT IN FOR PNEUMONIA", ["Pneumonia"])
    'CHIEF COMPLAINT: SENT IN FOR [REDACTED]'

The words for the findings of CheXpert are those by which the labeller finds them (cxr_lexicon.yaml), said or denied;
label_terms.yaml adds abbreviations of the emergency department, the findings of NIH ChestX-ray14 and the diseases of
the COVID data set. What stands behind `BACKGROUND` was looked up by the note alone and is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from common.text.phrases import PhraseMatcher, Tokens
from common.text.sentences import split_sentences

__all__ = ["BACKGROUND", "REDACTED", "Leak", "find_leaks", "redact", "split_background"]

REDACTED = "[REDACTED]"
BACKGROUND = "\n\nBackground (general knowledge, not about this patient):\n"
"""Stands between a note and the passages that were retrieved for it."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Leak:
    """A term of a label in a note.

    Attributes:
        label: what it names.
        start: character of the note where it starts.
        end: character after it.
        text: `note[start:end]`.
        phrase: of the list that found it.
    """

    label: str
    start: int
    end: int
    text: str
    phrase: str


def find_leaks(note: str, labels: Sequence[str]) -> list[Leak]:
    """Return every term of the labels in a note, whether it is said to be there or not, in order.

    Args:
        note: its text; retrieved background is not looked at.
        labels: names of labels.

    Raises:
        ValueError: for a label whose terms are not known, which could not be kept out.
    """
    own, _ = split_background(note)
    matcher = _matcher(tuple(labels))
    leaks: dict[tuple[str, int, int], Leak] = {}
    for sentence in split_sentences(own):
        tokens = Tokens(sentence.text, sentence.start)
        matches = matcher.find(tokens)
        other = [match for match in matches if match.key[0] == "not_this"]
        for match in matches:
            kind, label = match.key
            if kind == "not_this" or any(
                o.key[1] == label and o.first <= match.first and match.last <= o.last for o in other
            ):
                continue  # "body mass" is no mass
            start, end = tokens.span(match.first, match.last)
            leaks.setdefault((label, start, end), Leak(label, start, end, own[start:end], match.phrase))
    return sorted(leaks.values(), key=lambda leak: (leak.start, leak.end, leak.label))


def redact(note: str, labels: Sequence[str]) -> str:
    """Return the note with `[REDACTED]` for every term of the labels; neighbouring terms become one.

    Args:
        note: its text; retrieved background stays as it is.
        labels: names of labels.

    Raises:
        ValueError: for a label whose terms are not known.
    """
    spans: list[list[int]] = []
    for leak in find_leaks(note, labels):
        if spans and not note[spans[-1][1] : leak.start].strip(" -"):  # also where they overlap
            spans[-1][1] = max(spans[-1][1], leak.end)
        else:
            spans.append([leak.start, leak.end])
    for start, end in reversed(spans):
        note = note[:start] + REDACTED + note[end:]
    return note


def split_background(note: str) -> tuple[str, str]:
    """Part a note into what is about the patient and the background that was looked up for it ("" if none)."""
    own, _, background = note.partition(BACKGROUND)
    return own, background


@cache
def _terms() -> tuple[dict[str, list[tuple[str, str]]], dict[str, list[str]]]:
    """Label -> (kind, phrase), and the groups that the phrases name."""
    lexicon = yaml.safe_load((_HERE / "cxr_lexicon.yaml").read_text(encoding="utf-8"))
    added = yaml.safe_load((_HERE / "label_terms.yaml").read_text(encoding="utf-8"))
    terms: dict[str, list[tuple[str, str]]] = {}
    for kind, table in (
        ("present", lexicon["present"]),
        ("not_this", lexicon["not_this"]),
        ("present", added["terms"]),
    ):
        for label, phrases in table.items():
            terms.setdefault(label, []).extend((kind, phrase) for phrase in phrases)
    for label, others in added["same_as"].items():
        for other in others:
            terms.setdefault(label, []).extend(terms[other])
    return terms, lexicon["words"]


@cache
def _matcher(labels: tuple[str, ...]) -> PhraseMatcher:
    terms, words = _terms()
    for label in labels:
        if label not in terms:
            raise ValueError(f"label {label!r} has no known terms, expected some of {', '.join(sorted(terms))}.")
    phrases = dict.fromkeys(((kind, label), phrase) for label in labels for kind, phrase in terms[label])
    return PhraseMatcher(phrases, words)
