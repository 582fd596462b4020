"""Reconstruction and Kullback-Leibler loss of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - the usual name
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

__all__ = ["VAELoss", "kl_divergence"]


def kl_divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    """Divergence of N(mu, sigma^2) from N(0, 1), summed over a sample, averaged over the batch (Kingma 2014, app. B).

    Args:
        mu: (B, C, d, h, w) mean.
        sigma: standard deviation, same shape, > 0.

    Returns:
        Scalar, in nats.
    """
    terms = mu.square() + sigma.square() - 2 * sigma.log() - 1
    return 0.5 * terms.flatten(1).sum(1).mean()


class VAELoss(nn.Module):
    """L1 between image and reconstruction plus the weighted KL divergence, as MAISI trains (without its other terms).

    As a handler of the trainer it adds the two parts to the engine's output, as "l1_loss" and "kl_loss".

    Args:
        kl_weight: of the divergence, which is a sum over the latent and so in the ten thousands.
    """

    def __init__(self, kl_weight: float = 1e-7) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            output: `(reconstruction, mu, sigma)`, as `MaisiVAE` returns it.
            target: the image, shape of the reconstruction.

        Returns:
            Scalar.

        Raises:
            ValueError: if the shapes differ.
        """
        reconstruction, mu, sigma = output
        if reconstruction.shape != target.shape:
            raise ValueError(
                f"the reconstruction has shape {tuple(reconstruction.shape)}, expected the image's "
                f"{tuple(target.shape)}"
            )
        l1, kl = F.l1_loss(reconstruction, target), kl_divergence(mu, sigma)
        self.parts = {"l1_loss": l1.detach(), "kl_loss": kl.detach()}
        return l1 + self.kl_weight * kl

    def attach(self, engine: Engine) -> None:
        """Report the parts of every iteration."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss_completed)

    def _loss_completed(self, engine: Engine) -> None:
        engine.state.output |= self.parts
