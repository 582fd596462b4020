"""What of a published case report was known before the X-ray was taken.

Notes of the COVID data set mix how a patient presented with what the image shows and how it all ended. A sentence is
kept if it tells of complaints, history or signs and nothing of images, tests for the disease, treatment or outcome;
whatever stands under a heading such as "Imaging Notes:" or "Discussion:" is left out. In doubt a sentence goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from common.text.phrases import PhraseMatcher, Tokens
from common.text.redaction import find_leaks
from common.text.sentences import split_sentences

__all__ = ["presentation"]

_HEADING = re.compile(r"(?:(?<=^)|(?<=[.\s]))([A-Z][A-Za-z]*(?: [A-Za-z]+)?):")
_BEFORE_HEADINGS = ("presentation", "patient presentation", "history", "clinical history", "past history", "pc")
_SPACE = re.compile(r"[\s\ufffd]+")
_LOST_SIGN = re.compile(r"(?<=\d) ?\?(?= ?(?:[CF]\b|\)))")  # a degree sign that some copy of the text lost
_STOPS = re.compile(r"\s*\.(?:\s*\.)+")


def presentation(notes: str, labels: Sequence[str] = ()) -> str:
    """Return the sentences that tell what was known before the image, "" if there are none.

    Args:
        notes: free text, such as `clinical_notes` of covid-chestxray-dataset.
        labels: a sentence that holds a term of these is left out whole: a mark of redaction would stand mostly in notes
            of patients who have the disease.

    Raises:
        ValueError: for a label whose terms are not known.
    """
    text = _STOPS.sub(".", _LOST_SIGN.sub("", _SPACE.sub(" ", notes))).strip()
    kept = []
    for part in _told_before(text):
        kept += [sentence.text.strip() for sentence in split_sentences(part) if _is_before(sentence.text)]
    kept = [sentence for sentence in kept if not (labels and find_leaks(sentence, labels))]
    return " ".join(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in kept)


def _told_before(text: str) -> list[str]:
    """The text without what stands under a heading of something else."""
    headings = list(_HEADING.finditer(text))
    parts = [text[: headings[0].start()] if headings else text]
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):
        if heading[1].lower() in _BEFORE_HEADINGS:
            parts.append(text[heading.end() : end])
    return parts


def _is_before(sentence: str) -> bool:
    found = {match.key for match in _matcher().find(Tokens(sentence))}
    return "before" in found and "after" not in found


@cache
def _matcher() -> PhraseMatcher:
    lists = yaml.safe_load(Path(__file__).with_name("case_note_phrases.yaml").read_text(encoding="utf-8"))
    return PhraseMatcher([(kind, phrase) for kind in ("before", "after") for phrase in lists[kind]])
