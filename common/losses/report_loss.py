"""Losses of a report model: next tokens, the regions that count, where their queries read, and agreement of passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

__all__ = ["ReportLoss", "TokenLoss", "agreement_loss", "prior_loss", "routing_loss"]

_IGNORED = -100


class TokenLoss(nn.Module):
    """Cross-entropy of the next token, summed over a batch and divided by its cases and the training set's mean length.

    A mean over the tokens of a batch would weigh a token by what it stands beside: accumulation over several batches,
    or several processes, would then train another loss than the large batch does. This one is a mean over cases.

    Args:
        mean_length: tokens of a target, mean over the training set.
        label_smoothing: share of the target that goes to all tokens alike.
        gamma: of the focal factor (1 - p)^gamma (Lin et al., 2017); 0 leaves it out.

    Attributes:
        token_mean: of the last call, detached: the plain mean cross-entropy over tokens, for a log.
    """

    def __init__(self, mean_length: float, label_smoothing: float = 0.1, gamma: float = 0.0) -> None:
        super().__init__()
        if mean_length <= 0 or gamma < 0 or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"mean_length, label_smoothing and gamma are {mean_length}, {label_smoothing} and {gamma}, expected a "
                "positive number, one of 0 to below 1, and one of at least 0"
            )
        self.mean_length, self.label_smoothing, self.gamma = mean_length, label_smoothing, gamma
        self.token_mean = torch.tensor(0.0)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar, fp32.

        Args:
            logits: (B, T, vocabulary).
            labels: (B, T), -100 where padded.
        """
        log_p = logits.float().log_softmax(-1)
        known = labels != _IGNORED
        nll = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        smooth = (1 - self.label_smoothing) * nll - self.label_smoothing * log_p.mean(-1)
        self.token_mean = (nll.detach() * known).sum() / known.sum().clamp(min=1)
        focal = (1 - (-nll).exp()) ** self.gamma if self.gamma else 1.0
        return (focal * smooth * known).sum() / (len(labels) * self.mean_length)


class ReportLoss(nn.Module):
    """The losses of a report model, added up by their weights.

    As a handler of the trainer it adds them to the engine's output before weighting, as "token_mean_loss" (the plain
    mean over tokens), "finding_loss", "routing_loss", "prior_loss" and "agreement_loss".

    Args:
        tokens: of the next tokens, weight 1.
        findings: of the head's logits and labels, such as `common.losses.bce_focal.MaskedBCEFocalLoss`.
        global_queries: the first queries, which have no region.
        finding_weight: of that.
        routing_weight: of `routing_loss`.
        prior_weight: of `prior_loss`.
        agreement_weight: of `agreement_loss`; with it the batch holds every case twice, first all, then all again.
    """

    def __init__(
        self,
        tokens: TokenLoss,
        findings: nn.Module,
        global_queries: int = 8,
        finding_weight: float = 1.0,
        routing_weight: float = 0.1,
        prior_weight: float = 0.01,
        agreement_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens, self.findings, self.global_queries = tokens, findings, global_queries
        self.weights = {"finding": finding_weight, "routing": routing_weight, "prior": prior_weight}
        self.weights["agreement"] = agreement_weight
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: NamedTuple, target: Mapping[str, Tensor]) -> Tensor:
        """A scalar, fp32.

        Args:
            output: `common.llm.report_model.ReportOutput`; a loss whose part of it is None is left out.
            target: "labels" (B, T) of the tokens, "findings" (B, L) in [0, 1] with NaN where unknown, and "regions"
                (B, R) bool.
        """
        loss = self.tokens(output.logits, target["labels"])
        parts = {}
        if output.findings is not None:
            parts["finding"] = self.findings(output.findings, target["findings"])
        if output.anatomy is not None:
            anatomy = output.anatomy
            parts["routing"] = routing_loss(anatomy.routing, target["regions"])
            parts["prior"] = prior_loss(anatomy.attention, anatomy.priors, self.global_queries)
        if self.weights["agreement"]:
            if len(target["labels"]) % 2:
                raise ValueError("the batch does not hold every case twice, expected it for an agreement of passes")
            parts["agreement"] = agreement_loss(*output.logits.chunk(2), target["labels"].chunk(2)[0])
        self.parts = {"token_mean": self.tokens.token_mean} | {name: part.detach() for name, part in parts.items()}
        return loss + sum(self.weights[name] * part for name, part in parts.items())

    def attach(self, engine: Engine) -> None:
        """Report the parts of every iteration."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss_completed)

    def _loss_completed(self, engine: Engine) -> None:
        engine.state.output |= {f"{name}_loss": part for name, part in self.parts.items()}


def routing_loss(routing: Tensor, regions: Tensor) -> Tensor:
    """Cross-entropy of the routing with the regions of a report's findings, mean over cases, 0 of those without any.

    Args:
        routing: (B, R), sums to 1.
        regions: (B, R) bool, where the findings that the report states are seen.

    Returns:
        Scalar, fp32. Divided by all cases, so that accumulation and several processes train what a large batch does.
    """
    target = regions.float()
    stated = target.sum(1)
    each = -(target * routing.float().clamp(min=1e-9).log()).sum(1) / stated.clamp(min=1)
    return (each * (stated > 0)).mean()


def prior_loss(attention: Tensor, priors: Tensor, global_queries: int) -> Tensor:
    """Kullback-Leibler divergence from each region's attention to its refined prior, mean over cases and regions.

    Args:
        attention: (B, global_queries + R * q, h, w), sums to 1 over the grid.
        priors: (B, R, h, w), likewise.
        global_queries: the first queries, which have no region.

    Returns:
        Scalar, fp32, at least 0.
    """
    regions = priors.shape[1]
    read = attention[:, global_queries:].unflatten(1, (regions, -1)).mean(2).flatten(2).float()
    log_prior = priors.flatten(2).float().clamp(min=1e-9).log()
    return (read * (read.clamp(min=1e-9).log() - log_prior)).sum(-1).mean()


def agreement_loss(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Symmetric divergence of two passes with other dropout, mean over tokens (R-Drop, Wu et al., NeurIPS 2021).

    Args:
        first: (B, T, vocabulary) logits.
        second: of the same targets.
        labels: (B, T), -100 where padded.
    """
    a, b = first.float().log_softmax(-1), second.float().log_softmax(-1)
    both = [F.kl_div(x, y, reduction="none", log_target=True).sum(-1) for x, y in ((a, b), (b, a))]
    known = labels != _IGNORED
    return ((both[0] + both[1]) / 2 * known).sum() / known.sum().clamp(min=1)
