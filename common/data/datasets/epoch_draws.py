"""Random draws of a training that depend on its seed, the epoch and the item only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events

__all__ = ["EpochDraws", "random_place"]


class EpochDraws:
    """Base of a data set or transform that draws anew in every epoch once it is a handler of the trainer.

    Seeded with `epoch` and the index of an item, draws are the same whatever the number of workers, and after a resume.
    """

    epoch = 0

    def attach(self, engine: Engine) -> None:
        """Take the epoch from an engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: self.set_epoch(engine.state.epoch))

    def set_epoch(self, epoch: int) -> None:
        """Draw for this epoch from now on (data loader workers started later)."""
        self.epoch = epoch


def random_place(shape: Sequence[int], size: Sequence[int], generator: torch.Generator) -> tuple[slice, ...]:
    """A random place of a given size in an array, a slice per axis; an axis that is shorter is taken whole."""
    starts = [int(torch.randint(max(n - m, 0) + 1, (), generator=generator)) for n, m in zip(shape, size, strict=True)]
    return tuple(slice(start, start + m) for start, m in zip(starts, size, strict=True))
