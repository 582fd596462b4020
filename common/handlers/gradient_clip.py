"""Clip the gradient where the optimizer steps, and remember its norm."""

from __future__ import annotations

import math

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from common.handlers.engine_state import is_step_iteration, warn


class GradientClipHandler:
    """Clip the 2-norm of the gradient over all parameters of the trainer's optimizer.

    With gradient accumulation only the summed gradient is clipped, in the iteration that steps. The norm before
    clipping is `engine.state.grad_norm` (None in the other iterations), from where `HistoryHandler` takes it.

    A gradient that is not finite would turn every weight into NaN, so its step is left out with a sentence; after
    `max_left_out` of them in a row the training ends with an error.

    Args:
        max_norm: largest norm that is kept; None only records.
        warn_above: norm that is worth a sentence, once per run; so is one that is not finite.
        advice: the override named in that sentence.
        max_left_out: steps in a row that may be left out.

    Raises:
        ValueError: if `max_norm` is not positive.
    """

    def __init__(
        self,
        max_norm: float | None = 1.0,
        warn_above: float = 100.0,
        advice: str = "--optimizer#lr",
        max_left_out: int = 10,
    ) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm is {max_norm}, expected a positive number or None.")
        self.max_norm, self.warn_above, self.advice, self.max_left_out = max_norm, warn_above, advice, max_left_out
        self._warned, self._left_out = False, 0

    def attach(self, engine: Engine) -> None:
        """Register on the end of the backward pass of a MONAI trainer; needed on every rank."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._backward_completed)

    def _backward_completed(self, engine: Engine) -> None:
        engine.state.grad_norm = None
        if not is_step_iteration(engine):
            return
        scaled = getattr(engine, "scaler", None) is not None and engine.amp
        if scaled:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if self.max_norm is None else self.max_norm)
        engine.state.grad_norm = float(norm)
        if scaled and not math.isfinite(engine.state.grad_norm):
            return  # a gradient scaler searches its scale this way, and leaves the step out
        self._leave_out(engine, parameters)
        # Not "norm > limit", which a NaN would pass.
        if not engine.state.grad_norm <= self.warn_above and not self._warned:
            self._warned = True
            warn(
                engine,
                f"The gradient norm is {engine.state.grad_norm:.3g} at iteration {engine.state.iteration}, above "
                f"{self.warn_above:g}; a lower learning rate ({self.advice}) helps if this goes on.",
            )

    def _leave_out(self, engine: Engine, parameters: list[torch.nn.Parameter]) -> None:
        """Take the gradients away if their norm is not finite, which makes the optimizer's step do nothing."""
        if math.isfinite(engine.state.grad_norm):
            self._left_out = 0
            return
        self._left_out += 1
        warn(engine, f"The step of iteration {engine.state.iteration} was left out: its gradient is not finite.")
        if self._left_out > self.max_left_out:
            raise FloatingPointError(
                f"{self._left_out} steps in a row had gradients that are not finite, expected a training that goes on; "
                f"lower the learning rate ({self.advice}) or set --precision float32"
            )
        for parameter in parameters:
            parameter.grad = None
