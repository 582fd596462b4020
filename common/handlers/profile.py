"""Where the time of a training goes: data, forward per part, loss, backward, optimizer, everything else."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from common.io.output_folder import write_text
from common.visualize.tables import format_table, json_text

__all__ = ["ProfileHandler"]

logger = logging.getLogger("train")


class ProfileHandler:
    """Measure the shares of a MONAI trainer's time and write `OUTPUT_DIR/STAGE/profile.json`.

    The phases of an iteration follow each other: "data" waits for the batch, "prepare" makes the network's input,
    "forward", "loss", "backward", "optimizer" and "handlers" (validation, checkpoints, logs). "forward NAME" is the
    time inside a part during the step. A GPU is synchronised at every border, which slows it a little.

    Args:
        parts: name to network; one that several processes share may be wrapped.
        output_dir: folder of the run.
        stage: of the recipe.
        warm_up: iterations that are not counted.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        output_dir: str,
        stage: str,
        warm_up: int = 3,
    ) -> None:
        self.parts, self.stage, self.warm_up = dict(parts), stage, warm_up
        self.file = Path(output_dir) / stage / "profile.json"
        self.seconds: dict[str, float] = defaultdict(float)
        self.iterations = 0
        self._last: float | None = None
        self._entered: dict[str, float] = {}
        self._first = 0
        self._phase = ""

    def attach(self, engine: Engine) -> None:
        """Register the events; only the first process measures."""
        if idist.get_rank() > 0:
            return
        for name, part in self.parts.items():
            part.register_forward_pre_hook(lambda *_, name=name: self._enter(engine, name))
            part.register_forward_hook(lambda *_, name=name: self._leave(engine, name))
        engine.add_event_handler(Events.STARTED, self._started)
        borders = {
            Events.GET_BATCH_STARTED: "handlers",
            Events.GET_BATCH_COMPLETED: "data",
            IterationEvents.FORWARD_COMPLETED: "forward",
            IterationEvents.LOSS_COMPLETED: "loss",
            IterationEvents.BACKWARD_COMPLETED: "backward",
            IterationEvents.MODEL_COMPLETED: "optimizer",
        }
        for event, phase in borders.items():
            engine.add_event_handler(event, self._border, phase)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def shares(self) -> dict[str, float]:
        """Share of the measured time per phase, 0 to 1; the parts' forward passes besides."""
        total = sum(value for name, value in self.seconds.items() if not name.startswith("forward "))
        return {name: value / total for name, value in self.seconds.items()} if total else {}

    def _now(self, engine: Engine) -> float:
        device = engine.state.device
        if device is not None and torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def _counts(self, engine: Engine, phase: str = "") -> bool:
        # Ignite counts an iteration when it has its batch.
        return engine.state.iteration + (phase == "data") - self._first > self.warm_up

    def _started(self, engine: Engine) -> None:
        self._first, self._last = engine.state.iteration, None

    def _border(self, engine: Engine, phase: str) -> None:
        now = self._now(engine)
        if self._last is not None and self._counts(engine, phase):
            self.seconds[phase] += now - self._last
            self.iterations += phase == "optimizer"
        self._last, self._phase = now, phase

    def _in_step(self, engine: Engine) -> bool:
        """Whether this is a step that counts, not a validation."""
        return self._phase in ("data", "prepare") and self._counts(engine)

    def _enter(self, engine: Engine, name: str) -> None:
        if self._in_step(engine):
            if self._phase == "data":  # the first network of the iteration begins, so the batch is prepared
                self._border(engine, "prepare")
            self._entered[name] = self._now(engine)

    def _leave(self, engine: Engine, name: str) -> None:
        if self._in_step(engine) and name in self._entered:
            self.seconds[f"forward {name}"] += self._now(engine) - self._entered.pop(name)

    def _completed(self, engine: Engine) -> None:
        self._border(engine, "handlers")
        facts = {"stage": self.stage, "iterations": self.iterations, "seconds": dict(self.seconds)}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json_text(facts | {"shares": self.shares()}, indent=1))
        rows = [
            {"phase": name, "share": f"{100 * share:.1f} %", "s/it": self.seconds[name] / max(1, self.iterations)}
            for name, share in sorted(self.shares().items(), key=lambda item: -item[1])
        ]
        logger.info(f"{self.stage}: where the time went\n" + format_table(rows, ["phase", "share", "s/it"]))
