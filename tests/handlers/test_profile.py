import json
import time

import pytest
import torch
from monai.handlers import ValidationHandler

from common.handlers.profile import ProfileHandler
from tests.handlers.small_engines import make_data, make_evaluator, make_network, make_trainer


class Slow(torch.nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.inner, self.seconds = make_network(), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.inner(x)


class SlowSGD(torch.optim.SGD):
    def step(self, *args):
        time.sleep(0.02)
        return super().step(*args)


class SlowData(list):
    def __getitem__(self, index):
        time.sleep(0.005)
        return super().__getitem__(index)


def test_every_phase_gets_its_time(tmp_path):

    network = Slow(0.03)
    handler = ProfileHandler({"Net": network}, tmp_path, "refiner", warm_up=1)
    evaluator = make_evaluator(network)  # each of its two batches takes as long as a forward pass
    trainer = make_trainer(
        [ValidationHandler(1, evaluator), handler],
        network,
        epochs=3,
        data=SlowData(make_data()),
        optimizer=SlowSGD(network.parameters(), 0.1),
    )
    start = time.perf_counter()
    trainer.run()
    seconds = handler.seconds
    assert handler.iterations == 11
    assert seconds["forward"] == pytest.approx(11 * 0.03, rel=0.3)
    assert seconds["forward Net"] == pytest.approx(seconds["forward"], rel=0.1)
    assert seconds["optimizer"] == pytest.approx(11 * 0.02, rel=0.3)
    assert seconds["data"] == pytest.approx(11 * 0.01, rel=0.4)
    assert seconds["handlers"] == pytest.approx(6 * 0.03, rel=0.4)
    phases = {name: share for name, share in handler.shares().items() if not name.startswith("forward ")}
    assert sum(phases.values()) == pytest.approx(1)
    written = json.loads((tmp_path / "refiner" / "profile.json").read_text())
    assert written["iterations"] == 11 and written["shares"] == pytest.approx(handler.shares())
    assert sum(seconds.values()) < 2 * (time.perf_counter() - start)
