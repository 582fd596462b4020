"""Keep the weights of the best validations, by several criteria, and those of every few epochs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers.engine_state import add_note, scalar

__all__ = ["BestCheckpoints"]


class BestCheckpoints:
    """Write plain state dicts `NAME.pt` whenever a criterion improves, and `epoch_NNN.pt` every few epochs.

    When training completes, the weights of `final` go back into the network, so that what is saved and predicted after
    it is the best validation's. Attach it before handlers that do so. It has a state for an exact resume.

    Args:
        save_dir: folder, created.
        network: whose weights.
        validator: evaluator with the metrics in `state.metrics`; larger is better.
        criteria: name of the file -> name of the metric.
        final: one of the names, None keeps the last weights.
        every: epochs between two `epoch_NNN.pt`.
        n_saved: of those that are kept.

    Raises:
        ValueError: if `final` is no criterion or a number is out of range.
    """

    def __init__(
        self, save_dir: str, network: nn.Module, validator: Engine, criteria: Mapping[str, str],
        final: str | None = "best_mean", every: int = 5, n_saved: int = 3,
    ) -> None:  # fmt: skip
        if final is not None and final not in criteria:
            raise ValueError(f"final is {final!r}, expected one of {', '.join(criteria)}")
        if every < 1 or n_saved < 1:
            raise ValueError(f"every is {every} and n_saved {n_saved}, expected at least 1")
        self.folder, self.network, self.validator = Path(save_dir), network, validator
        self.criteria, self.final, self.every, self.n_saved = dict(criteria), final, every, n_saved
        self.best: dict[str, dict[str, float]] = {}
        self._ended = False

    def attach(self, engine: Engine) -> None:
        """Follow a trainer and its evaluator."""
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self._started)
        self.validator.add_event_handler(Events.COMPLETED, self._validated)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def state_dict(self) -> dict[str, Any]:
        """Best values and their epochs so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.best = {name: dict(entry) for name, entry in state["best"].items()}

    def _started(self, engine: Engine) -> None:
        # A further round of federated learning begins with other weights; what an earlier one reached does not count.
        if self._ended:
            self.best, self._ended = {}, False

    def _validated(self, validator: Engine) -> None:
        for name, metric in self.criteria.items():
            value = scalar(validator.state.metrics.get(metric))
            if value is not None and (name not in self.best or value > self.best[name]["value"]):
                self.best[name] = {"value": value, "epoch": self._trainer.state.epoch}
                self._save(f"{name}.pt")

    def _epoch_completed(self, engine: Engine) -> None:
        if engine.state.epoch % self.every == 0:
            self._save(f"epoch_{engine.state.epoch:03d}.pt")
            if idist.get_rank() == 0:
                kept = range(engine.state.epoch, 0, -self.every)[: self.n_saved]
                for path in self.folder.glob("epoch_*.pt"):  # an earlier training may have left later epochs
                    if int(path.stem.removeprefix("epoch_")) not in kept:
                        path.unlink()

    def _completed(self, engine: Engine) -> None:
        self._ended = True
        if self.final not in self.best:
            return
        network = getattr(self.network, "module", self.network)
        if idist.get_rank() == 0:
            state = torch.load(self.folder / f"{self.final}.pt", map_location="cpu", weights_only=True)
            network.load_state_dict(state)
        if idist.get_world_size() > 1:  # on another machine, which may not see the folder
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        best, metric = self.best[self.final], self.criteria[self.final]
        add_note(engine, f"the weights are those of epoch {best['epoch']:.0f}, {metric} {best['value']:.4f}.")

    def _save(self, name: str) -> None:
        if idist.get_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{name}.{os.getpid()}.tmp"
            network = getattr(self.network, "module", self.network)
            torch.save({key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}, partial)
            os.replace(partial, self.folder / name)
