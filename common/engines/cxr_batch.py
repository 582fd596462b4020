"""From items of chest X-ray studies to what `MDFNet` and `FeatureMDFNet` take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

from common.data.modalities import MODALITIES

__all__ = ["PrepareFeatureBatch", "PrepareStudyBatch"]


class PrepareFeatureBatch(PrepareBatch):
    """Cached features of a batch: inputs {"vision": (B, d), ...}, targets (B, C), and which of them each case has.

    Args:
        features: those that the network takes.
    """

    def __init__(self, features: Sequence[str] = MODALITIES) -> None:
        self.features = tuple(features)

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[dict[str, Tensor], Tensor, tuple, dict[str, Tensor]]:  # fmt: skip
        """Move a batch to a device."""
        features = {name: batchdata[name].to(device, non_blocking=non_blocking) for name in self.features}
        present = batchdata["present"].to(device, non_blocking=non_blocking)
        return features, batchdata["label"].to(device, non_blocking=non_blocking), (), {"present": present}


class PrepareStudyBatch(PrepareBatch):
    """Images, notes and clinical vectors of a batch; what the configuration leaves out stays None."""

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor | None, Tensor | None, tuple, dict[str, Any]]:  # fmt: skip
        """Move a batch to a device."""

        def moved(x: Any) -> Any:
            if isinstance(x, Mapping):
                return {name: moved(part) for name, part in x.items()}
            return None if x is None else x.to(device, non_blocking=non_blocking)

        given = {name: moved(batchdata.get(name)) for name in ("note", "clinical", "present")}
        return moved(batchdata.get("image")), moved(batchdata.get("label")), (), given
