"""Binary cross-entropy plus focal loss on logits, for labels some of which are unknown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the usual name
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

__all__ = ["MaskedBCEFocalLoss"]


class MaskedBCEFocalLoss(nn.Module):
    """Weighted sum of both losses, each the mean over the known labels of the batch.

    In a training of several processes it is the mean over the known labels of all their batches: gradients, which are
    averaged over processes, are then those of one process with all these cases, however many labels each one knows.

    The focal loss of Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), equation 5, is
    -alpha_t (1 - p_t)^gamma log(p_t). Computed in fp32 whatever the network ran in: in fp16 a confident mistake is
    infinite. As a handler of the trainer it adds the two parts to the engine's output, as "bce_loss" and "focal_loss".

    Args:
        bce_weight: of the cross-entropy.
        focal_weight: of the focal loss.
        alpha: weight of positives in the focal loss, negatives get 1 - alpha.
        gamma: how much easy cases are turned down, 0 or more.
        class_weights: one factor per label, on both losses.

    Raises:
        ValueError: for a negative gamma.

    Attributes:
        parts: "bce" and "focal" of the last call, before weighting, detached.
    """

    def __init__(
        self,
        bce_weight: float = 0.7,
        focal_weight: float = 0.3,
        alpha: float = 0.25,
        gamma: float = 2.0,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}, expected 0 or more")
        self.bce_weight, self.focal_weight, self.alpha, self.gamma = bce_weight, focal_weight, alpha, gamma
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: (B, labels), or (B, answers, labels) where several answers are held against the same target.
            target: (B, labels), 0 to 1 (soft labels too), NaN where the label is unknown.

        Returns:
            Scalar, fp32; 0 if no label of the batch is known.

        Raises:
            ValueError: if the shapes or the number of class weights differ.
        """
        if logits.ndim == 3 and target.ndim == 2:
            target = target[:, None].expand(-1, logits.shape[1], -1)
        if logits.shape != target.shape:
            raise ValueError(f"the target has shape {tuple(target.shape)}, expected the logits' {tuple(logits.shape)}")
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            raise ValueError(f"there are {len(self.class_weights)} class weights for {logits.shape[-1]} labels")
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.to(logits.device, torch.float32)
            known = ~target.isnan()
            target = torch.where(known, target, 0)
            bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            p = logits.sigmoid()
            missed = p * (1 - target) + (1 - p) * target  # 1 - p_t
            alpha_t = self.alpha * target + (1 - self.alpha) * (1 - target)
            # Below 1, a power has an infinite slope at 0.
            focal = alpha_t * missed.clamp(min=torch.finfo(torch.float32).tiny) ** self.gamma * bce
            weight = known.float() if self.class_weights is None else known * self.class_weights.to(logits.device)
            count = _shared(known.sum())
            bce, focal = (bce * weight).sum() / count, (focal * weight).sum() / count
        self.parts = {"bce": bce.detach(), "focal": focal.detach()}
        return self.bce_weight * bce + self.focal_weight * focal

    def attach(self, engine: Engine) -> None:
        """Report the parts of every iteration."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._loss_completed)

    def _loss_completed(self, engine: Engine) -> None:
        engine.state.output |= {f"{name}_loss": part for name, part in self.parts.items()}


def _shared(count: Tensor) -> Tensor:
    """The count, at least 1; while gradients are computed, when all processes are here, the mean of their counts."""
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return count.clamp(min=1)
    count = count.float()
    dist.all_reduce(count)
    return count.clamp(min=1) / dist.get_world_size()
