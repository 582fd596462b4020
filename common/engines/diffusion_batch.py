"""From cached latents to what a diffusion U-Net is trained on: noisy input, target, time and condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch
from monai.networks.schedulers import RFlowScheduler
from monai.networks.schedulers.rectified_flow import timestep_transform
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from common.data.seeds import seeded_generator

__all__ = ["PrepareDiffusionBatch", "PrepareSamplingBatch", "draw_timesteps"]

_TARGETS = ("v_prediction", "epsilon", "sample")


def draw_timesteps(scheduler: Scheduler, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Training timesteps from a generator, distributed as MONAI's schedulers draw them from the global one.

    Args:
        scheduler: `RFlowScheduler` (uniform or logit-normal, with or without its transform for big latents) or a DDPM
            scheduler (uniform integers).
        shape: of the latents, (B, C, d, h, w).
        generator: on the CPU.

    Returns:
        (B,) timesteps, int64, or float32 where the scheduler works with fractions.
    """
    batch, total = shape[0], scheduler.num_train_timesteps
    if not isinstance(scheduler, RFlowScheduler):
        return torch.randint(0, total, (batch,), generator=generator)
    if scheduler.sample_method == "logit-normal":
        normal = scheduler.distribution.base_dist.base_dist  # MONAI keeps loc and scale nowhere else
        t = torch.sigmoid(normal.loc + normal.scale * torch.randn(batch, generator=generator)) * total
    else:
        t = torch.rand(batch, generator=generator) * total
    if scheduler.use_discrete_timesteps:
        t = t.long()
    if scheduler.use_timestep_transform:
        voxels = shape[2:].numel()
        t = timestep_transform(t, voxels, scheduler.base_img_size_numel, 1.0, total, len(shape) - 2)
    return t


class PrepareDiffusionBatch(PrepareBatch):
    """Add noise for MONAI's `SupervisedTrainer`; that of a sample depends on the seed and its place in the run only.

    The place counts over all processes, so two of them draw what one would with batches twice as large.

    The batch is `{"latent": (B, 4, d, h, w), "thick_latent": same, "spacing": (B, 3)}`; out come the noisy latent and
    the thick one side by side, (B, 8, d, h, w), the target, `(timesteps,)` and `{"spacing_tensor": ...}`.

    As an evaluator's handler it starts anew with every validation, so that validation losses compare like with like.

    Args:
        scheduler: MONAI's `DDPMScheduler` (`prediction_type` decides the target) or `RFlowScheduler` (target
            `latent - noise`).
        scale_factor: multiplies both latents; 1 / their standard deviation (Rombach et al., CVPR 2022, appendix G).
        seed: of noise and timesteps.

    Raises:
        ValueError: if the scheduler predicts something else.
    """

    def __init__(self, scheduler: Scheduler, scale_factor: float = 1.0, seed: int = 0) -> None:
        if scheduler.prediction_type not in _TARGETS:
            raise ValueError(f"prediction_type is {scheduler.prediction_type!r}, expected one of {', '.join(_TARGETS)}")
        self.scheduler = scheduler
        self.scale_factor = scale_factor
        self.seed = seed
        self.samples = 0
        self.dealt = True  # whether the processes take turns with the samples, as DistributedSampler deals them out

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Tensor]]:
        """Draw noise and timesteps and mix them in, see the class; further arguments are those of `Tensor.to`."""
        latent, thick, spacing = _scaled(batchdata, self.scale_factor, device, non_blocking, **kwargs)
        # On the CPU, so that a run gives the same noise on every device.
        one = torch.Size((1, *latent.shape[1:]))
        generators = self._generators(len(latent))
        timesteps = torch.cat([draw_timesteps(self.scheduler, one, g) for g in generators]).to(latent.device)
        noise = torch.cat([torch.randn(one, generator=g) for g in generators]).to(latent.device)
        noisy = self.scheduler.add_noise(original_samples=latent, noise=noise, timesteps=timesteps)
        target = self._target(latent, noise, timesteps)
        return torch.cat([noisy, thick], dim=1), target, (timesteps,), {"spacing_tensor": spacing}

    def attach(self, engine: Engine) -> None:
        """Begin anew at every start of an evaluator; every process sees all of its cases."""
        self.dealt = False
        engine.add_event_handler(Events.STARTED, self.reset)

    def reset(self) -> None:
        """Forget how many samples have been drawn."""
        self.samples = 0

    def state_dict(self) -> dict[str, int]:
        """Seed and number of samples drawn, for an exact resume."""
        return {"seed": self.seed, "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue after `state["samples"]` samples."""
        self.seed, self.samples = int(state["seed"]), int(state["samples"])

    def _generators(self, count: int) -> list[torch.Generator]:
        """One per sample of the next batch."""
        rank, ranks = (idist.get_rank(), idist.get_world_size()) if self.dealt else (0, 1)
        first = self.samples
        self.samples += count * ranks
        return [seeded_generator(self.seed, first + i * ranks + rank) for i in range(count)]

    def _target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if isinstance(self.scheduler, RFlowScheduler):
            return latent - noise
        if self.scheduler.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(latent, noise, timesteps)
        return noise if self.scheduler.prediction_type == "epsilon" else latent


class PrepareSamplingBatch(PrepareBatch):
    """For a `SupervisedEvaluator` that samples: thick latent in, thin latent as the target, the condition by keyword.

    Pair it with `common.inferers.diffusion_samplers.SamplingInferer`.

    Args:
        scale_factor: multiplies both latents, as in training.
    """

    def __init__(self, scale_factor: float = 1.0) -> None:
        self.scale_factor = scale_factor

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple, dict[str, Tensor]]:
        """Give `(thick_latent, latent, (), {"spacing_tensor"})`; arguments as in `PrepareDiffusionBatch`."""
        latent, thick, spacing = _scaled(batchdata, self.scale_factor, device, non_blocking, **kwargs)
        return thick, latent, (), {"spacing_tensor": spacing}


def _scaled(
    batchdata: Mapping[str, Tensor],
    scale_factor: float,
    device: str | torch.device | None,
    non_blocking: bool,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    # float32 whatever is cached: MONAI's schedulers take over the dtype of the samples for good.
    latent, thick, spacing = (
        batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs).float()
        for key in ("latent", "thick_latent", "spacing")
    )
    return latent * scale_factor, thick * scale_factor, spacing
