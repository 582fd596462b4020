"""Early stopping that a resumed training takes up where it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler

__all__ = ["StopWithoutGain"]


class StopWithoutGain(EarlyStopHandler):
    """Ends a training when a metric of its validations has not grown for some of them.

    MONAI's `EarlyStopHandler` with a state for `common.engines.resume.ResumeHandler`: MONAI keeps ignite's handler,
    which has the counter and the best score, to itself.

    Args:
        validator: evaluator with the metric in `state.metrics`; larger is better.
        metric: its name; a validation without it counts as no gain.
        patience: validations without gain.
    """

    def __init__(self, validator: Engine, metric: str, patience: int) -> None:
        super().__init__(patience, lambda engine: engine.state.metrics.get(metric, -math.inf))
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Watch the validator of a trainer."""
        self.set_trainer(engine)
        self.validator.add_event_handler(Events.COMPLETED, self)

    def state_dict(self) -> dict[str, Any]:
        """Validations without gain so far, and the best value; empty before it is attached."""
        return {} if self._handler is None else dict(self._handler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; it must be attached."""
        if state:
            self._handler.load_state_dict(state)
            if self._handler.counter >= self._handler.patience:  # saved in the moment in which training had to end
                self._handler.trainer.terminate()
