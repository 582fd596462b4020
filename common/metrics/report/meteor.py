"""METEOR with exact and stem matches, without the synonym and paraphrase tables that other implementations load."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric, mean_metric
from common.metrics.report.ngrams import check_pairs
from common.metrics.report.text import porter_stem

_CANDIDATES = 64
"""Places of the reference that one word is tried at; more only occur in texts that repeat a word more often."""


def meteor_exact_stem(
    hypotheses: Sequence[str], references: Sequence[str], alpha: float = 0.9, beta: float = 3.0, gamma: float = 0.5
) -> CorpusMetric:
    """METEOR (Banerjee and Lavie, 2005) with its exact and Porter-stem modules, one reference per report.

    Words in lower case are aligned one to one, first equal words, then equal stems; of the alignments with most matches
    one with few chunks (runs of matches adjacent in both texts) is chosen. With m matches in c chunks, P = m / words of
    the report and R = m / words of the reference: ``P R / (alpha P + (1 - alpha) R) * (1 - gamma (c / m)^beta)``. The
    corpus value is the mean over the reports.

    Not comparable with numbers called METEOR elsewhere: the Java program of METEOR 1.5 (in pycocoevalcap) adds WordNet
    synonyms, paraphrases and weights for function words; NLTK's has this formula plus WordNet synonyms, and takes the
    last free word in place of the best run. Hence the name. Equal texts of n words score ``1 - gamma / n^beta``.

    Args:
        hypotheses: generated reports; words are separated by white space.
        references: as many references, in the same order.
        alpha: weight of recall; the default is the 2005 paper's ``10 P R / (R + 9 P)``.
        beta: exponent of the fragmentation.
        gamma: largest penalty.

    Returns:
        Metric `meteor_exact_stem`, each report's within [0, 1); 0 for a blank text.
    """
    check_pairs(hypotheses, references)
    values = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        h, r = hypothesis.lower().split(), reference.lower().split()
        matches = align_words(h, r)
        if not matches:
            values.append(0.0)
            continue
        precision, recall = len(matches) / len(h), len(matches) / len(r)
        mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
        values.append(mean * (1 - gamma * (count_chunks(matches) / len(matches)) ** beta))
    return mean_metric(["meteor_exact_stem"], np.array(values))


def align_words(hypothesis: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int]]:
    """One-to-one matches (place in the hypothesis, place in the reference), sorted.

    Fewest chunks is an NP-hard problem, so every implementation approximates. Here the longest common run of unmatched
    words is matched first, then the next (greedy string tiling; Wise, 1993), once for words and once for stems.
    """
    matches: list[tuple[int, int]] = []
    free_h, free_r = bytearray(b"\1") * len(hypothesis), bytearray(b"\1") * len(reference)
    for change in (str, porter_stem):
        h = [change(word) if free else None for word, free in zip(hypothesis, free_h, strict=True)]
        r = [change(word) if free else None for word, free in zip(reference, free_r, strict=True)]
        matches += _tile(h, r, free_h, free_r)
        matches += _match_rest(h, r, free_h, free_r)
    return sorted(matches)


def count_chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Number of runs of sorted matches that are adjacent in both texts."""
    follows = {(i + 1, j + 1) for i, j in matches}
    return sum(match not in follows for match in matches)


def _tile(h: list[str | None], r: list[str | None], free_h: bytearray, free_r: bytearray) -> list[tuple[int, int]]:
    """Match the common runs of free words, longest first, and mark their words as taken."""
    runs = _common_runs(h, r)
    heapq.heapify(runs)
    matches = []
    while runs:
        negative, i, j = heapq.heappop(runs)
        # What earlier, longer runs left of this one goes back into the queue as shorter runs.
        pieces, start = [], None
        for step in range(-negative + 1):
            usable = step < -negative and free_h[i + step] and free_r[j + step]
            if usable and start is None:
                start = step
            elif not usable and start is not None:
                pieces.append((start, step))
                start = None
        if pieces == [(0, -negative)]:
            matches += [(i + step, j + step) for step in range(-negative)]
            free_h[i : i - negative] = free_r[j : j - negative] = bytes(-negative)
        else:
            for start, end in pieces:
                heapq.heappush(runs, (start - end, i + start, j + start))
    return matches


def _common_runs(h: list[str | None], r: list[str | None]) -> list[tuple[int, int, int]]:
    """Maximal runs of equal words as (-length, start in h, start in r); None equals nothing."""
    places: dict[str, list[int]] = defaultdict(list)
    for j, word in enumerate(r):
        if word is not None:
            places[word].append(j)
    runs, within = [], set()
    for i, word in enumerate(h):
        candidates = places.get(word, []) if word is not None else []
        if len(candidates) > _CANDIDATES:
            first = max(0, bisect_left(candidates, i) - _CANDIDATES // 2)
            candidates = candidates[first : first + _CANDIDATES]
        now = set()
        for j in candidates:
            now.add(j)
            if j - 1 in within:
                continue
            length = 1
            while i + length < len(h) and j + length < len(r) and h[i + length] == r[j + length] is not None:
                length += 1
            runs.append((-length, i, j))
        within = now
    return runs


def _match_rest(
    h: list[str | None], r: list[str | None], free_h: bytearray, free_r: bytearray
) -> list[tuple[int, int]]:
    """Match free equal words in order of place: those that had too many candidates to be tried at each."""
    places: dict[str, list[int]] = defaultdict(list)
    for j in range(len(r) - 1, -1, -1):
        if free_r[j] and (word := r[j]) is not None:
            places[word].append(j)
    matches = []
    for i, word in enumerate(h):
        if free_h[i] and word is not None and places.get(word):
            j = places[word].pop()
            free_h[i] = free_r[j] = 0
            matches.append((i, j))
    return matches
