"""CIDEr of a corpus and of each report, as the caption and report lineage computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from common.metrics.report.corpus_metric import CorpusMetric, divide, mean_metric
from common.metrics.report.ngrams import PairedNGrams, pair_ngrams


def cider(
    hypotheses: Sequence[str],
    references: Sequence[str],
    n: int = 4,
    sigma: float = 6.0,
    ngrams: PairedNGrams | None = None,
) -> CorpusMetric:
    """CIDEr (Vedantam, Zitnick and Parikh, CVPR 2015), one reference per report, equal to pycocoevalcap's `Cider`.

    Reports and references are vectors of n-gram counts times ``log(N / df)``, where df is the number of references that
    hold the n-gram and N the number of references. For each order: ``sum(min(h, r) * r) / (|h| |r|) * exp(-(l_h -
    l_r)^2 / (2 sigma^2))``, l being the number of bigrams; the report's value is ten times the mean over the orders.
    (The clipping and the length penalty are those of CIDEr-D, which the field calls CIDEr.)

    The document frequencies come from the references at hand, so the same pair of texts scores differently in another
    corpus: values of different test sets, of a part of a test set, or of a batch during training do not compare. In a
    corpus of one pair every weight is ``log(1) = 0`` and so is CIDEr, even for equal texts; a phrase that all
    references share counts nothing. A bootstrap draws reports but keeps the frequencies of the whole corpus.

    Args:
        hypotheses: generated reports; words are separated by white space.
        references: as many references, in the same order.
        n: highest order of the n-grams.
        sigma: width of the length penalty, in bigrams.
        ngrams: counts of the same texts, if they were made before.

    Returns:
        Metric `cider`, each report's within [0, 10]. An empty report scores 0.
    """
    pair = ngrams or pair_ngrams(hypotheses, references, n)
    similarities = []
    for h, r in zip(pair.hypotheses[:n], pair.references[:n], strict=True):
        frequency = (r > 0).sum(axis=0)
        weight = np.log(r.shape[0]) - np.log(np.maximum(1.0, np.asarray(frequency, float).ravel()))
        h, r = csr_matrix(h.multiply(weight)), csr_matrix(r.multiply(weight))
        common = _row_sums(h.minimum(r).multiply(r))
        similarities.append(divide(common, np.sqrt(_row_sums(h.multiply(h)) * _row_sums(r.multiply(r))), undefined=0))
    bigrams = [np.maximum(0, lengths - 1) for lengths in (pair.hypothesis_lengths, pair.reference_lengths)]
    penalty = np.exp(-((bigrams[0] - bigrams[1]) ** 2) / (2 * sigma**2))
    return mean_metric(["cider"], 10 * np.mean(similarities, axis=0) * penalty)


def _row_sums(matrix: csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1), float).ravel()
