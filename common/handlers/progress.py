"""Show how far a stage is: a bar in a terminal, a line every few seconds in a log; and end it when time is up."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tqdm import tqdm

from common.handlers.engine_state import (
    best_metric,
    is_step_iteration,
    iteration_losses,
    on_exception,
    scalar,
    total_iterations,
    warn,
)
from common.handlers.training_clock import TrainingClock

logger = logging.getLogger("train")

_SMOOTH = 50  # iterations in the mean of the shown loss


class ProgressHandler:
    """Progress over all iterations of a stage, with rate, time left, loss, epoch and best metric.

    In a terminal it is a tqdm bar. Elsewhere it is a line in the log at the start, at most every `log_seconds` and at
    the end, so that CI logs stay readable. Validation results are a line of their own in both. The rate counts all time
    since the start, validation and checkpoints included, so that the time left is that of the wall clock. The loss is
    the mean over the last 50 iterations.

    Args:
        name: what is shown, the stage or "validation".
        validator: evaluator whose key metric and results are shown.
        log_seconds: least time between two lines of the log.
        bar: whether to draw a bar; None finds out whether stderr is a terminal.
        leave: keep the bar, and log the start and the end; False for an evaluator that runs many times.
    """

    def __init__(
        self,
        name: str,
        validator: Engine | None = None,
        log_seconds: float = 10.0,
        bar: bool | None = None,
        leave: bool = True,
    ) -> None:
        self.name = name
        self.validator = validator
        self.log_seconds = log_seconds
        self.bar = bar
        self.leave = leave
        self._tqdm: tqdm | None = None
        self._losses: deque[float] = deque(maxlen=_SMOOTH)
        self._start: float | None = None
        self._first = 0
        self._logged = 0.0

    def attach(self, engine: Engine) -> None:
        """Register the events; on a rank other than 0 nothing is shown."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        on_exception(engine, lambda _engine, _error: self._close())
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, lambda validator: self._validated(engine, validator))

    def line(self, engine: Engine) -> str:
        """The state of the run in one line, as the log has it."""
        iteration, total = engine.state.iteration, total_iterations(engine)
        done, elapsed = iteration - self._first, time.perf_counter() - (self._start or 0.0)
        of = f"{iteration}" if total is None else f"{iteration}/{total} ({100 * iteration // max(total, 1)} %)"
        parts = [f"{self.name} {of}{_epoch(engine)}"]
        if done and elapsed > 0:
            parts.append(f"{done / elapsed:.2f} it/s" if done >= elapsed else f"{elapsed / done:.1f} s/it")
            if total is not None:
                parts.append(f"{tqdm.format_interval((total - iteration) * elapsed / done)} left")
        return ", ".join(parts + [f"{key} {value}" for key, value in self._values(engine).items()])

    def _values(self, engine: Engine) -> dict[str, str]:
        """Loss and best metric as text."""
        values = {"loss": f"{sum(self._losses) / len(self._losses):.4f}"} if self._losses else {}
        best = best_metric(self.validator or engine)
        if best is not None:
            values[f"best {best[0]}"] = f"{best[1]:.4f} (epoch {best[2]})"
        return values

    def _started(self, engine: Engine) -> None:
        self._close()
        self._start = None
        self._losses.clear()

    def _iteration_started(self, engine: Engine) -> None:
        if self._start is not None:
            return
        # Here rather than at the start of the run, because a checkpoint loader may move the iteration in between.
        self._start = self._logged = time.perf_counter()
        self._first = engine.state.iteration - 1
        total = total_iterations(engine)
        if self.leave:
            length = "iterations of unknown number" if total is None else _count(total, "iteration")
            resumed = f", resumed after {self._first}" if self._first else ""
            epochs = "" if isinstance(engine, Evaluator) else f" in {_count(engine.state.max_epochs, 'epoch')}"
            self._log(f"{self.name}: {length}{epochs}{resumed}")
        if _in_terminal() if self.bar is None else self.bar:
            self._tqdm = tqdm(
                total=total,
                initial=self._first,
                desc=self.name,
                unit="it",
                smoothing=0,
                leave=self.leave,
                dynamic_ncols=True,
            )

    def _iteration_completed(self, engine: Engine) -> None:
        loss = iteration_losses(engine).get("loss")
        if loss is not None:
            self._losses.append(loss)
        if self._tqdm is not None:
            self._tqdm.total = total_iterations(engine)
            self._tqdm.set_description(self.name + _epoch(engine), False)
            self._tqdm.set_postfix(self._values(engine), False)
            self._tqdm.update(engine.state.iteration - self._tqdm.n)
        elif time.perf_counter() - self._logged >= self.log_seconds:
            self._log(self.line(engine))

    def _validated(self, engine: Engine, validator: Engine) -> None:
        results = {name: scalar(value) for name, value in validator.state.metrics.items()}
        text = ", ".join(f"{name} {value:.4f}" for name, value in results.items() if value is not None)
        self._log(f"{self.name} step {engine.state.iteration}: validation {text or 'without a scalar metric'}")

    def _completed(self, engine: Engine) -> None:
        if self._start is None:
            return  # the run had nothing left to do
        if self._tqdm is not None:
            self._tqdm.set_postfix(self._values(engine), False)  # a validation may have come last
        self._close()
        if self.leave:
            spent = time.perf_counter() - self._start
            values = "".join(f", {key} {value}" for key, value in self._values(engine).items())
            done = engine.state.iteration - self._first
            self._log(f"{self.name}: {_count(done, 'iteration')} done in {tqdm.format_interval(spent)}{values}")

    def _close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None

    def _log(self, text: str) -> None:
        self._logged = time.perf_counter()
        if self._tqdm is None:
            logger.info(text)
        else:
            # Takes the bar off the screen while a line is printed.
            with tqdm.external_write_mode():
                logger.info(text)


def _epoch(engine: Engine) -> str:
    """Which epoch it is, empty for an evaluator."""
    return "" if isinstance(engine, Evaluator) else f", epoch {engine.state.epoch}/{engine.state.max_epochs}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _in_terminal() -> bool:
    """Whether stderr is a terminal with a width; without one (`docker run -t` in a job) a bar would be empty."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class TimeLimitHandler:
    """End training gracefully when a time limit is reached; what listens to the end of a run (checkpoints) still runs.

    The limit is looked at where the optimizer steps, so that no accumulated gradient is lost.

    Args:
        clock: of the training, with its limit.
        name: of the stage, in the sentence.
    """

    def __init__(self, clock: TrainingClock, name: str) -> None:
        self.clock, self.name = clock, name

    def attach(self, engine: Engine) -> None:
        """Register the events, if there is a limit."""
        if self.clock.max_minutes is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        # The ranks of a distributed run must end at the same iteration, so they all follow rank 0.
        late = bool(idist.broadcast(float(self.clock.spent >= 1), src=0)) if is_step_iteration(engine) else False
        total = total_iterations(engine)
        if not late or engine.state.iteration == total:
            return
        of = "" if total is None else f" of {total}"
        warn(
            engine,
            f"{self.name}: the limit of {self.clock.max_minutes:g} minutes is reached at iteration "
            f"{engine.state.iteration}{of}, so training ends here; --max_minutes "
            f"{2 * self.clock.max_minutes:g} allows twice as long.",
        )
        engine.terminate()
