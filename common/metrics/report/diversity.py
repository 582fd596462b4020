"""How much a system varies its words, and how much it repeats itself: signs of collapse that overlap metrics miss."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric, divide, mean_metric
from common.metrics.report.ngrams import count_ngrams

_SENTENCE_END = re.compile(r"[.!?](?:\s+|$)|\n+")


def distinct_n(texts: Sequence[str], n: int = 4) -> dict[str, float]:
    """`distinct_1` to `distinct_n`: different n-grams per n-gram, over all texts together (Li et al., NAACL 2016).

    Falls with the amount of text, so only equally large corpora compare (print the references' beside it), and a
    bootstrap, which draws reports twice, would be biased: there is no interval.

    Args:
        texts: reports; words are separated by white space and compared in lower case.
        n: highest order.

    Returns:
        Each within (0, 1]; NaN where no text has n words.
    """
    matrices, _ = count_ngrams([text.lower() for text in texts], n)
    different = [matrix.nnz and len(np.unique(matrix.indices)) for matrix in matrices]
    total = [matrix.sum() for matrix in matrices]
    return {f"distinct_{k}": float(divide(a, b)) for k, (a, b) in enumerate(zip(different, total, strict=True), 1)}


def distinct_reports(texts: Sequence[str]) -> float:
    """Different texts per text, white space and case apart, within (0, 1]: near 0 if a system always says the same."""
    if not len(texts):
        raise ValueError("There is no text to count different ones of, expected at least one.")
    return len({" ".join(text.lower().split()) for text in texts}) / len(texts)


def repetition(texts: Sequence[str], n: int = 4) -> CorpusMetric:
    """How much of a report it has said before, as means over the reports.

    `repeated_ngrams` is ``1 - different n-grams / n-grams`` of a report (seq-rep-n; Welleck et al., ICLR 2020);
    `repeated_sentences` is the same of its sentences. References are not free of it: print theirs beside it.

    Args:
        texts: reports; words are separated by white space and compared in lower case, sentences end with `.`, `!`, `?`
            and at line breaks.
        n: order of the n-grams.

    Returns:
        Metrics `repeated_ngrams` and `repeated_sentences`, each report's within [0, 1); a report of less than n words,
        or without a sentence, has no value and is left out.
    """
    texts = [text.lower() for text in texts]
    if not texts:
        raise ValueError("There is no text to count repetitions of, expected at least one.")
    counts = count_ngrams(texts, n)[0][-1]
    total = np.asarray(counts.sum(axis=1), float).ravel()
    ngrams = 1 - divide(counts.getnnz(axis=1), total)
    sentences = [[s for part in _SENTENCE_END.split(text) if (s := " ".join(part.split()))] for text in texts]
    repeated = [1 - len(set(found)) / len(found) if found else np.nan for found in sentences]
    return mean_metric(["repeated_ngrams", "repeated_sentences"], np.column_stack([ngrams, repeated]))
