import copy

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from common.handlers.ema import EMAHandler
from common.networks.weights import ChosenWeights, freeze, read_state, save_parts


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.randn(4, 2, generator=generator), "label": torch.randn(4, 1, generator=generator)}
        for _ in range(count)
    ]


def trainer(net, data, epochs=1, handlers=(), **kwargs):
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=data,
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.1),
        loss_function=nn.MSELoss(),
        train_handlers=list(handlers),
        decollate=False,
        **kwargs,
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_average_against_the_formula():
    net = network()
    ema = EMAHandler(net, decay=0.5)
    expected, values = net[0].weight.detach().clone().double(), []
    for n in range(12):
        with torch.no_grad():
            net[0].weight.add_(torch.randn(3, 2))
        net[1].running_mean += 1
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * net[0].weight.detach().double()
        values.append(d)
        ema.update()
    torch.testing.assert_close(ema.average["0.weight"].double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(ema.average["1.running_mean"], net[1].running_mean)
    assert values[0] == 0.1 and values[-1] == 0.5


def test_with_decay_zero_it_is_the_weights():
    net = network()
    none = EMAHandler(net, 0.0)
    with torch.no_grad():
        net[0].weight.add_(1)
    none.update()
    torch.testing.assert_close(none.average["0.weight"], net[0].weight.detach())


@pytest.mark.parametrize(("accumulation", "updates"), [(1, 6), (4, 2)])
def test_follows_the_optimizer(accumulation, updates):
    net = network()
    ema = EMAHandler(net)
    trainer(net, batches(), handlers=[ema], accumulation_steps=accumulation).run()
    assert ema.updates == updates


def test_validation_sees_the_average_and_training_is_unchanged():
    seen = {}
    results = []
    for with_ema in (False, True):
        net = network()
        evaluator = SupervisedEvaluator(torch.device("cpu"), batches(1), net, decollate=False)
        ema = EMAHandler(net, 0.5, evaluator=evaluator)
        engine = trainer(net, batches(), 2, [ema] if with_ema else [])
        evaluator.add_event_handler(
            "ITERATION_STARTED", lambda _, net=net: seen.update(copy.deepcopy(net.state_dict()))
        )
        engine.add_event_handler("EPOCH_COMPLETED", lambda _, evaluator=evaluator: evaluator.run())
        engine.run()
        results.append(net.state_dict())
    assert same(*results)
    assert same(seen, ema.average) and not same(seen, results[1])


def test_a_failed_validation_gives_the_weights_back():
    net = network()
    evaluator = SupervisedEvaluator(torch.device("cpu"), [{"image": torch.randn(4, 7)}], net, decollate=False)
    ema = EMAHandler(net, evaluator=evaluator)
    trainer(net, batches(), handlers=[ema]).run()
    trained = copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluator.run()
    assert same(net.state_dict(), trained)


def test_resume_is_bit_exact():
    whole_net = network()
    whole = EMAHandler(whole_net)
    trainer(whole_net, batches(), handlers=[whole]).run()

    net = network()
    first = EMAHandler(net)
    trainer(net, batches()[:3], handlers=[first]).run()
    saved = copy.deepcopy({"net": net.state_dict(), "ema": first.state_dict()})
    net = network(5)
    second = EMAHandler(net)
    net.load_state_dict(saved["net"])
    second.load_state_dict(saved["ema"])
    trainer(net, batches()[3:], handlers=[second]).run()
    assert second.updates == whole.updates == 6
    assert same(net.state_dict(), whole_net.state_dict()) and same(second.average, whole.average)


def test_what_is_frozen_is_neither_copied_nor_swapped():
    net, twin = network(), network()
    for module in (net, twin):
        freeze(module[0])
    every, some = EMAHandler(twin, 0.5), EMAHandler(ChosenWeights(net, ["1.*", "2.*"]), 0.5)
    assert not any(name.startswith("0.") for name in some.average)
    trainer(twin, batches(), handlers=[every]).run(), trainer(net, batches(), handlers=[some]).run()
    assert all(torch.equal(tensor, every.average[name]) for name, tensor in some.average.items())
    trained = copy.deepcopy(net.state_dict())
    some.swap_in()
    assert same(net.state_dict(), every.average)
    some.swap_out()
    assert same(net.state_dict(), trained)
    other = EMAHandler(ChosenWeights(network(3), ["1.*", "2.*"]), 0.5)
    other.load_state_dict(some.state_dict())
    assert same(other.average, some.average)


def test_applied_weights_and_saving(tmp_path):
    net = network()
    ema = EMAHandler(net, 0.5)
    trainer(net, batches(), handlers=[ema]).run()
    trained = copy.deepcopy(net.state_dict())
    ema.swap_in()
    assert same(net.state_dict(), ema.average)
    with pytest.raises(RuntimeError, match="expected an update after swap_out"):
        ema.update()
    ema.swap_out()
    assert same(net.state_dict(), trained)
    save_parts(tmp_path / "model.pt", {"unet": ema.weights})
    assert same(read_state(tmp_path / "model.pt"), {f"unet.{name}": t for name, t in ema.average.items()})


def test_refusals():
    with pytest.raises(ValueError, match="decay is 1, expected"):
        EMAHandler(network(), 1)
    with pytest.raises(ValueError, match="expected the names and shapes"):
        EMAHandler(network()).load_state_dict({"updates": 1, "average": {"x": torch.ones(1)}})


class Tied(nn.Module):
    """One weight by two names, as a decoder's words and its output have it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight


def test_a_tied_weight_has_one_average_under_both_names():
    net = Tied()
    ema = EMAHandler(net, decay=0.5)
    start = net.words.weight.detach().clone()
    with torch.no_grad():
        net.words.weight += 1
    ema.update()
    torch.testing.assert_close(ema.average["words.weight"], start + 0.9)
    assert torch.equal(ema.average["head.weight"], ema.average["words.weight"])
    ema.swap_in()
    torch.testing.assert_close(net.words.weight.detach(), start + 0.9)
    ema.swap_out()
    torch.testing.assert_close(net.head.weight.detach(), start + 1)
