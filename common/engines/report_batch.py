"""From batches of cases with reports to what a report model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

__all__ = ["PrepareReportBatch"]


class PrepareReportBatch(PrepareBatch):
    """The model's input, the targets of `common.losses.report_loss.ReportLoss`, and the tokens that are given to it.

    Args:
        inputs: what the model reads: "image" or "tokens" of it, whichever the batch has, or "label", the findings.
        twice: give every case twice, for a loss that compares two passes.
    """

    def __init__(self, inputs: str = "image", twice: bool = False) -> None:
        if inputs not in ("image", "label"):
            raise ValueError(f"inputs is {inputs!r}, expected image or label")
        self.inputs, self.twice = inputs, twice

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor] | None, tuple, dict[str, Tensor]]:  # fmt: skip
        """Move a batch to a device; without reports there are no targets."""
        given: dict[str, Tensor] = {}

        def moved(name: str) -> Tensor:
            tensor = batchdata[name].to(device, non_blocking=non_blocking)
            return torch.cat([tensor, tensor]) if self.twice else tensor

        read = "tokens" if self.inputs == "image" and "tokens" in batchdata else self.inputs
        inputs = moved(read)
        inputs = inputs.nan_to_num(0.5) if read == "label" else inputs  # a finding that is not known
        if batchdata.get("context") is not None:
            given["context"] = moved("context")
        if "labels" not in batchdata:
            return inputs, None, (), given
        target = {"labels": moved("labels"), "findings": moved("label")}
        target |= {"regions": moved("regions").bool()} if "regions" in batchdata else {}
        return inputs, target, (), given | {"labels": target["labels"]}
