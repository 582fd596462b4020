import json

import pytest
import torch
from monai.handlers import ValidationHandler

from common.handlers.profile import ProfileHandler
from tests.handlers.small_engines import Clock, make_data, make_evaluator, make_network, make_trainer


class Slow(torch.nn.Module):
    def __init__(self, seconds, clock):
        super().__init__()
        self.inner, self.seconds, self.clock = make_network(), seconds, clock

    def forward(self, x):
        self.clock.sleep(self.seconds)
        return self.inner(x)


class SlowSGD(torch.optim.SGD):
    clock = None

    def step(self, *args):
        self.clock.sleep(0.02)
        return super().step(*args)


class SlowData(list):
    clock = None

    def __getitem__(self, index):
        self.clock.sleep(0.005)
        return super().__getitem__(index)


def test_every_phase_gets_its_time(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("common.handlers.profile.time", clock)
    network = Slow(0.03, clock)
    data, optimizer = SlowData(make_data()), SlowSGD(network.parameters(), 0.1)
    data.clock = optimizer.clock = clock
    handler = ProfileHandler({"Net": network}, tmp_path, "refiner", warm_up=1)
    evaluator = make_evaluator(network)  # each of its two batches takes as long as a forward pass
    trainer = make_trainer(
        [ValidationHandler(1, evaluator), handler],
        network,
        epochs=3,
        data=data,
        optimizer=optimizer,
    )
    start = clock.now
    trainer.run()
    seconds = handler.seconds
    assert handler.iterations == 11
    assert seconds["forward"] == seconds["forward Net"] == pytest.approx(11 * 0.03)
    assert seconds["optimizer"] == pytest.approx(11 * 0.02)
    assert seconds["data"] == pytest.approx(11 * 0.01)
    assert seconds["handlers"] == pytest.approx(6 * 0.03)
    phases = {name: share for name, share in handler.shares().items() if not name.startswith("forward ")}
    assert sum(phases.values()) == pytest.approx(1)
    written = json.loads((tmp_path / "refiner" / "profile.json").read_text())
    assert written["iterations"] == 11 and written["shares"] == pytest.approx(handler.shares())
    one_iteration = 0.01 + 0.03 + 0.02  # the warm-up, which is not counted
    assert clock.now - start - one_iteration == pytest.approx(sum(seconds.values()) - seconds["forward Net"])
