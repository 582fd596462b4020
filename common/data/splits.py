"""Split cases into training, validation and test so that no patient is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

SPLITS = ("train", "val", "test")
DOCUMENT_PROPORTIONS = (243, 48, 32)
"""Patients per split in the slice-interpolation document (323 after 25 were excluded); other counts are scaled."""


def split_by_patient(
    patients: Mapping[str, str], fractions: Sequence[float] | None = None, seed: int = 0
) -> dict[str, str]:
    """Assign every case to a split by its patient.

    Patients are ordered by a hash of seed and id, so the result depends neither on the order of the input nor on any
    random generator's version, and a patient added later moves few others.

    Args:
        patients: case -> patient id.
        fractions: three non-negative weights for train, val, test; their sum is free. Default: 243, 48, 32.
        seed: another seed gives another split.

    Returns:
        case -> "train", "val" or "test", in the order of `patients`.

    Raises:
        ValueError: if the weights are not three non-negative numbers with a positive sum.
    """
    ids = sorted(set(patients.values()), key=lambda patient: hashlib.sha256(f"{seed}\n{patient}".encode()).digest())
    split_of: dict[str, str] = {}
    start = 0
    for split, count in zip(SPLITS, split_counts(len(ids), fractions), strict=True):
        split_of.update(dict.fromkeys(ids[start : start + count], split))
        start += count
    return {case: split_of[patient] for case, patient in patients.items()}


def split_counts(n_patients: int, fractions: Sequence[float] | None = None) -> tuple[int, int, int]:
    """Patients per split by largest remainder, and at least one in each split if there are 3 or more.

    Args:
        n_patients: number of patients.
        fractions: as in `split_by_patient`.

    Returns:
        Numbers of train, val and test patients; 323 give 243, 48, 32.

    Raises:
        ValueError: if the weights are not three non-negative numbers with a positive sum.
    """
    weights = [float(weight) for weight in (DOCUMENT_PROPORTIONS if fractions is None else fractions)]
    if len(weights) != 3 or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"Split fractions are {list(weights)}, expected three non-negative numbers, not all zero.")
    shares = [n_patients * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(3), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: n_patients - sum(counts)]:
        counts[i] += 1
    if n_patients >= 3:
        for i in range(3):
            if counts[i] == 0 and weights[i] > 0:
                counts[counts.index(max(counts))] -= 1
                counts[i] = 1
    return counts[0], counts[1], counts[2]
