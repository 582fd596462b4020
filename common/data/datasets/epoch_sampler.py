"""The order of the samples of a training, which can be taken up in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.utils.data import DistributedSampler

from common.data.seeds import seeded_generator

__all__ = ["EpochSampler"]


class EpochSampler(DistributedSampler):
    """PyTorch's `DistributedSampler`, for one process as well as for several, that can begin in the middle of an epoch.

    The order depends on seed and epoch only. With several processes the samples of a step are those which one process
    would take with a batch as large as all of theirs together, if the batch sizes fit.

    Attach it to the trainer and give `generator` to the data loader, whose workers are seeded from it: then both begin
    where the trainer is, at epoch and iteration, after a resume too.

    Args:
        dataset: to sample from.
        batch_size: of the data loader, per process.
        shuffle: draw a new order in every epoch; False keeps the order, in blocks of a batch per process.
        seed: of the order.
    """

    def __init__(self, dataset: Sized, batch_size: int, shuffle: bool = True, seed: int = 0) -> None:
        super().__init__(dataset, idist.get_world_size(), idist.get_rank(), shuffle=shuffle, seed=seed)
        self.batch_size = batch_size
        self.first = 0
        self.generator = torch.Generator()
        self.set_epoch(1)

    def attach(self, engine: Engine) -> None:
        """Take epoch and place from a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)

    def set_epoch(self, epoch: int) -> None:
        """Order and workers' seeds of this epoch, from its first sample on."""
        super().set_epoch(epoch)
        self.first = 0
        self.generator.manual_seed(seeded_generator(self.seed, epoch).initial_seed())

    def __iter__(self) -> Iterator[int]:
        """Indices of this process, from `first` on."""
        return islice(super().__iter__() if self.shuffle else self._blocks(), self.first, None)

    def state_dict(self) -> dict[str, int]:
        """Nothing: it takes epoch and place from the trainer that it is attached to."""
        return {}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Nothing to do, see `state_dict`."""

    def _blocks(self) -> Iterator[int]:
        """Whole batches in turn, because items that follow each other may share something (a ratio)."""
        step = self.batch_size * self.num_replicas
        for begin in range(0, self.num_samples * self.num_replicas, step):
            size = min(self.batch_size, (self.num_samples * self.num_replicas - begin) // self.num_replicas)
            mine = begin + self.rank * size
            yield from (index % len(self.dataset) for index in range(mine, mine + size))

    def _epoch_started(self, engine: Engine) -> None:
        self.set_epoch(engine.state.epoch)
        length = engine.state.epoch_length
        self.first = 0 if length is None else engine.state.iteration % length * self.batch_size
