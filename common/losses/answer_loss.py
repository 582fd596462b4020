"""The loss of answers: next tokens, weighed by their case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

__all__ = ["AnswerLoss", "rare_label_weights"]


class AnswerLoss(nn.Module):
    """Cross-entropy of the next token, summed over a batch and divided by its cases and the training set's mean length.

    As `common.losses.report_loss.TokenLoss` a mean over cases, which accumulation and several processes leave as it is.
    As a handler of the trainer it adds the plain mean over tokens to the engine's output, as "token_mean_loss".

    Args:
        mean_length: tokens of an answer, mean over the training set.
    """

    def __init__(self, mean_length: float) -> None:
        super().__init__()
        if mean_length <= 0:
            raise ValueError(f"mean_length is {mean_length}, expected a positive number")
        self.mean_length = mean_length
        self.token_mean = torch.tensor(0.0)

    def forward(self, logits: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """A scalar, fp32.

        Args:
            logits: (N, vocabulary) for all tokens of all answers.
            target: "said" (N,), the tokens; "case" (N,), whose they are; "weight" (B,) of the cases.
        """
        each = F.cross_entropy(logits.float(), target["said"], reduction="none")
        self.token_mean = each.detach().mean()
        weight = target["weight"].float()
        return (each * weight.index_select(0, target["case"])).sum() / (len(weight) * self.mean_length)

    def attach(self, engine: Engine) -> None:
        """Report the mean over tokens of every iteration."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss_completed)

    def _loss_completed(self, engine: Engine) -> None:
        engine.state.output |= {"token_mean_loss": self.token_mean}


def rare_label_weights(labels: Sequence[Mapping[str, Any]], most: float = 3.0) -> list[float]:
    """A weight per case, higher where it has a label that few have; their mean is 1.

    That of a case is the square root of (share of the commonest label / share of its rarest label), at most `most`,
    before all are divided by their mean; a case without a label counts as one of the commonest.

    Args:
        labels: of each case, name -> value; 1.0 is present.
        most: of a weight before the division.
    """
    present = [[name for name, value in row.items() if value == 1.0] for row in labels]
    counts: dict[str, int] = {}
    for names in present:
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    top = max(counts.values(), default=1)
    raw = [min(most, max([(top / counts[name]) ** 0.5 for name in names], default=1.0)) for names in present]
    mean = sum(raw) / len(raw)
    return [weight / mean for weight in raw]
