import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers.engine_state import (
    add_note,
    batch_size,
    best_metric,
    is_step_iteration,
    iteration_losses,
    notes,
    on_exception,
    scalar,
    total_iterations,
)
from tests.handlers.small_engines import Fail, make_data, make_evaluator, make_network, make_trainer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (torch.tensor(2.0), 2.0),
        (torch.tensor([[3.0]]), 3.0),
        (np.float32(0.25), 0.25),
        (np.array([4.0]), 4.0),
        (torch.ones(2), None),
        (np.ones(2), None),
        (True, None),
        ("1", None),
        (None, None),
    ],
)
def test_scalar(value, expected):
    assert scalar(value) == expected


def test_losses_come_from_plain_and_decollated_output():
    engine = Engine(lambda engine, batch: None)
    parts = {"kl_loss": torch.tensor(0.5), "pred": torch.ones(2, 3), "loss": torch.tensor(1.5)}
    for output in (parts, [parts, parts]):
        engine.state.output = output
        assert list(iteration_losses(engine).items()) == [("loss", 1.5), ("kl_loss", 0.5)]
    for output in (None, torch.tensor(1.0), []):
        engine.state.output = output
        assert iteration_losses(engine) == {}


def test_batch_size_before_and_after_decollation():
    engine = Engine(lambda engine, batch: None)
    for batch in ({"image": torch.ones(3, 2)}, [{}, {}, {}], torch.ones(3), {"meta": {"a": 1}, "image": torch.ones(3)}):
        engine.state.batch = batch
        assert batch_size(engine) == 3
    engine.state.batch = {"name": "a"}
    assert batch_size(engine) is None


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_step_iterations_are_those_in_which_the_optimizer_steps(accumulation):
    network, stepped, said = make_network(), [], []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    original = optimizer.step
    trainer = make_trainer(network=network, optimizer=optimizer, accumulation_steps=accumulation)
    optimizer.step = lambda: (stepped.append(trainer.state.iteration), original())
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: said.append(e.state.iteration) if is_step_iteration(e) else None
    )
    assert total_iterations(trainer) == 8
    trainer.run()
    assert said == stepped


def test_best_metric_follows_the_comparison_of_the_engine():
    evaluator = make_evaluator(make_network())
    assert best_metric(evaluator) is None
    evaluator.run(3)
    name, value, epoch = best_metric(evaluator)
    assert (name, epoch) == ("mse", 3)
    assert value == pytest.approx(evaluator.state.metrics["mse"])


def test_notes_are_kept_once():
    engine = Engine(lambda engine, batch: None)
    for sentence in ("A.", "B.", "A."):
        add_note(engine, sentence)
    assert notes(engine) == ["A.", "B."]


def test_exceptions_reach_every_act_once_and_everybody_else():
    seen, later, error = [], [], ValueError("stop")

    def save_and_raise(engine, caught):  # what MONAI's CheckpointSaver does
        later.append(caught)
        raise caught

    trainer = make_trainer([Fail(error)])
    on_exception(trainer, lambda engine, caught: seen.append(("a", caught)))
    on_exception(trainer, lambda engine, caught: seen.append(("b", caught)))
    trainer.add_event_handler(Events.EXCEPTION_RAISED, save_and_raise)
    with pytest.raises(ValueError, match="stop"):
        trainer.run()
    assert seen == [("a", error), ("b", error)]
    assert error in later


def test_exceptions_before_the_start_are_not_swallowed():
    trainer = make_trainer()

    def fail(engine):
        raise KeyError("early")

    trainer.add_event_handler(Events.STARTED, fail)
    on_exception(trainer, lambda engine, caught: None)
    with pytest.raises(KeyError, match="early"):
        trainer.run()


def test_an_exception_of_the_data_is_not_swallowed():
    trainer = make_trainer(data=[{"image": torch.ones(3), "label": torch.ones(1)}] * 2)
    on_exception(trainer, lambda engine, caught: None)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run()
    assert make_data()  # the sound data of the other tests


def test_an_act_that_fails_hides_nothing_and_stops_no_other(caplog):
    seen = []
    trainer = make_trainer([Fail(ValueError("stop"))])

    def fail(*_):
        raise OSError("disk full")

    on_exception(trainer, fail)
    on_exception(trainer, lambda _, error: seen.append(error))
    with pytest.raises(ValueError, match="stop"):
        trainer.run()
    assert [str(error) for error in seen] == ["stop"] and "also, while the run ended: disk full" in caplog.text
