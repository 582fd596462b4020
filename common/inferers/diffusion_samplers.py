"""Draw thin latents given thick ones: DDIM and rectified flow, with MONAI's schedulers.

A sampler is called as `sampler(unet, thick_latent, condition, generator)`. All of them share the loop of `Sampler` and
differ in their scheduler, which must match the one that the U-Net was trained with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["DDIMSampler", "RFlowSampler", "Sampler", "SamplingInferer"]


class Sampler(ABC):
    """The sampling loop: noise, then `steps` times the U-Net and one step of the scheduler.

    Args:
        steps: network evaluations.
        inferer: what calls the U-Net, e.g. `AutocastInferer`, or one that wraps MONAI's `SlidingWindowInferer` to
            evaluate a big latent window by window at every step (batch of one only); a plain call by default.
        progress: show a tqdm bar.
    """

    def __init__(self, steps: int, inferer: Inferer | None = None, progress: bool = False) -> None:
        self.steps = steps
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.progress = progress

    @abstractmethod
    def timesteps(self, thick_latent: Tensor) -> list[int]:
        """Timesteps of the network evaluations, falling."""

    @abstractmethod
    def step(self, output: Tensor, timestep: int, next_timestep: int, x: Tensor) -> Tensor:
        """Bring a sample from one timestep to the next."""

    def __call__(
        self,
        unet: Callable[..., Tensor],
        thick_latent: Tensor,
        condition: Tensor,
        generator: torch.Generator | int = 0,
    ) -> Tensor:
        """Draw one thin latent per thick latent; repeat the thick latent along the batch for several samples.

        Args:
            unet: called as `unet(x, timesteps, spacing_tensor=condition)`; a module is put in eval mode meanwhile.
            thick_latent: (B, 4, d, h, w) latent of the upsampled thick slices, times the scale factor.
            condition: (B, 3) or (1, 3), see `common.transforms.slabs.ratio_condition`.
            generator: source of all noise, or a seed. One on the CPU gives the same noise whatever the latent's device.

        Returns:
            (B, 4, d, h, w) float32 latent, still times the scale factor, on the device of `thick_latent`.
        """
        if not isinstance(generator, torch.Generator):
            generator = torch.Generator().manual_seed(generator)
        thick = thick_latent.float()
        condition = condition.to(thick).expand(len(thick), -1)
        x = torch.randn(thick.shape, generator=generator, device=generator.device).to(thick.device)
        timesteps = self.timesteps(thick)
        with eval_mode(*[unet] if isinstance(unet, nn.Module) else []):  # without gradients, in any case
            pairs = zip(timesteps, [*timesteps[1:], 0], strict=True)
            for timestep, next_timestep in tqdm(
                pairs, total=len(timesteps), desc="sample", unit="step", disable=not self.progress
            ):
                now = torch.full((len(x),), timestep, device=x.device)
                output = self.inferer(torch.cat([x, thick], dim=1), unet, now, spacing_tensor=condition).float()
                x = self.step(output, timestep, next_timestep, x)
        return x


class DDIMSampler(Sampler):
    """Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021, https://arxiv.org/abs/2010.02502), with eta 0.

    MONAI's scheduler with timesteps that agree with its step: `DDIMScheduler.set_timesteps` spaces them by `linspace`
    (999, 946, 894, ... for 20), while `step` assumes that the next one is exactly `1000 // 20` lower (949): from the
    second step on the network is told a noise level that the sample does not have. Here they are 999, 949, ..., 49, and
    the last step ends at alpha 1, without noise: "trailing" spacing of Lin et al., "Common Diffusion Noise Schedules
    and Sample Steps Are Flawed" (WACV 2024, https://arxiv.org/abs/2305.08891), who also show why a schedule whose last
    alpha is nearly 0, as the cosine one's, should be trained with v_prediction: from noise alone, epsilon says nothing
    about the sample. The predicted sample is not clipped, because latents are not bounded.

    Args:
        steps: network evaluations; must divide `num_train_timesteps`. The document uses 20, and 50 before.
        prediction_type: what the U-Net was trained to predict: "v_prediction", "epsilon" or "sample".
        schedule: MONAI's name of the noise schedule it was trained with.
        num_train_timesteps: steps of that schedule.
        inferer: see `Sampler`.
        progress: see `Sampler`.

    Raises:
        ValueError: if the number of steps does not divide `num_train_timesteps`.
    """

    def __init__(
        self,
        steps: int = 20,
        prediction_type: str = "v_prediction",
        schedule: str = "cosine",
        num_train_timesteps: int = 1000,
        inferer: Inferer | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(steps, inferer, progress)
        total = num_train_timesteps
        if steps < 1 or total % steps:
            divisors = [n for n in range(1, total + 1) if total % n == 0]
            nearest = [n for n in divisors if n < steps][-1:] + [n for n in divisors if n > steps][:1]
            raise ValueError(
                f"{steps} sampling steps do not divide {total} training steps, the nearest that do are "
                f"{' and '.join(map(str, nearest))}"
            )
        self.scheduler = DDIMScheduler(total, schedule, clip_sample=False, prediction_type=prediction_type)
        self.scheduler.num_inference_steps = steps
        self.scheduler.timesteps = torch.arange(total - 1, -1, -(total // steps))

    def timesteps(self, thick_latent: Tensor) -> list[int]:
        """999, 949 ..., 49 for 20 steps."""
        return self.scheduler.timesteps.tolist()

    def step(self, output: Tensor, timestep: int, next_timestep: int, x: Tensor) -> Tensor:
        """One step of DDIM; the scheduler knows the next timestep."""
        return self.scheduler.step(output, timestep, x)[0]


class RFlowSampler(Sampler):
    """Euler steps along a rectified flow (Liu et al., ICLR 2023, https://arxiv.org/abs/2209.03003).

    MONAI's convention: time 1000 is noise and 0 the sample, `x_t = (1 - t/1000) x_0 + (t/1000) noise`, and the network
    predicts the velocity towards the sample, `x_0 - noise`. Timesteps are integers here: with
    `use_discrete_timesteps=False`, `RFlowScheduler` keeps them in float16 and cuts the next one to an integer inside
    `step`, so that the steps do not add up to the whole way.

    Args:
        steps: network evaluations, 1 to `num_train_timesteps`.
        num_train_timesteps: time of pure noise.
        use_timestep_transform: as trained; spends more steps at high noise for latents above `base_img_size_numel`.
        base_img_size_numel: latent voxels for which the transform changes nothing.
        inferer: see `Sampler`.
        progress: see `Sampler`.

    Raises:
        ValueError: if the number of steps is out of range (raised by MONAI).
    """

    def __init__(
        self,
        steps: int = 20,
        num_train_timesteps: int = 1000,
        use_timestep_transform: bool = False,
        base_img_size_numel: int = 32 * 32 * 32,
        inferer: Inferer | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(steps, inferer, progress)
        self.scheduler = RFlowScheduler(
            num_train_timesteps,
            use_discrete_timesteps=True,
            use_timestep_transform=use_timestep_transform,
            base_img_size_numel=base_img_size_numel,
        )
        self.scheduler.set_timesteps(steps, input_img_size_numel=base_img_size_numel)

    def timesteps(self, thick_latent: Tensor) -> list[int]:
        """1000, 950 ..., 50 for 20 steps without the transform."""
        self.scheduler.set_timesteps(self.steps, input_img_size_numel=thick_latent[0, 0].numel())
        return self.scheduler.timesteps.tolist()

    def step(self, output: Tensor, timestep: int, next_timestep: int, x: Tensor) -> Tensor:
        """One Euler step; deterministic."""
        return self.scheduler.step(output, timestep, x, next_timestep)[0]


class SamplingInferer(Inferer):
    """A sampler as the inferer of a MONAI evaluator, with the same noise for a case at every validation.

    Args:
        sampler: draws the latent.
        seed: of the noise; the same for every batch, so that epochs and models can be compared.
    """

    def __init__(self, sampler: Sampler, seed: int = 0) -> None:
        self.sampler, self.seed = sampler, seed

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Sample.

        Args:
            inputs: thick latent (B, 4, d, h, w), times the scale factor.
            network: the U-Net.
            *args: none.
            **kwargs: `spacing_tensor`, (B, 3).

        Returns:
            Thin latent like `inputs`.
        """
        return self.sampler(network, inputs, *args, kwargs["spacing_tensor"], self.seed)
