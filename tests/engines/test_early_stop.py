import pytest
import torch
from ignite.engine import Engine, Events

from common.engines.early_stop import StopWithoutGain


def make(values, patience, epochs=20):
    """A trainer that does nothing, whose validations find one value after the other."""
    trainer, validator = Engine(lambda *_: None), Engine(lambda *_: None)
    stop = StopWithoutGain(validator, "mean_auroc", patience)
    stop.attach(trainer)

    @validator.on(Events.STARTED)
    def measure(engine):
        value = values[trainer.state.epoch - 1]
        engine.state.metrics = {} if value is None else {"mean_auroc": value}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run([0]))
    return trainer, stop


@pytest.mark.parametrize(
    ("values", "patience", "last"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.7], 2, 4),  # the same value again is no gain
        ([0.5, 0.4, 0.6, 0.5, 0.6, 0.61], 2, 5),  # gains start the count anew
        ([0.5, 0.6, 0.7, 0.8], 1, 4),
        ([None, None, None, 0.5], 2, 3),  # a validation that could not be scored is no gain
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 5, 6),
    ],
)
def test_training_ends_after_so_many_validations_without_gain(values, patience, last):
    trainer, _ = make(values, patience)
    trainer.run([0, 1], max_epochs=len(values))
    assert trainer.state.epoch == last


@pytest.mark.parametrize("ended", [1, 2, 3, 4])
def test_resumed_after_any_epoch_it_ends_at_the_same_one(ended):
    """A bug: resumed from what was saved in the epoch in which training had to end, it trained one epoch more."""
    values = [0.5, 0.7, 0.6, 0.6, 0.9, 0.9, 0.9]
    first, stop = make(values, 2)
    first.run([0, 1], max_epochs=ended)
    trainer, resumed = make(values, 2)
    completed = []
    trainer.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.epoch))

    @trainer.on(Events.STARTED)
    def load(engine):
        resumed.load_state_dict(stop.state_dict())
        engine.state.epoch = ended
        engine.state.iteration = 2 * ended

    trainer.run([0, 1], max_epochs=7)
    assert completed == [4]


def test_the_state_is_plain_and_empty_before_a_trainer_is_known(tmp_path):
    stop = StopWithoutGain(Engine(lambda *_: None), "mean_auroc", 3)
    assert stop.state_dict() == {}
    stop.load_state_dict({})
    trainer, stop = make([0.5, 0.4], 3)
    trainer.run([0], max_epochs=2)
    torch.save(stop.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["counter"] == 1 and state["best_score"] == 0.5
