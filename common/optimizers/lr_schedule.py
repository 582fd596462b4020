"""Learning-rate schedules that a configuration can name by `_target_`."""

from __future__ import annotations

import math
from typing import Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["warmup_cosine"]


class Clock(Protocol):
    """What knows the time limit of a training, such as `common.handlers.training_clock.TrainingClock`."""

    @property
    def spent(self) -> float:
        """The part of the limit that is spent, 0 without one."""


def warmup_cosine(
    optimizer: Optimizer,
    max_epochs: int,
    warmup_epochs: float = 5,
    steps_per_epoch: int = 1,
    clock: Clock | None = None,
) -> LambdaLR:
    """Linear warm-up, then half a cosine from the learning rate down to 0.

    MONAI's `WarmupCosineSchedule(warmup_multiplier=1 / (W + 1))` is the same curve but for the last digit of some rates
    of the warm-up; it knows no `clock`, and its rate rises again after the last step.

    With W warm-up steps, step s < W has the fraction (s + 1) / (W + 1), so that not even the first step is wasted on a
    rate of 0; W has 1. After the last step the rate stays.

    Args:
        optimizer: every group keeps its own rate as the maximum.
        max_epochs: length of the training.
        warmup_epochs: of which warm-up; parts of an epoch are fine with several steps per epoch.
        steps_per_epoch: how often the scheduler steps per epoch: 1 with MONAI's `LrScheduleHandler(...,
            epoch_level=True)`, the number of batches with `epoch_level=False`.
        clock: with the time limit of the training. Where it runs ahead of the steps, the schedule follows it, so that
            a training that the limit will cut short has cooled down by then.

    Raises:
        ValueError: if the warm-up is not shorter than the training or negative.
    """
    total, warm_up = max_epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    if not 0 <= warm_up < total:
        raise ValueError(
            f"warmup_epochs is {warmup_epochs} of max_epochs {max_epochs}, expected a part of the training"
        )

    def fraction(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        elapsed = 0.0 if clock is None else clock.spent
        progress = min(1.0, max((step - warm_up) / (total - warm_up), elapsed))
        return (1 + math.cos(math.pi * progress)) / 2

    # A plain function is not saved with the scheduler's state, so a resumed run follows its own configuration.
    return LambdaLR(optimizer, fraction)
