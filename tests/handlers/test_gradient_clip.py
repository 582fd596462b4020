import logging

import pytest
import torch
from ignite.engine import Events

from common.handlers.engine_state import notes
from common.handlers.gradient_clip import GradientClipHandler
from tests.handlers.small_engines import make_data, make_network, make_trainer


def gradient(samples) -> torch.Tensor:
    """Gradient of the mean squared error at the initial weights, by hand."""
    x = torch.stack([sample["image"] for sample in samples])
    y = torch.stack([sample["label"] for sample in samples])
    w = torch.full((2, 1), 0.1)
    return (2 * x.T @ (x @ w - y) / len(x)).flatten()


def record_norms(trainer) -> list:
    norms: list = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: norms.append(e.state.grad_norm))
    return norms


def test_the_step_has_the_largest_norm_and_the_direction_of_the_gradient():
    network = make_network()
    trainer = make_trainer([GradientClipHandler(0.5)], network, epochs=1, lr=1.0, batch_size=8)
    norms = record_norms(trainer)
    trainer.run()
    full = gradient(make_data())
    step = 0.1 - network.weight.detach().flatten()
    torch.testing.assert_close(step, 0.5 * full / full.norm(), atol=1e-5, rtol=1e-5)
    assert norms == [pytest.approx(full.norm().item(), rel=1e-5)]


def test_a_small_gradient_is_left_alone():
    network = make_network()
    make_trainer([GradientClipHandler(1e6)], network, epochs=1, lr=1.0, batch_size=8).run()
    torch.testing.assert_close(0.1 - network.weight.detach().flatten(), gradient(make_data()))


def test_accumulated_gradients_are_clipped_once_as_a_sum():
    network = make_network()
    trainer = make_trainer([GradientClipHandler(0.5)], network, epochs=1, lr=1.0, accumulation_steps=4)
    norms = record_norms(trainer)
    trainer.run()
    assert norms == [None, None, None, pytest.approx(gradient(make_data()).norm().item(), rel=1e-5)]
    assert (0.1 - network.weight.detach()).norm().item() == pytest.approx(0.5, rel=1e-5)


def test_none_only_records():
    network = make_network()
    trainer = make_trainer([GradientClipHandler(None)], network, epochs=1, lr=1.0, batch_size=8)
    norms = record_norms(trainer)
    trainer.run()
    torch.testing.assert_close(0.1 - network.weight.detach().flatten(), gradient(make_data()))
    assert norms[0] == pytest.approx(gradient(make_data()).norm().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_scaled_gradient_is_unscaled_first():
    network = make_network()
    trainer = make_trainer([GradientClipHandler(0.5)], network, epochs=1, lr=1.0, accumulation_steps=4)
    trainer.amp, trainer.scaler = True, torch.amp.GradScaler("cpu", init_scale=1024.0)
    norms = record_norms(trainer)
    trainer.run()
    assert norms[3] == pytest.approx(gradient(make_data()).norm().item(), rel=1e-4)
    assert (0.1 - network.weight.detach()).norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("bad_at", [None, 3])
def test_a_wild_or_undefined_norm_is_worth_one_sentence(caplog, bad_at):
    caplog.set_level(logging.WARNING, "train")
    handler = GradientClipHandler(1.0, warn_above=1e-3, advice="--lr 1e-5")
    trainer = make_trainer([handler], data=make_data(bad_at=bad_at))
    trainer.run()
    messages = [record.getMessage() for record in caplog.records if record.name == "train"]
    assert len([message for message in messages if "gradient norm" in message]) == 1
    assert "above 0.001" in messages[0] and "(--lr 1e-5)" in messages[0]
    assert notes(trainer) == messages


def test_a_largest_norm_is_positive():
    with pytest.raises(ValueError, match="expected a positive number"):
        GradientClipHandler(0)


def spoil_gradients(trainer, iterations) -> None:
    """Make the gradients of some iterations NaN, before the handler sees them."""

    def spoil(engine):
        if engine.state.iteration in iterations:
            for group in engine.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad.fill_(float("nan"))

    from monai.engines.utils import IterationEvents

    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: None)
    trainer._event_handlers[IterationEvents.BACKWARD_COMPLETED].insert(
        0, (lambda engine: spoil(engine), (trainer,), {})
    )


def test_a_step_with_a_gradient_that_is_not_finite_is_left_out(caplog):
    network = make_network()
    trainer = make_trainer([GradientClipHandler(1.0)], network, epochs=1, lr=1.0, batch_size=2)
    spoil_gradients(trainer, {2})
    with caplog.at_level(logging.WARNING, logger="train"):
        trainer.run()
    assert torch.isfinite(network.weight).all()
    assert any("step of iteration 2 was left out" in note for note in notes(trainer))


def test_many_steps_left_out_in_a_row_end_the_training():
    trainer = make_trainer([GradientClipHandler(1.0, max_left_out=2)], make_network(), epochs=2, lr=1.0, batch_size=2)
    spoil_gradients(trainer, set(range(1, 99)))
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        trainer.run()
