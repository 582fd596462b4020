"""Parameters of a network by the learning rates of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

__all__ = ["parameter_groups"]


class Grouped(Protocol):
    """A network that says which of its parameters belong together."""

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Name of a group -> its parameters."""


def parameter_groups(network: Grouped, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with its name and learning rate; frozen parameters and empty groups are left out.

    Args:
        network: has `groups()`.
        rates: learning rate of each of its groups that trains.

    Raises:
        ValueError: if a group that trains has no rate, or a rate no group of that name.
    """
    groups = network.groups()
    unknown = sorted(set(rates) - set(groups))
    training = {name: [p for p in ps if p.requires_grad] for name, ps in groups.items()}
    missing = sorted(name for name, ps in training.items() if ps and name not in rates)
    if unknown or missing:
        raise ValueError(
            f"learning rates are given for {', '.join(rates) or 'nothing'}, expected one for each of "
            f"{', '.join(name for name, ps in training.items() if ps)}"
        )
    return [{"name": name, "params": ps, "lr": rates[name]} for name, ps in training.items() if ps]
