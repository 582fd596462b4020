"""From patches of thick and thin slices to what the refiner is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

from common.transforms.slabs import interpolate_slices, project_to_measurement

__all__ = ["PrepareRefinerBatch", "base_of_patch"]


def base_of_patch(thick: Tensor, ratio: int, n_slabs: int) -> Tensor:
    """Linear interpolation of the inner slabs of a patch, projected so that its slab means are the thick slices.

    Args:
        thick: (B, N + context - 1, H, W); the same number of neighbours on either side.
        ratio: thin slices per slab.
        n_slabs: N.

    Returns:
        (B, N * ratio, H, W), same units.
    """
    half = (thick.shape[1] - n_slabs) // 2
    inner = slice(half * ratio, (half + n_slabs) * ratio)
    linear = interpolate_slices(thick, thick.shape[1] * ratio)[:, inner]
    return project_to_measurement(linear, thick[:, half : half + n_slabs])


class PrepareRefinerBatch(PrepareBatch):
    """For MONAI's `SupervisedTrainer` and `SupervisedEvaluator` with `SliceRefiner` and `SlabLoss`.

    The batch is that of `SlabPatchDataset` in `common.data.datasets`, optionally with "sample", a decoded diffusion
    sample like the target in HU/1000.
    """

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], dict[str, Any]]:
        """Compute the base and stack it with the truth; further arguments are those of `Tensor.to`.

        Returns:
            thick slices, (base, truth) as (B, 2, N * ratio, H, W), the network's further arguments, none by keyword.

        Raises:
            ValueError: if the items of the batch have different ratios.
        """
        given = batchdata["ratio"]
        ratios = sorted(set(given.tolist() if isinstance(given, Tensor) else given))
        if len(ratios) != 1:
            raise ValueError(f"the batch holds ratios {ratios}, expected one ratio per batch")
        ratio = int(ratios[0])
        move = {"device": device, "non_blocking": non_blocking, **kwargs}
        thick, truth = batchdata["thick"].to(**move), batchdata["target"].to(**move)
        base = base_of_patch(thick, ratio, truth.shape[1] // ratio)
        extra = (batchdata["sample"].to(**move),) if "sample" in batchdata else ()
        return thick, torch.stack([base, truth], dim=1), (base, *extra), {}
