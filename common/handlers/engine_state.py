"""What the handlers that watch a run read from a MONAI engine, and what they tell each other through its state."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator

logger = logging.getLogger("train")


def scalar(value: object) -> float | None:
    """A number or one-element tensor as a float, None for anything else (booleans and text included)."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return float(value.item()) if math.prod(value.shape) == 1 else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def iteration_losses(engine: Engine) -> dict[str, float]:
    """The scalars of `engine.state.output` whose key has "loss" in it; "loss" itself comes first.

    Works before and after MONAI decollates the output (which repeats the loss in the item of every sample).
    """
    output = engine.state.output
    first = output[0] if isinstance(output, Sequence) and output else output
    if not isinstance(first, Mapping):
        return {}
    found = {str(key): scalar(value) for key, value in first.items() if "loss" in str(key)}
    losses = {key: value for key, value in found.items() if value is not None}
    return dict(sorted(losses.items(), key=lambda item: item[0] != "loss"))


def batch_size(engine: Engine) -> int | None:
    """Samples in `engine.state.batch`, decollated or not; None if it cannot be told."""
    batch = engine.state.batch
    while isinstance(batch, Mapping) and batch:
        batch = next((value for value in batch.values() if isinstance(value, torch.Tensor | list)), None)
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else None
    return len(batch) if isinstance(batch, Sequence) and not isinstance(batch, str) else None


def total_iterations(engine: Engine) -> int | None:
    """Iterations of the whole run, None while the length of an epoch is not known.

    An evaluator always runs one epoch; MONAI gives it the number of the trainer's epoch.
    """
    length, epochs = engine.state.epoch_length, 1 if isinstance(engine, Evaluator) else engine.state.max_epochs
    return None if length is None or epochs is None else length * epochs


def is_step_iteration(engine: Engine) -> bool:
    """Whether the optimizer steps in this iteration of a MONAI trainer; the rule of `SupervisedTrainer._iteration`."""
    every = getattr(engine, "accumulation_steps", 1)
    length = engine.state.epoch_length
    if length is None:
        return engine.state.iteration % every == 0
    of_epoch = (engine.state.iteration - 1) % length + 1
    return of_epoch % every == 0 or of_epoch == length


def best_metric(engine: Engine) -> tuple[str, float, int] | None:
    """Name, value and epoch of the best key metric so far; None if there is no key metric or no result yet."""
    state = engine.state
    value = scalar(getattr(state, "best_metric", None))
    if getattr(state, "key_metric_name", None) is None or state.best_metric_epoch < 1 or value is None:
        return None
    return state.key_metric_name, value, state.best_metric_epoch


def add_note(engine: Engine, sentence: str) -> None:
    """Leave a sentence about the run for `history.json` and the page of the run; the same one is kept once."""
    known = notes(engine)
    if sentence not in known:
        known.append(sentence)


def warn(engine: Engine, sentence: str) -> None:
    """Leave a sentence about the run, see `add_note`, and let the first process log it as a warning."""
    add_note(engine, sentence)
    if idist.get_rank() == 0:
        logger.warning(sentence)


def notes(engine: Engine) -> list[str]:
    """The sentences that handlers left on this engine (the list itself)."""
    if not hasattr(engine, "run_notes"):
        engine.run_notes = []
    return engine.run_notes


def on_exception(engine: Engine, act: Callable[[Engine, BaseException], None]) -> None:
    """Call `act` once per exception that ends a run, without hiding the exception or keeping others from seeing it.

    Ignite swallows an exception as soon as a handler listens to it, fires the event twice for an error inside an
    iteration, and stops at the first handler that raises. So the acts of all handlers here share one listener, which
    leaves the raising to a last one; a MONAI `CheckpointSaver` attached later still saves.
    """
    acts = getattr(engine, "exception_acts", None)
    if acts is None:
        acts = engine.exception_acts = []
        engine.add_event_handler(Events.EXCEPTION_RAISED, _run_acts)
        engine.add_event_handler(Events.STARTED, _raise_last)
    acts.append(act)


def _run_acts(engine: Engine, error: BaseException) -> None:
    if getattr(engine, "last_exception", None) is not error:
        engine.last_exception = error
        for act in engine.exception_acts:
            try:
                act(engine, error)
            except Exception as other:  # say, a full disk; what ended the run matters more
                logger.warning("also, while the run ended: %s", other)
    if not engine.has_event_handler(_raise, Events.EXCEPTION_RAISED):  # failed before the run had started
        raise error


def _raise_last(engine: Engine) -> None:
    """Only when the run starts are all handlers attached, so that this one can be the last."""
    if not engine.has_event_handler(_raise, Events.EXCEPTION_RAISED):
        engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)


def _raise(engine: Engine, error: BaseException) -> None:
    raise error
