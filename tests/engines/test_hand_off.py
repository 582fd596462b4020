import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.engines.hand_off import HandOff
from common.io.bad_input import BadInput


def train(out, stage, before, seed, epochs=2, best=(), stop=None, **more):
    """A training whose steps each add one to a weight; the states at its end, and when it began."""
    torch.manual_seed(seed)
    network = nn.Linear(2, 1)
    objects = {"network": network, "nothing": None, **more}
    began = []
    engine = Engine(lambda engine, batch: network.weight.data.add_(1.0))
    HandOff(str(out / "models"), str(out), stage, before, objects, list(best)).attach(engine)
    if stop is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop), lambda e: e.terminate())
    engine.add_event_handler(Events.STARTED, lambda _: began.append(network.weight.clone()))
    engine.run([0, 1, 2], max_epochs=epochs)
    return began[0], network.weight.clone()


def test_a_stage_begins_where_the_one_before_ended(tmp_path):
    (tmp_path / "warmup" / "checkpoints").mkdir(parents=True)
    (tmp_path / "warmup" / "checkpoints" / "best.pt").write_bytes(b"best so far")
    first, end = train(tmp_path, "warmup", None, 0)
    torch.testing.assert_close(end, first + 6)
    begin, _ = train(tmp_path, "easy", "warmup", 1, best=["best.pt"])
    assert torch.equal(begin, end)
    assert (tmp_path / "easy" / "checkpoints" / "best.pt").read_bytes() == b"best so far"


def test_a_stage_that_goes_on_takes_nothing(tmp_path):
    train(tmp_path, "warmup", None, 0)
    engine, network = Engine(lambda engine, batch: None), nn.Linear(2, 1)
    before = network.weight.clone()
    engine.state.iteration = 4  # as `ResumeHandler` does
    HandOff(str(tmp_path / "models"), str(tmp_path), "easy", "warmup", {"network": network})._started(engine)
    assert torch.equal(network.weight, before)


def test_what_is_not_what_the_stage_before_left(tmp_path):
    with pytest.raises(BadInput, match=r"warmup.pt: does not exist, expected what the stage warmup leaves; run it"):
        train(tmp_path, "easy", "warmup", 1)
    train(tmp_path, "warmup", None, 0)
    with pytest.raises(BadInput, match=r"holds the parts \['network'\], expected \['network', 'other'\]"):
        train(tmp_path, "easy", "warmup", 1, other=nn.Linear(1, 1))
    with pytest.raises(BadInput, match="does not fit the network"):
        HandOff(str(tmp_path / "models"), str(tmp_path), "easy", "warmup", {"network": nn.Linear(3, 1)})._started(
            Engine(lambda e, b: None)
        )
    with pytest.raises(BadInput, match=r"best.pt: does not exist, expected what the stage warmup kept"):
        train(tmp_path, "easy", "warmup", 1, best=["best.pt"])


def test_a_stage_that_a_limit_ends_within_an_epoch_hands_on_what_it_has(tmp_path):
    _, end = train(tmp_path, "warmup", None, 0, stop=4)
    begin, _ = train(tmp_path, "easy", "warmup", 1)
    assert torch.equal(begin, end)
