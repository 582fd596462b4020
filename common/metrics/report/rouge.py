"""ROUGE-L as the caption and report lineage computes it, and ROUGE-1/2/L as Google's `rouge_score` does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric, mean_metric
from common.metrics.report.ngrams import check_pairs
from common.metrics.report.text import porter_stem

_NOT_ASCII_WORD = re.compile(r"[^a-z0-9]+")


def rouge_l(hypotheses: Sequence[str], references: Sequence[str], beta: float = 1.2) -> CorpusMetric:
    """ROUGE-L (Lin, 2004), one reference per report, equal to pycocoevalcap's `Rouge` where neither text is blank.

    With L words in the longest common subsequence, P = L / words of the report, R = L / words of the reference:
    ``(1 + beta^2) P R / (R + beta^2 P)``. The corpus value is the mean over the reports.

    Traps: pycocoevalcap cuts at single spaces (`split(" ")`), so two spaces enclose a word of no letters and a line
    break joins the words around it; kept, because equal numbers need equal words. By the same cut an empty report is
    one word of no letters, which scores against a reference with two spaces (and 1 against an empty one): here a blank
    report or reference scores 0.

    Args:
        hypotheses: generated reports.
        references: as many references, in the same order.
        beta: weight of recall over precision; 1.2 throughout the lineage.

    Returns:
        Metric `rouge_l`, each report's within [0, 1].
    """
    check_pairs(hypotheses, references)
    values = [_rouge_l(h, r, beta) for h, r in zip(hypotheses, references, strict=True)]
    return mean_metric(["rouge_l"], np.array(values))


def google_rouge(hypotheses: Sequence[str], references: Sequence[str]) -> CorpusMetric:
    """ROUGE-1, ROUGE-2 and ROUGE-L of Google's `rouge_score` with its stemmer, which Hugging Face and RadEval use.

    Another text, another formula than `rouge_l`: words are runs of `a-z0-9` in lower case, those of more than three
    characters stemmed (Porter as NLTK extends it), all else is dropped; the score is the F1 (beta 1) of common n-grams
    or of the longest common subsequence. The corpus value is the mean over the reports. A text without such a word (any
    script but Latin) scores 0.

    Returns:
        Metrics `rouge1`, `rouge2` and `rougeL`, each report's within [0, 1].
    """
    check_pairs(hypotheses, references)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        h, r = google_rouge_words(hypothesis), google_rouge_words(reference)
        rows.append([_ngram_f1(h, r, 1), _ngram_f1(h, r, 2), _f1(lcs_length(h, r), len(h), len(r))])
    return mean_metric(["rouge1", "rouge2", "rougeL"], np.array(rows))


def google_rouge_words(text: str, stem: Callable[[str], str] = porter_stem) -> list[str]:
    """The words that `google_rouge` compares."""
    return [stem(word) if len(word) > 3 else word for word in _NOT_ASCII_WORD.sub(" ", text.lower()).split()]


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by whole rows of the table at once (Hyyrö, 2004).

    Bit i of `row` is 0 where the table grows at the i-th element of the shorter text; a row is one addition of integers
    of that many bits, so two texts of 10,000 words take a tenth of a second.
    """
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    where = dict.fromkeys(set(long) & set(short), 0)
    for i, element in enumerate(short):
        if element in where:
            where[element] |= 1 << i
    full = (1 << len(short)) - 1
    row = full
    for element in long:
        if element in where:
            match = row & where[element]
            row = ((row + match) | (row - match)) & full
    return len(short) - row.bit_count()


def _rouge_l(hypothesis: str, reference: str, beta: float) -> float:
    if not hypothesis.strip() or not reference.strip():
        return 0.0
    h, r = hypothesis.split(" "), reference.split(" ")
    common = lcs_length(h, r)
    precision, recall = common / len(h), common / len(r)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if common else 0.0


def _ngram_f1(h: list[str], r: list[str], n: int) -> float:
    h_counts, r_counts = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (h, r))
    return _f1((h_counts & r_counts).total(), h_counts.total(), r_counts.total())


def _f1(common: int, predicted: int, true: int) -> float:
    return 2 * common / (predicted + true) if common else 0.0
