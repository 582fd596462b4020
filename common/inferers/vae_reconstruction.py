"""Reconstruct images with a VAE, without noise, for validation."""

from __future__ import annotations

from typing import Any

from monai.inferers import Inferer
from torch import Tensor, nn

__all__ = ["VAEReconstructionInferer"]


class VAEReconstructionInferer(Inferer):
    """Encode to the mean of the latent and decode it; the result is what the diffusion model can reach at best."""

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Reconstruct.

        Args:
            inputs: (B, 1, D, H, W) in [0, 1], sizes that are multiples of 4.
            network: a `MaisiVAE`.
            *args: none.
            **kwargs: none.

        Returns:
            Like `inputs`.
        """
        network = getattr(network, "module", network)
        z_mu, _ = network.encode(inputs)
        return network.decode(z_mu)
