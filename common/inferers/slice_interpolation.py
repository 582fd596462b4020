"""Thick slices in, thin slices out: how the trained parts are applied to one volume."""

from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from common.inferers.chunked_vae import ChunkedVAE
from common.networks.slice_interpolator import SliceInterpolator, parts_for
from common.networks.slice_refiner import SliceRefiner
from common.transforms.slabs import (
    INTERPOLATIONS,
    affine_of_slices,
    interpolate_slices,
    project_to_measurement,
    ratio_condition,
    slices_for_spacing,
)
from common.transforms.windows import scale_window, unscale_window


class SliceInterpolationInferer(Inferer):
    """Bring a CT to thinner slices over the same millimetres.

    Args:
        mode: ``nearest``, ``linear``, ``cubic``, ``refiner`` or ``diffusion``.
        target_spacing: wanted slice spacing in mm; the count that comes closest is used.
        target_slices: wanted slice count instead.
        target_ratio: wanted thin slices per thick slice instead; exactly one of the three is given.
        project: make slab means equal the acquired slices exactly.
        n_samples: diffusion samples; with more than one the output is their mean and standard deviation.
        seed: of the first sample; sample k uses ``seed + k``.
        sampler: callable ``(unet, thick_latent, condition, generator) -> latent``, needed for ``diffusion``.
        refine_samples: pass diffusion samples through the refiner, so that the VAE does not cap the quality.
        tta: average the refiner over flips.
        encode_chunk, decode_chunk: slices the VAE holds at once.
    """

    def __init__(
        self,
        mode: str = "refiner",
        target_spacing: float | None = None,
        target_slices: int | None = None,
        target_ratio: int | None = None,
        project: bool = True,
        n_samples: int = 1,
        seed: int = 0,
        sampler: Callable[..., torch.Tensor] | None = None,
        refine_samples: bool = True,
        tta: bool = False,
        encode_chunk: int = 32,
        decode_chunk: int = 8,
    ) -> None:
        parts_for(mode, refine_samples)
        targets = {"target_spacing": target_spacing, "target_slices": target_slices, "target_ratio": target_ratio}
        if sum(value is not None for value in targets.values()) != 1:
            raise ValueError(f"the target is {targets}, expected exactly one of them to be given")
        if n_samples < 1 or (n_samples > 1 and mode != "diffusion"):
            raise ValueError(f"n_samples is {n_samples} with mode {mode}, expected 1, or more with mode diffusion")
        self.mode, self.target_spacing, self.target_slices = mode, target_spacing, target_slices
        self.target_ratio = target_ratio
        self.project, self.n_samples, self.seed, self.sampler = project, n_samples, seed, sampler
        self.refine_samples, self.tta = refine_samples, tta
        self.encode_chunk, self.decode_chunk = encode_chunk, decode_chunk

    def __call__(self, inputs: torch.Tensor, network: SliceInterpolator | SliceRefiner) -> MetaTensor:
        """Interpolate one CT.

        Args:
            inputs: (1, 1, D, H, W) MetaTensor in HU whose affine maps (d, h, w) to mm.
            network: the parts that the mode needs; for ``refiner`` a bare `SliceRefiner` will do.

        Returns:
            (1, 1, D', H, W) MetaTensor in HU with its affine; of several samples channel 1 is the standard deviation.
        """
        if inputs.shape[:2] != (1, 1):
            raise ValueError(f"the batch has shape {tuple(inputs.shape)}, expected one single-channel volume")
        affine = np.asarray(inputs.affine.cpu()).reshape(-1, 4, 4)[0]
        thick_mm = float(np.linalg.norm(affine[:3, 0]))
        volume = self.interpolate(convert_to_tensor(inputs)[0, 0].float(), thick_mm, network)
        new_affine = affine_of_slices(affine, inputs.shape[2], volume.shape[1])
        out = MetaTensor(volume[None], affine=torch.from_numpy(new_affine)[None])
        out.is_batch = True  # the engine takes the batch apart, and the affine with it
        return out

    def n_thin(self, n_thick: int, thick_mm: float) -> int:
        """Slice count of the output."""
        if self.target_ratio is not None:
            return n_thick * self.target_ratio
        if self.target_slices is None:
            return slices_for_spacing(n_thick, thick_mm, self.target_spacing)
        if self.target_slices < n_thick:
            raise ValueError(f"target_slices is {self.target_slices}, expected at least the input's {n_thick}")
        return self.target_slices

    @torch.inference_mode()
    def interpolate(
        self, thick: torch.Tensor, thick_mm: float, network: SliceInterpolator | SliceRefiner
    ) -> torch.Tensor:
        """Interpolate a (D, H, W) HU volume to (1 or 2, D', H, W): estimate and, of several samples, their std."""
        n_thin = self.n_thin(len(thick), thick_mm)
        if self.mode in INTERPOLATIONS:
            samples = [interpolate_slices(thick, n_thin, self.mode)]
        elif self.mode == "refiner":
            refiner = getattr(network, "refiner", network)
            samples = [refiner.refine(thick, n_thin, tta=self.tta)]
        else:
            samples = self._diffusion_samples(thick, thick_mm, n_thin, network)
        if self.project:
            samples = [project_to_measurement(sample, thick) for sample in samples]
        stack = torch.stack(samples)
        return stack if len(stack) == 1 else torch.stack([stack.mean(0), stack.std(0)])

    def _diffusion_samples(
        self, thick: torch.Tensor, thick_mm: float, n_thin: int, network: SliceInterpolator
    ) -> list[torch.Tensor]:
        if self.sampler is None:
            raise ValueError("mode is diffusion and sampler is None, expected a sampler")
        if self.refine_samples and not network.refiner.uses_samples:
            raise ValueError(
                "the refiner was trained without diffusion samples and would ignore them, expected one trained after "
                "the diffusion stage, or --refine_samples false"
            )
        vae = ChunkedVAE(network.vae, encode_chunk=self.encode_chunk, decode_chunk=self.decode_chunk)
        start = interpolate_slices(thick, n_thin)
        # Volumes stay where they are, mostly on the host; latents go to the networks.
        device = network.scale_factor.device
        latent = vae.encode_volume(scale_window(start)[None, None])[0].to(device) * network.scale_factor
        condition = ratio_condition(thick_mm, thick_mm * len(thick) / n_thin).to(latent)[None]
        samples = []
        for k in range(self.n_samples):
            generator = torch.Generator().manual_seed(self.seed + k)
            drawn = self.sampler(network.unet, latent, condition, generator) / network.scale_factor
            sample = unscale_window(vae.decode(drawn.to(start.device), shape=start.shape)[0, 0])
            if self.refine_samples:
                sample = network.refiner.refine(thick, n_thin, sample=sample, tta=self.tta)
            samples.append(sample)
        return samples
