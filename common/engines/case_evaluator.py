"""MONAI's evaluator for a list of cases: one that fails is left out with the reason, and the next ones go on."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedEvaluator

from common.data.datasets.case_loader import reason_of

__all__ = ["CaseEvaluator"]


class CaseEvaluator(SupervisedEvaluator):
    """A `SupervisedEvaluator` over a `CaseLoader`, whose `excluded` then lists what fails after it was read, too.

    Whatever the inferer, the network or a transform raises is the case's, and its output is empty. Only a batch of
    several cases does not say whose it is, and raises.
    """

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        loader = engine.state.dataloader
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            if len(getattr(loader, "paths", ())) != 1:
                raise
            loader.exclude(loader.paths[0], reason_of(error))
            return {}
