"""What the optional `vae` stage hands to MONAI's engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

__all__ = ["PrepareVAEBatch"]


class PrepareVAEBatch(PrepareBatch):
    """The image, (B, 1, D, H, W) in [0, 1], is its own target."""

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Give `(image, image)` on the device; further arguments as those of `Tensor.to`."""
        image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        return image, image
