"""From batches of questions about images to what a model that answers them takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

__all__ = ["PrepareAnswerBatch"]


class PrepareAnswerBatch(PrepareBatch):
    """The image or its tokens, the targets of `common.losses.answer_loss.AnswerLoss`, and the texts.

    Of `common.llm.answer_batch.AnswerCollate`. Without answers there is no target, and of the texts only the questions.
    """

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Tensor] | None, tuple, dict[str, Tensor]]:  # fmt: skip
        """Move a batch to a device."""

        def moved(*names: str) -> dict[str, Tensor]:
            return {n: batchdata[n].to(device, non_blocking=non_blocking) for n in names if n in batchdata}

        inputs, texts = moved("tokens") or moved("image"), moved("ids", "mask", "places", "prompt", "prompt_mask")
        target = None
        if "said" in batchdata:
            target = moved("said", "weight") | {"case": texts["places"] // (texts["ids"].shape[1] - 1)}
            target.setdefault("weight", torch.ones(len(texts["ids"]), device=target["said"].device))
        return next(iter(inputs.values()), None), target, (), texts
