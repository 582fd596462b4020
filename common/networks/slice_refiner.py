"""Pixel-space refiner: from neighbouring thick slices to the detail that interpolation along the slices leaves out.

A 2-D U-Net sees each thick slice with its neighbours as channels (2.5-D) and gives, for every pixel, the coefficients
of a cosine series over the slab. A thin slice is the mean of that series over its own extent, so one set of weights
serves every ratio, integer or not, and the residual of a slab averages to zero by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.transforms.slabs import interpolate_slices, project_to_measurement

__all__ = ["SliceRefiner", "slab_cosines"]

HU_SCALE = 1000.0
"""HU per unit inside the network."""

_PIXELS_AT_ONCE = 1 << 20  # thick-slice pixels in one pass, so that memory stays flat in depth


@lru_cache(maxsize=64)
def slab_cosines(n_thick: int, n_thin: int, n_cosines: int) -> np.ndarray:
    r"""The matrix from cosine coefficients of slabs to thin slices.

    Over slab j the series is :math:`\sum_{k=1}^{K} c_{jk} \cos(\pi k p)` with p from 0 to 1; thin slice i is its mean
    over the extent of the slice, which may reach into two slabs.

    Args:
        n_thick: slabs.
        n_thin: thin slices over the same extent.
        n_cosines: K.

    Returns:
        (n_thin, n_thick * K) float32, the column of :math:`c_{jk}` at ``j * K + k - 1``; averaging its rows over a slab
        gives zero when the ratio is an integer.

    Raises:
        ValueError: unless ``1 <= n_thick <= n_thin``.
    """
    if not 1 <= n_thick <= n_thin:
        raise ValueError(
            f"{n_thin} thin slices for {n_thick} thick ones, expected at least as many thin as thick slices"
        )
    ends = np.arange(n_thin + 1) * n_thick / n_thin
    slab = np.arange(n_thick)
    wave = np.pi * np.arange(1, n_cosines + 1)
    # (n_thin + 1, n_thick, K): the integral from the beginning of slab j up to each border between thin slices
    integral = np.sin(np.clip(ends[:, None] - slab, 0, 1)[..., None] * wave) / wave
    mean = np.diff(integral, axis=0) * n_thin / n_thick
    return mean.reshape(n_thin, -1).astype(np.float32)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), as in EDSR (Lim et al., arXiv:1707.02921): no normalisation.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv, gain in ((self.conv1, 1.0), (self.conv2, 0.2)):  # small steps away from the identity
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            with torch.no_grad():
                conv.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return x + self.conv2(F.relu(self.conv1(x)))


class PlainUNet(nn.Module):
    """A U-Net of residual blocks without normalisation; input and output have the resolution of its first level.

    Args:
        in_channels: of the input.
        out_channels: of the output, which is zero before training.
        channels: per level, each half as wide and high as the one before.
        blocks: residual blocks per level, on the way down and again on the way up.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)}: expected one of each per level")

        def stage(level: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels[level]) for _ in range(blocks[level])))

        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(stage(level) for level in range(len(channels)))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(stage(level) for level in range(len(pairs)))
        self.head = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w); h and w are multiples of 2 ** (levels - 1)."""
        x = self.stem(x)
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=False):
            x = encode(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[-1](x)
        for up, decode in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = decode(F.pixel_shuffle(up(x), 2) + skips.pop())
        return self.head(x)


class SampleHead(nn.Module):
    """What a decoded diffusion sample adds to a thin slice.

    Features of ``sample - base`` in three neighbouring thin slices, gated by the base; without a sample (or with one
    equal to the base) and before training the result is exactly zero.

    Args:
        channels: hidden width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(3, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, base: Tensor, sample: Tensor) -> Tensor:
        """Base and sample (B, n + 2, H, W), HU/1000, to the correction (B, n, H, W) of the inner slices."""
        difference, base = (_stack_neighbours(x, 3) for x in (sample - base, base))
        features = F.relu(self.features(difference)) * torch.sigmoid(self.gate(base))
        return self.out(features).unflatten(0, (sample.shape[0], -1)).squeeze(2)


class SliceRefiner(nn.Module):
    """Predicts ``thin - base`` from thick slices, for any ratio of slice counts.

    Args:
        context: thick slices seen at once, odd.
        channels: per level of the U-Net.
        blocks: residual blocks per level.
        shuffle: the U-Net works on pixels packed ``shuffle`` x ``shuffle`` into channels.
        n_cosines: length of the cosine series; exact up to a ratio of ``n_cosines + 1``, smooth above.
        sample_channels: hidden width of the head for diffusion samples.

    Raises:
        ValueError: if context is even or not positive.
    """

    def __init__(
        self,
        context: int = 5,
        channels: Sequence[int] = (64, 96),
        blocks: Sequence[int] = (2, 4),
        shuffle: int = 2,
        n_cosines: int = 8,
        sample_channels: int = 16,
    ) -> None:
        super().__init__()
        if context < 1 or context % 2 == 0:
            raise ValueError(f"context is {context}, expected an odd number of thick slices")
        self.context, self.shuffle, self.n_cosines = context, shuffle, n_cosines
        self.multiple = shuffle * 2 ** (len(channels) - 1)
        self.body = PlainUNet((context + 1) * shuffle**2, n_cosines * shuffle**2, channels, blocks)
        self.sample_head = SampleHead(sample_channels)
        self._sizes = {
            "context": context,
            "channels": list(channels),
            "blocks": list(blocks),
            "shuffle": shuffle,
            "n_cosines": n_cosines,
            "sample_channels": sample_channels,
        }
        for weight in self.parameters():  # channels last is several times faster than planes on a CPU
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def definition(self) -> dict[str, Any]:
        """Arguments that build a network of the same sizes."""
        return dict(self._sizes)

    @property
    def uses_samples(self) -> bool:
        """Whether the head for diffusion samples has been trained; before that a sample changes nothing."""
        return bool(self.sample_head.out.weight.detach().any())

    def coefficients(self, thick: Tensor) -> Tensor:
        """Cosine coefficients of each slab.

        Args:
            thick: (B, N + context - 1, H, W), HU/1000; N slabs with their neighbours. H and W are multiples of
                `multiple`.

        Returns:
            (B, N, n_cosines, H, W) float32, HU/1000.
        """
        x = _stack_neighbours(thick, self.context)
        centre = x[:, self.context // 2, None]
        # The neighbours relative to the slice itself, and the slice, both about as large as one.
        x = torch.cat([2 * (x - centre), centre + 0.5], dim=1)
        x = F.pixel_unshuffle(x, self.shuffle).contiguous(memory_format=torch.channels_last)
        x = F.pixel_shuffle(self.body(x), self.shuffle)
        return x.float().unflatten(0, (thick.shape[0], -1))

    def forward(self, thick: Tensor, base: Tensor, sample: Tensor | None = None) -> Tensor:
        """Residual of thin slices.

        Args:
            thick: (B, N + context - 1, H, W), HU/1000; N slabs and context // 2 neighbours on either side.
            base: (B, n_thin, H, W), HU/1000, the estimate to improve; n_thin slices over the N slabs.
            sample: decoded diffusion sample like ``base``, HU/1000; None is the same as ``base``.

        Returns:
            (B, n_thin, H, W) residual, HU/1000, to add to ``base``; without slab means for an integer ratio.
        """
        coefficients = self.coefficients(thick)
        n_thick, n_thin = int(coefficients.shape[1]), int(base.shape[1])  # TorchScript traces sizes as tensors
        cosines = torch.from_numpy(slab_cosines(n_thick, n_thin, self.n_cosines)).to(coefficients)
        residual = torch.einsum("tc,bchw->bthw", cosines, coefficients.flatten(1, 2))
        if sample is not None:
            correction = self.sample_head(_replicate(base, 1, 1), _replicate(sample, 1, 1)).float()
            residual = residual + _without_slab_means(correction, n_thick)
        return residual

    def thin(self, thick: Tensor, ratio: int) -> Tensor:
        """Thin slices of whole volumes in one piece and with gradients, projected; `refine` keeps memory flat.

        Args:
            thick: (B, n_thick, H, W), HU.
            ratio: thin slices per thick one.

        Returns:
            (B, n_thick * ratio, H, W), HU.
        """
        height, width = thick.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(thick / HU_SCALE, padding, mode="replicate")
        base = project_to_measurement(interpolate_slices(padded, thick.shape[1] * ratio), padded)
        half = self.context // 2
        thin = base + self(_replicate(padded, half, half), base)
        return project_to_measurement(thin[..., :height, :width] * HU_SCALE, thick)

    @torch.inference_mode()
    def refine(self, thick: Tensor, n_thin: int, sample: Tensor | None = None, tta: bool = False) -> Tensor:
        """Thin slices of a whole volume, before the final projection.

        bfloat16 is used where the processor computes in it; the edge slices are repeated as neighbours.

        Args:
            thick: (n_thick, H, W), HU.
            n_thin: number of thin slices over the same extent.
            sample: decoded diffusion sample (n_thin, H, W), HU.
            tta: average over the flips of the three axes; eight times the work for about 0.1 dB.

        Returns:
            (n_thin, H, W) float32, HU, on the device of ``thick``.
        """
        home, device = thick.device, self.body.head.weight.device
        thick = thick.to(device).float() / HU_SCALE
        base = project_to_measurement(interpolate_slices(thick, n_thin), thick)
        sample = None if sample is None else sample.to(device).float() / HU_SCALE
        flips = [[axis for axis in range(3) if bits >> axis & 1] for bits in range(8 if tta else 1)]
        residual = torch.zeros_like(base)
        for axes in flips:
            flipped = (None if x is None else x.flip(axes) for x in (thick, base, sample))
            residual += self._residual(*flipped).flip(axes)
        return (HU_SCALE * (base + residual / len(flips))).to(home)

    def _residual(self, thick: Tensor, base: Tensor, sample: Tensor | None) -> Tensor:
        """Residual (n_thin, H, W) of a whole volume in HU/1000, some slabs at a time."""
        n_thick, (n_thin, height, width) = len(thick), base.shape
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        half = self.context // 2
        padded = _replicate(F.pad(thick[None], padding, mode="replicate"), half, half)
        cosines = torch.from_numpy(slab_cosines(n_thick, n_thin, self.n_cosines)).to(thick)
        step = max(1, _PIXELS_AT_ONCE // padded[0, 0].numel())
        residual = torch.zeros_like(base)
        with torch.autocast(thick.device.type, torch.bfloat16, enabled=_computes_in_bfloat16(thick.device)):
            for first in range(0, n_thick, step):
                last = min(first + step, n_thick)
                slabs = self.coefficients(padded[:, first : last + 2 * half])[0, ..., :height, :width].flatten(0, 1)
                columns = cosines[:, first * self.n_cosines : last * self.n_cosines]
                rows = slice(first * n_thin // n_thick, -(-last * n_thin // n_thick))  # thin slices touching the slabs
                with torch.autocast(thick.device.type, enabled=False):
                    residual[rows] += (columns[rows] @ slabs.flatten(1)).unflatten(1, (height, width))
            if sample is not None:
                residual += _without_slab_means(self._sample_correction(base, sample, step), n_thick)
        return residual

    def _sample_correction(self, base: Tensor, sample: Tensor, step: int) -> Tensor:
        base, sample = (_replicate(x[None], 1, 1) for x in (base, sample))
        windows = [slice(first, first + step + 2) for first in range(0, base.shape[1] - 2, step)]
        return torch.cat([self.sample_head(base[:, w], sample[:, w])[0].float() for w in windows])


def _without_slab_means(thin: Tensor, n_thick: int) -> Tensor:
    return project_to_measurement(thin, torch.zeros_like(thin[..., :n_thick, :, :]))


def _stack_neighbours(volume: Tensor, count: int) -> Tensor:
    """(B, n + count - 1, H, W) to (B * n, count, H, W): every slice with its neighbours as channels."""
    windows = volume.unfold(1, count, 1).movedim(-1, 2).flatten(0, 1)
    return windows.contiguous(memory_format=torch.channels_last)


def _replicate(volume: Tensor, before: int, after: int) -> Tensor:
    """Repeat the first and last slice of a (B, n, H, W) volume."""
    first, last = volume[:, :1].expand(-1, before, -1, -1), volume[:, -1:].expand(-1, after, -1, -1)
    return torch.cat([first, volume, last], dim=1)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is a native type of the processor and not slower than float32."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
