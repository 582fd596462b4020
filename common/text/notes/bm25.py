"""BM25 retrieval of general background passages for a note.

    score(D, Q) = sum over q in Q of  idf(q) * f(q, D) * (k1 + 1) / (f(q, D) + k1 * (1 - b + b * |D| / mean |D|))
    idf(q) = ln(1 + (N - n(q) + 0.5) / (n(q) + 0.5))

Okapi BM25 (Robertson & Zaragoza 2009, The Probabilistic Relevance Framework, equation 3.15), with the 1 inside the
logarithm that keeps the weight of words in more than half of the passages positive, as Lucene has it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from common.text.notes.ed_note import without_template
from common.text.redaction import BACKGROUND, redact, split_background

__all__ = ["BM25", "background_passages", "with_background"]

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_COMMON = frozenset(
    "a an and are as at be been by can for from had has have he her his if in is it its may more most no not of on or "
    "over she so than that the their them there they this to was were when which who with without year old hours "
    "before arrived patient woman man".split()
)


class BM25:
    """Ranks passages by their words.

    Args:
        passages: texts.
        k1: how soon further occurrences of a word stop counting.
        b: how much longer passages are held back, 0 (not) to 1.

    Raises:
        ValueError: if there are no passages, or k1 or b is out of range.
    """

    def __init__(self, passages: Sequence[str], k1: float = 1.5, b: float = 0.75) -> None:
        if not passages or k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"{len(passages)} passages, k1 {k1}, b {b}: expected passages, k1 >= 0 and b from 0 to 1.")
        self.passages = list(passages)
        counts = [Counter(words(text)) for text in self.passages]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / len(lengths)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for index, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            norm = k1 * (1 - b + b * length / mean)
            for word, f in count.items():
                self._postings[word].append((index, f * (k1 + 1) / (f + norm)))
        n = len(self.passages)
        self._idf = {word: math.log(1 + (n - len(p) + 0.5) / (len(p) + 0.5)) for word, p in self._postings.items()}

    def scores(self, query: str) -> list[float]:
        """Return the score of every passage; a word that the query repeats counts as often."""
        scores = [0.0] * len(self.passages)
        for word in words(query):
            for index, weight in self._postings.get(word, ()):
                scores[index] += self._idf[word] * weight
        return scores

    def best(self, query: str, k: int) -> list[int]:
        """Return the indices of the k best passages that share a word with the query, best first."""
        scores = self.scores(query)
        ranked = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        return [index for index in ranked[: max(0, k)] if scores[index] > 0]


def words(text: str) -> list[str]:
    """Lower-case words; numbers and words that say nothing are left out."""
    return [word for word in _WORD.findall(text.lower()) if word not in _COMMON and len(word) > 1]


@cache
def background_passages() -> tuple[str, ...]:
    """Return the built-in passages on complaints and what a chest X-ray is looked at for."""
    path = Path(__file__).with_name("background_passages.yaml")
    return tuple(" ".join(passage.split()) for passage in yaml.safe_load(path.read_text(encoding="utf-8")))


@cache
def _passages_without(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(redact(passage, labels) for passage in background_passages())


@cache
def _index() -> BM25:
    return BM25(background_passages())


def with_background(note: str, k: int = 2, labels: Sequence[str] = ()) -> str:
    """Return a note with the k passages that fit it best behind the separator `BACKGROUND`.

    The passages depend on nothing but the note's own words. Headings and names of measurements are none of them: they
    stand in every note and would find the same passages for all. The passages name findings by their nature; `labels`
    takes these terms out.

    Args:
        note: without background.
        k: number of passages; fewer if fewer share a word with the note, 0 returns the note.
        labels: whose terms are redacted in the passages.

    Raises:
        ValueError: if k is negative, or passages are asked for and the note has a background already or the terms of a
            label are not known.
    """
    if k < 0:
        raise ValueError(f"k is {k}, expected 0 or more passages.")
    if k == 0:
        return note
    if split_background(note)[1]:
        raise ValueError("The note has a background already, expected one without.")
    passages = _passages_without(tuple(labels))
    chosen = [passages[index] for index in _index().best(without_template(note), k)]
    return note + BACKGROUND + "\n".join(f"- {passage}" for passage in chosen) if chosen else note
