"""Say what is wrong with a training while it runs: one sentence each, with the override that helps."""

from __future__ import annotations

import time
from collections.abc import Mapping

import ignite.distributed as idist
from ignite.engine import Engine, Events

from common.handlers.engine_state import iteration_losses, scalar, total_iterations, warn

__all__ = ["ADVICE", "DiagnosisHandler"]

ADVICE = {"loader": "--num_workers 4", "plateau": "--learning_rate", "gap": "--weight_decay"}
"""The override that each sentence names, unless the configuration knows a better one."""

_WINDOWS = 5
_NOTICEABLE = 0.002  # seconds per batch; workers would cost as much


class DiagnosisHandler:
    """Look at the losses and at the time spent waiting for data.

    * slow loader: more than `loader_share` of the time of `window` iterations was spent waiting for the batch;
    * plateau: over `_WINDOWS` windows the mean loss fell by less than `plateau` of itself, with the learning rate
      still above half of its maximum (a schedule that has cooled down is meant to end flat);
    * gap: the validation loss rose over three validations in a row while the training loss fell.

    Out of memory is `OOMAdviceHandler`'s matter, NaN and gradient norm `GradientClipHandler`'s.

    Args:
        name: of the stage, in the sentence.
        validator: whose metric "loss" is compared, if it has one.
        window: iterations.
        loader_share: 0 to 1.
        plateau: 0 to 1.
        advice: changes `ADVICE`.
    """

    def __init__(
        self,
        name: str,
        validator: Engine | None = None,
        window: int = 200,
        loader_share: float = 0.3,
        plateau: float = 0.005,
        advice: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.validator, self.window = name, validator, window
        self.loader_share, self.plateau = loader_share, plateau
        self.advice = ADVICE | dict(advice or {})
        self.means: list[float] = []
        self._losses: list[float] = []
        self._validations: list[tuple[float, float]] = []
        self._waited, self._asked, self._begin, self._rate = 0.0, 0.0, None, 0.0
        self._said: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Register the events; only the first process speaks."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._got)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, lambda validator: self._validated(engine, validator))

    def _ask(self, engine: Engine) -> None:
        self._asked = time.perf_counter()
        self._begin = self._begin or self._asked

    def _got(self, engine: Engine) -> None:
        self._waited += time.perf_counter() - self._asked

    def _iteration_completed(self, engine: Engine) -> None:
        loss = iteration_losses(engine).get("loss")
        if loss is not None:
            self._losses.append(loss)
        if engine.state.iteration % self.window or self._begin is None:
            return
        share, waited = self._waited / max(time.perf_counter() - self._begin, 1e-9), self._waited / self.window
        self._waited, self._begin = 0.0, None
        if share > self.loader_share and waited > _NOTICEABLE:
            self._say(
                engine, "loader", f"{100 * share:.0f} % of the time goes into waiting for data", "loads it sooner"
            )
        if self._losses:
            self.means.append(sum(self._losses) / len(self._losses))
            self._losses = []
            self._look_for_plateau(engine)

    def _look_for_plateau(self, engine: Engine) -> None:
        rate = float(engine.optimizer.param_groups[0]["lr"]) if hasattr(engine, "optimizer") else 0.0
        self._rate = max(self._rate, rate)
        if len(self.means) < _WINDOWS or rate < self._rate / 2:
            return
        first, *_, last = self.means[-_WINDOWS:]
        if first - min(self.means[-_WINDOWS + 1 :]) < self.plateau * abs(first):
            since = f"the loss has not fallen for {_WINDOWS * self.window} iterations ({first:.4g}, now {last:.4g})"
            self._say(engine, "plateau", since, "is what to change, down if it jumps, up if it creeps")

    def _validated(self, engine: Engine, validator: Engine) -> None:
        value = scalar(validator.state.metrics.get("loss"))
        if value is None or not self.means or engine.state.iteration == total_iterations(engine):
            return
        self._validations.append((value, self.means[-1]))
        last = self._validations[-4:]
        pairs = list(zip(last, last[1:], strict=False))
        if len(pairs) == 3 and all(b[0] > a[0] for a, b in pairs) and last[-1][1] < last[0][1]:
            risen = f"the validation loss rose from {last[0][0]:.4g} to {last[-1][0]:.4g} while the training loss fell"
            self._say(engine, "gap", risen, "or more cases help; the best checkpoint is kept")

    def _say(self, engine: Engine, kind: str, what: str, effect: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warn(engine, f"{self.name}: {what} at iteration {engine.state.iteration}; {self.advice[kind]} {effect}.")
