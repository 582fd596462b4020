"""Muon for the convolutions inside a network, AdamW for everything else, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ConvMuon", "hidden_weights", "orthogonalize"]

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices near one (0.7 to 1.2) by a quintic Newton-Schulz iteration.

    As PyTorch's `torch.optim.Muon` does for one matrix (Jordan et al., https://kellerjordan.github.io/posts/muon),
    for many at once.

    Args:
        matrices: (N, rows, columns).
        steps: of the iteration.

    Returns:
        (N, rows, columns) bfloat16.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def hidden_weights(network: nn.Module, outer: Sequence[str] = ("stem", "head")) -> list[dict[str, Any]]:
    """Parameter groups for `ConvMuon`: the weights of hidden layers, and the rest (biases, first and last layers).

    Args:
        network: its trainable parameters are taken.
        outer: modules whose name holds one of these words see the input or make the output.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    hidden = {name for name, p in trained if p.ndim >= 2 and not any(word in name for word in outer)}
    return [
        {"params": [p for name, p in trained if name in hidden], "orthogonal": True, "name": "hidden"},
        {"params": [p for name, p in trained if name not in hidden], "orthogonal": False, "name": "rest"},
    ]


class ConvMuon(torch.optim.AdamW):
    """AdamW that orthogonalises the momentum of the groups marked ``orthogonal``.

    PyTorch's `Muon` takes matrices only; here a convolution (out, in, ...) counts as the matrix (out, in * ...), and
    layers of the same size are orthogonalised together. The step is scaled by 0.2 sqrt(max(rows, columns)), so that
    AdamW's learning rates fit (Liu et al., arXiv:2502.16982).

    Args:
        params: groups, see `hidden_weights`.
        lr: learning rate of all groups.
        momentum: of the orthogonal groups, with Nesterov's correction.
        **adamw: further arguments of `torch.optim.AdamW`; weight decay holds for all groups.
    """

    def __init__(self, params: Sequence[dict[str, Any]], lr: float, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__(params, lr=lr, **adamw)
        for group in self.param_groups:
            group.setdefault("orthogonal", False)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        put_aside = []
        for group in self.param_groups:
            if group["orthogonal"]:
                stepped = [p for p in group["params"] if p.grad is not None]
                self._step_orthogonal(stepped, group["lr"], group["weight_decay"])
                put_aside += [(p, p.grad) for p in stepped]
        for p, _ in put_aside:
            p.grad = None  # AdamW leaves these alone
        super().step()
        for p, grad in put_aside:
            p.grad = grad
        return loss

    def _step_orthogonal(self, params: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        by_size: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for p in params:
            state = self.state[p]
            if not state:
                state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(p)}  # AdamW wants a "step" on loading
            momentum = state["momentum"]
            momentum.lerp_(p.grad, 1 - self.momentum)
            update = p.grad.lerp(momentum, self.momentum).flatten(1)
            by_size.setdefault(tuple(update.shape), []).append((p, update))
        for size, same in by_size.items():
            steps = orthogonalize(torch.stack([update for _, update in same]))
            for (p, _), step in zip(same, steps, strict=True):
                p.mul_(1 - lr * weight_decay)
                p.add_(step.float().reshape(p.shape), alpha=-lr * 0.2 * math.sqrt(max(size)))
