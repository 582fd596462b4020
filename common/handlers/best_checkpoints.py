"""Keep the weights of the best validations, by several criteria, and those of every few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers.engine_state import add_note, scalar
from common.networks.weights import ChosenWeights, read_state, write_state

__all__ = ["BestCheckpoints"]


class BestCheckpoints:
    """Write plain state dicts `NAME.pt` whenever a criterion improves, and `epoch_NNN.pt` every few epochs.

    When training completes, the weights of `final` go back into the network, so that what is saved and predicted after
    it is the best validation's. Attach it before handlers that do so. It has a state for an exact resume.

    Args:
        save_dir: folder, created.
        network: whose weights.
        validator: evaluator with the metrics in `state.metrics`.
        criteria: name of the file -> name of the metric.
        mode: "max" or "min", which values are better; for all criteria, or name of the file -> mode.
        final: one of the names, None keeps the last weights.
        every: epochs between two `epoch_NNN.pt`.
        n_saved: of those that are kept.
        first_epoch: epochs of the training before this stage of it.

    Raises:
        ValueError: if `final` is no criterion, a mode is unknown or missing, or a number is out of range.
    """

    def __init__(
        self, save_dir: str, network: nn.Module | ChosenWeights, validator: Engine, criteria: Mapping[str, str],
        final: str | None = "best_mean", every: int = 5, n_saved: int = 3, mode: str | Mapping[str, str] = "max",
        first_epoch: int = 0,
    ) -> None:  # fmt: skip
        modes = dict.fromkeys(criteria, mode) if isinstance(mode, str) else dict(mode)
        if modes.keys() != criteria.keys() or not set(modes.values()) <= {"max", "min"}:
            raise ValueError(f"mode is {mode!r}, expected max or min, or one of them for each of {', '.join(criteria)}")
        if final is not None and final not in criteria:
            raise ValueError(f"final is {final!r}, expected one of {', '.join(criteria)}")
        if every < 1 or n_saved < 1:
            raise ValueError(f"every is {every} and n_saved {n_saved}, expected at least 1")
        self.folder, self.network, self.validator = Path(save_dir), network, validator
        self.criteria, self.final, self.every, self.n_saved = dict(criteria), final, every, n_saved
        self.signs = {name: 1 if wanted == "max" else -1 for name, wanted in modes.items()}
        self.first_epoch = first_epoch
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
            if value is not None and (name not in self.best or self._is_better(name, value)):
                self.best[name] = {"value": value, "epoch": self.first_epoch + self._trainer.state.epoch}
                self._save(f"{name}.pt")

    def _is_better(self, name: str, value: float) -> bool:
        return self.signs[name] * value > self.signs[name] * self.best[name]["value"]

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
            network.load_state_dict(read_state(self.folder / f"{self.final}.pt"))
        if idist.get_world_size() > 1:  # on another machine, which may not see the folder
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        best, metric = self.best[self.final], self.criteria[self.final]
        add_note(engine, f"the weights are those of epoch {best['epoch']:.0f}, {metric} {best['value']:.4f}.")

    def _save(self, name: str) -> None:
        if idist.get_rank() == 0:
            network = getattr(self.network, "module", self.network)
            write_state(self.folder / name, {key: t.detach().cpu() for key, t in network.state_dict().items()})
