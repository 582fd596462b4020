"""An exponential moving average of a network's weights, used for validation and saved beside the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.handlers.engine_state import is_step_iteration, on_exception
from common.networks.weights import ChosenWeights

__all__ = ["EMAHandler", "EMAWeights"]


class EMAHandler:
    """Average the weights after every step of the optimizer.

    The n-th update (from 0) is `average += (1 - d) (weights - average)` with `d = min(decay, (1 + n) / (10 + n))`: the
    average starts from the untrained weights and would otherwise remember them for `1 / (1 - decay)` steps. Buffers
    are copied. Several ranks hold equal weights, so each keeps its own average and nothing is exchanged.

    Put `state_dict()` into the checkpoint for an exact resume, and `weights` where a plain state dict is wanted.

    Args:
        network: the network that is trained, wrapped in `DistributedDataParallel` or not; `ChosenWeights` of it keep an
            average of these alone.
        decay: of the average, in [0, 1).
        evaluator: engine that validates; the network holds the average while it runs.

    Raises:
        ValueError: if the decay is out of range.
    """

    def __init__(
        self,
        network: nn.Module | ChosenWeights,
        decay: float = 0.9999,
        evaluator: Engine | None = None,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay is {decay}, expected at least 0 and below 1")
        self.network = getattr(network, "module", network)
        self.decay, self.evaluator = decay, evaluator
        self.updates = 0
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self._trained: dict[str, Tensor] | None = None

    @property
    def weights(self) -> EMAWeights:
        """The average as something that has a `state_dict` with the network's names."""
        return EMAWeights(self)

    def attach(self, engine: Engine) -> None:
        """Follow a MONAI trainer, and swap for its evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.STARTED, lambda _: self.swap_in())
            self.evaluator.add_event_handler(Events.COMPLETED, lambda _: self.swap_out())
            on_exception(self.evaluator, lambda *_: self.swap_out())

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the network's weights.

        Raises:
            RuntimeError: while the average is swapped in.
        """
        if self._trained is not None:
            raise RuntimeError("the EMA is swapped into the network, expected an update after swap_out only")
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        # Tied weights are one parameter of several names, all of which a state dict has.
        tied = {} if isinstance(self.network, ChosenWeights) else {"remove_duplicate": False}
        trained = dict(self.network.named_parameters(**tied))
        names = [name for name in trained if trained[name].is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in names], [trained[name] for name in names], 1 - decay)
        for name, tensor in self.network.state_dict().items():
            if name not in trained:
                self.average[name].copy_(tensor)
        self.updates += 1

    @torch.no_grad()
    def swap_in(self) -> None:
        """Put the average into the network and keep the trained weights aside; nothing if it is there already."""
        if self._trained is None:
            self._trained = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.network.load_state_dict(self.average)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Give the network its trained weights back, bit by bit; nothing if they are there already."""
        if self._trained is not None:
            self.network.load_state_dict(self._trained)
            self._trained = None

    def state_dict(self) -> dict[str, Any]:
        """Number of updates and the average, for a resume."""
        return {"updates": self.updates, "average": self.average}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: if it is of another network.
        """
        average = state["average"]
        if {n: t.shape for n, t in average.items()} != {n: t.shape for n, t in self.average.items()}:
            raise ValueError(
                f"the EMA state has {len(average)} tensors, expected the names and shapes of the network's "
                f"{len(self.average)}"
            )
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
        self.updates = int(state["updates"])

    def _iteration_completed(self, engine: Engine) -> None:
        if is_step_iteration(engine):
            self.update()


class EMAWeights:
    """The average of an `EMAHandler` under the network's names and with its definition, for a saver."""

    def __init__(self, handler: EMAHandler) -> None:
        self._handler = handler

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Names, with a prefix, to tensors."""
        return {f"{prefix}{name}": tensor for name, tensor in self._handler.average.items()}

    def definition(self) -> dict[str, Any]:
        """That of the network."""
        return self._handler.network.definition()
