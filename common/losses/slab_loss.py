"""Squared error of refined thin slices inside the HU window that decides PSNR."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["SlabLoss"]


class SlabLoss(nn.Module):
    """Squared error after clipping to +-1000 HU, weighted by what is left to gain.

    The error of a patch is divided by the root mean square error of its base plus ``floor``: patches full of edges
    would otherwise outweigh hundreds of smooth ones, and equal weights would spend the network on noise.

    Args:
        floor: HU/1000.
        limit: HU/1000 where values are clipped.
    """

    def __init__(self, floor: float = 0.02, limit: float = 1.0) -> None:
        super().__init__()
        self.floor, self.limit = floor, limit

    def forward(self, residual: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            residual: (B, n, H, W), HU/1000, the network's output.
            target: (B, 2, n, H, W), HU/1000: the base to which the residual is added, and the truth.

        Returns:
            Scalar.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if target.shape != (residual.shape[0], 2, *residual.shape[1:]):
            raise ValueError(
                f"the target has shape {tuple(target.shape)} for a residual of {tuple(residual.shape)}, expected base "
                "and truth stacked along axis 1"
            )
        base, truth = target.unbind(1)
        truth = truth.clamp(-self.limit, self.limit)
        error, of_base = (
            (thin.clamp(-self.limit, self.limit) - truth).square().flatten(1).mean(1)
            for thin in (base + residual, base)
        )
        return (error / (of_base.sqrt() + self.floor)).mean()
