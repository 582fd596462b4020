"""Random generators that depend on nothing but the numbers they are made from."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["seeded_generator"]


def seeded_generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU for, say, (seed, epoch, index); neighbouring numbers give unrelated streams.

    Args:
        numbers: integers >= 0.

    Raises:
        ValueError: for a negative number (raised by NumPy).
    """
    # The length counts because SeedSequence takes (0, 1) and (0, 1, 0) for the same.
    state = int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))
