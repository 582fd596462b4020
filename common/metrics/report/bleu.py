"""BLEU-1 to BLEU-4 of a corpus and of each report, as the caption and report lineage computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.metrics.report.corpus_metric import CorpusMetric
from common.metrics.report.ngrams import PairedNGrams, pair_ngrams

_TINY, _SMALL = 1e-15, 1e-9
"""pycocoevalcap's constants: they keep an order without a match above 0 and a division by 0 away."""


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], n: int = 4, ngrams: PairedNGrams | None = None
) -> CorpusMetric:
    """Cumulative BLEU-1..n, one reference per report (Papineni et al., ACL 2002), equal to pycocoevalcap's `Bleu(n)`.

    ``BLEU-k = min(1, exp(1 - r/h)) * (p_1 ... p_k)^(1/k)``, where p_i is the clipped i-gram precision over the whole
    corpus and h, r are the words of all reports and of all references. The corpus value is not the mean of the
    per-report values, and a single report has the same formula.

    Traps: a report with no common 4-gram has BLEU-4 near 0 whatever else it says, so per-report BLEU-4 is mostly
    rounding; a text of k < n words cannot reach 1 in BLEU-n even when it equals its reference; identical texts of at
    least n words miss 1 by about 1e-9. An empty report scores 0.

    Args:
        hypotheses: generated reports; words are separated by white space.
        references: as many references, in the same order.
        n: highest order.
        ngrams: counts of the same texts, if they were made before.

    Returns:
        Metrics `bleu_1` to `bleu_n`, each within [0, 1].
    """
    pair = ngrams or pair_ngrams(hypotheses, references, n)
    h, r = pair.hypothesis_lengths[:, None], pair.reference_lengths[:, None]
    matched = [a.minimum(b).sum(axis=1) for a, b in zip(pair.hypotheses[:n], pair.references[:n], strict=True)]
    possible = np.maximum(0, h - np.arange(n))
    columns = np.hstack([*map(np.asarray, matched), possible, h, r])

    def score(sums: np.ndarray) -> np.ndarray:
        precision = (sums[..., :n] + _TINY) / (sums[..., n : 2 * n] + _SMALL)
        ratio = (sums[..., 2 * n] + _TINY) / (sums[..., 2 * n + 1] + _SMALL)
        brevity = np.where(ratio < 1, np.exp(np.minimum(0, 1 - 1 / ratio)), 1.0)
        return np.cumprod(precision, axis=-1) ** (1 / np.arange(1, n + 1)) * brevity[..., None]

    return CorpusMetric(tuple(f"bleu_{k}" for k in range(1, n + 1)), columns, score)
