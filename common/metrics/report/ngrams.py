"""N-gram counts of whole corpora as sparse matrices, from which BLEU and CIDEr follow by a few products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class PairedNGrams:
    """How often each n-gram occurs in each report and in its reference.

    Attributes:
        hypotheses: one (reports, n-grams) float64 matrix for each order 1..n.
        references: likewise, with the same columns.
        hypothesis_lengths: (reports,) words.
        reference_lengths: (reports,) words.
    """

    hypotheses: list[csr_matrix]
    references: list[csr_matrix]
    hypothesis_lengths: np.ndarray
    reference_lengths: np.ndarray


def pair_ngrams(hypotheses: Sequence[str], references: Sequence[str], n: int = 4) -> PairedNGrams:
    """Count the n-grams of reports and references, words being what stands between white space.

    Args:
        hypotheses: generated reports.
        references: as many references, in the same order.
        n: highest order.

    Raises:
        ValueError: if there are not as many references as reports, or none.
    """
    check_pairs(hypotheses, references)
    matrices, lengths = count_ngrams([*hypotheses, *references], n)
    half = len(hypotheses)
    return PairedNGrams([m[:half] for m in matrices], [m[half:] for m in matrices], lengths[:half], lengths[half:])


def count_ngrams(texts: Sequence[str], n: int = 4) -> tuple[list[csr_matrix], np.ndarray]:
    """(texts, n-grams) counts for each order 1..n, and the (texts,) numbers of words."""
    words = [text.split() for text in texts]
    lengths = np.array([len(w) for w in words], dtype=np.int64)
    vocabulary: dict[str, int] = {}
    flat = np.array([vocabulary.setdefault(w, len(vocabulary)) for text in words for w in text], dtype=np.int64)
    text_of = np.repeat(np.arange(len(texts)), lengths)
    start, ids = np.arange(len(flat)), flat
    matrices = [_counts(text_of, ids, len(texts))]
    for order in range(1, n):
        # An n-gram is an (n-1)-gram and the word that follows it in the same text.
        inside = start + order < len(flat)
        inside[inside] = text_of[start[inside] + order] == text_of[start[inside]]
        start, ids = start[inside], ids[inside]
        ids = np.unique(ids * len(vocabulary) + flat[start + order], return_inverse=True)[1]
        matrices.append(_counts(text_of[start], ids, len(texts)))
    return matrices, lengths


def check_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Refuse what cannot be compared pair by pair.

    Raises:
        ValueError: if there are not as many references as reports, or none, or a single text in place of a list.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("A report is given as one text, expected a list of reports and a list of references.")
    if len(hypotheses) != len(references) or not len(hypotheses):
        raise ValueError(
            f"{len(hypotheses)} reports are compared with {len(references)} references, expected as many, at least one."
        )


def _counts(rows: np.ndarray, columns: np.ndarray, texts: int) -> csr_matrix:
    shape = (texts, int(columns.max()) + 1 if len(columns) else 1)
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
