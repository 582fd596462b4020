import pytest
import torch
from torch.utils.data import DistributedSampler

from common.data.datasets.epoch_sampler import EpochSampler


def test_one_process_takes_the_order_of_torch():
    ours, theirs = EpochSampler(range(11), 2, seed=3), DistributedSampler(range(11), 1, 0, seed=3)
    for epoch in (1, 2):
        ours.set_epoch(epoch), theirs.set_epoch(epoch)
        assert list(ours) == list(theirs) and sorted(ours) == list(range(11))


def test_it_begins_where_the_trainer_is():
    data = torch.arange(10.0)
    sampler = EpochSampler(data, 2, seed=1)
    loader = torch.utils.data.DataLoader(data, 2, sampler=sampler, generator=sampler.generator)
    sampler.set_epoch(4)
    whole = [batch.tolist() for batch in loader]

    class At:
        class state:
            epoch, epoch_length, iteration = 4, 5, 17

    sampler._epoch_started(At)
    assert [batch.tolist() for batch in loader] == whole[2:]
    At.state.iteration = 15  # the end of epoch 3
    sampler._epoch_started(At)
    assert [batch.tolist() for batch in loader] == whole


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n", [12, 13, 3])
def test_processes_share_the_data(monkeypatch, shuffle, n):
    found = []
    for rank in range(2):
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        found.append(list(EpochSampler(range(n), 2, shuffle)))
    assert len(found[0]) == len(found[1]) == -(-n // 2)
    assert {*found[0], *found[1]} == {*range(n)}
    if not shuffle:  # whole batches
        assert found[0][:2] == [0, 1] and (n < 12 or found[1][:2] == [2, 3])


def test_workers_are_seeded_by_epoch_not_by_what_was_drawn_before():
    sampler = EpochSampler(range(4), 1)
    torch.rand(3, generator=sampler.generator)
    sampler.set_epoch(2)
    first = torch.rand(2, generator=sampler.generator)
    sampler.set_epoch(2)
    assert torch.equal(first, torch.rand(2, generator=sampler.generator))
    sampler.set_epoch(3)
    assert not torch.equal(first, torch.rand(2, generator=sampler.generator))
