"""How long a training has run, over all its interruptions."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ignite.engine import Engine, Events

__all__ = ["TrainingClock"]


class TrainingClock:
    """Counts the seconds of a training and knows its limit; what a resumed run had spent before counts too.

    Attach it to the trainer, before what asks it.

    Args:
        max_minutes: wall-clock minutes, None for no limit.

    Raises:
        ValueError: if `max_minutes` is not positive.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"max_minutes is {max_minutes}, expected a positive number of minutes or None.")
        self.max_minutes = max_minutes
        self._before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Spent so far; 0 before the training starts."""
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    @property
    def spent(self) -> float:
        """The part of the limit that is spent, 0 without one; 1 and more means time is up."""
        return 0.0 if self.max_minutes is None else self.seconds / (60 * self.max_minutes)

    def attach(self, engine: Engine) -> None:
        """Start with the trainer."""
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self) -> None:
        """Begin to count."""
        self._start = time.monotonic()

    def state_dict(self) -> dict[str, float]:
        """Seconds spent, for a resume."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue after the seconds of `state_dict()`."""
        self._before = float(state["seconds"])
        if self._start is not None:
            self.start()
