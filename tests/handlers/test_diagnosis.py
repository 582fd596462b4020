import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers.diagnosis import DiagnosisHandler
from common.handlers.engine_state import notes
from tests.handlers.small_engines import Clock, make_data, make_network, make_trainer


class Validator(Engine):
    """Its metric "loss" is what the list says, one per run."""

    def __init__(self, values):
        super().__init__(lambda engine, batch: None)
        self.values = iter(values)
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(loss=next(self.values)))


def run(losses, validations=(), lr=0.1, **options):
    """Train with these losses, one per iteration, and give the sentences."""
    values, validator = iter(losses), Validator(validations)
    handler = DiagnosisHandler("refiner", validator, **({"window": 4, "loader_share": 1.0} | options))
    trainer = make_trainer([handler], make_network(), epochs=len(losses) // 4, lr=lr)
    trainer.loss_function = lambda pred, label: pred.sum() * 0 + next(values)
    if validations:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run([0]))
    trainer.run()
    return notes(trainer)


def test_a_plateau_is_named_once():
    sentences = run([1.0] * 48)
    assert len(sentences) == 1
    assert sentences[0].startswith("refiner: the loss has not fallen for 20 iterations (1, now 1) at iteration 20")
    assert "--learning_rate" in sentences[0]


def test_a_loss_that_falls_is_no_plateau():
    assert run([1.0 * 0.99**i for i in range(48)]) == []


def test_a_schedule_that_has_cooled_down_may_be_flat():
    values = iter([1.0] * 48)
    handler = DiagnosisHandler("refiner", window=4, loader_share=1.0)
    trainer = make_trainer([handler], make_network(), epochs=12, lr=0.1)
    trainer.loss_function = lambda pred, label: pred.sum() * 0 + next(values)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda e: e.optimizer.param_groups[0].update(lr=0.01))
    trainer.run()
    assert notes(trainer) == []


def test_a_growing_gap_is_named():
    falling = [1.0 * 0.98**i for i in range(32)]
    (sentence,) = run(falling, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2])
    assert "the validation loss rose from 0.5 to 0.8 while the training loss fell at iteration 16" in sentence
    assert "--weight_decay" in sentence
    assert run(falling, [0.5, 0.6, 0.7, 0.6, 0.7, 0.8, 0.7, 0.8]) == []


def test_a_slow_loader_is_named(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("common.handlers.diagnosis.time", clock)

    class Slow(list):
        def __getitem__(self, index):
            clock.sleep(0.02)
            return super().__getitem__(index)

    handler = DiagnosisHandler("refiner", window=4, advice={"loader": "--num_workers 8"})
    trainer = make_trainer([handler], epochs=2, data=Slow(make_data()))
    trainer.run()
    (sentence,) = notes(trainer)
    assert "of the time goes into waiting for data at iteration 4; --num_workers 8 loads it sooner" in sentence


@pytest.mark.parametrize("share", [1.0])
def test_a_quick_loader_is_not(share):
    handler = DiagnosisHandler("refiner", window=4, loader_share=share)
    trainer = make_trainer([handler], epochs=2)
    trainer.run()
    assert notes(trainer) == [] and torch.isfinite(torch.tensor(handler.means)).all()
