import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.networks.slice_refiner import SliceRefiner
from common.optimizers.muon import ConvMuon, hidden_weights, orthogonalize


def test_singular_values_come_near_one():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    for x in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalize(x).float())
        assert 0.6 < values.min() and values.max() < 1.3


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(60, 24, bias=False), nn.Linear(24, 40, bias=False), nn.Linear(40, 60, bias=False))


def train(network, *optimizers):
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        F.mse_loss(network(x := torch.randn(99, 60, generator=generator)), x.roll(1, 1)).backward()
        for optimizer in optimizers:
            optimizer.step(), optimizer.zero_grad()
    return network.state_dict()


def test_matrices_against_torch():
    ours, theirs = small(), small()
    groups = hidden_weights(ours, outer=["0.", "2."])
    assert [len(group["params"]) for group in groups] == [1, 2]
    found = train(ours, ConvMuon(groups, lr=0.01, momentum=0.9, weight_decay=0.1))
    expected = train(
        theirs,
        torch.optim.Muon([theirs[1].weight], 0.01, 0.1, 0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs[0].weight, theirs[2].weight], 0.01, weight_decay=0.1),
    )
    start = small().state_dict()
    for name in expected:  # bfloat16 inside, and products taken in another order
        assert (found[name] - expected[name]).norm() < 0.04 * (expected[name] - start[name]).norm()


def test_the_refiner_keeps_its_outer_layers_with_adamw_and_a_resume_is_exact():
    network = SliceRefiner(3, [8, 16], [1, 1])
    names = {id(p): name for name, p in network.named_parameters()}
    hidden, rest = ([names[id(p)] for p in group["params"]] for group in hidden_weights(network))
    assert "body.encoder.0.0.conv1.weight" in hidden and len(hidden) + len(rest) == len(names)
    assert {"body.stem.weight", "body.head.weight", "sample_head.features.weight"} <= set(rest)
    assert all("bias" not in name for name in hidden)

    thick, base = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)

    def step(network, optimizer):
        network(thick, base).square().sum().add(network(thick, base).sum()).backward()
        optimizer.step(), optimizer.zero_grad()

    optimizer = ConvMuon(hidden_weights(network), lr=1e-3)
    step(network, optimizer)
    again = copy.deepcopy(network)
    other = ConvMuon(hidden_weights(again), lr=1e-3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(network, optimizer), step(again, other)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_without_an_orthogonal_group_it_is_adamw():
    ours, theirs = small(), small()
    found = train(ours, ConvMuon([{"params": list(ours.parameters())}], lr=0.01))
    expected = train(theirs, torch.optim.AdamW(theirs.parameters(), 0.01))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_closure_gives_its_loss():
    network = small()
    assert ConvMuon(hidden_weights(network), lr=0.0).step(lambda: 3.0) == pytest.approx(3.0)
