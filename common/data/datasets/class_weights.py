"""Weights of labels by how rare they are."""

from __future__ import annotations

from torch import Tensor

__all__ = ["class_weights"]


def class_weights(label: Tensor) -> Tensor:
    """Weights that grow as a label gets rarer: the square root of negatives per positive, of mean 1.

    Args:
        label: (N, C) of 1, 0 and NaN where there is none; what a smoothing puts between counts as neither.

    Returns:
        (C,) float.
    """
    positive = (label == 1).sum(0).clamp(min=1)
    weights = ((label == 0).sum(0).clamp(min=1) / positive).sqrt()
    return weights / weights.mean()
