"""Image quality of CT volumes: PSNR, SSIM, HU histogram distance."""

import math

import numpy as np
import torch
from ignite.metrics import Average
from monai.utils import convert_to_tensor
from skimage.metrics import structural_similarity

from common.transforms.windows import scale_window, window_bounds


def psnr(prediction: torch.Tensor, target: torch.Tensor, window: str = "wide") -> float:
    """Peak signal-to-noise ratio in dB over a whole volume, data range 1 after windowing.

    Args:
        prediction: HU, any shape.
        target: HU, same shape.
        window: name of the HU window that is scaled to [0, 1].

    Returns:
        ``-10 log10(MSE)``; infinity for identical volumes.
    """
    error = (scale_window(prediction, window).double() - scale_window(target, window).double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(prediction: torch.Tensor, target: torch.Tensor, window: str = "wide") -> float:
    """Structural similarity, mean over axial slices (scikit-image, 7x7 uniform window, data range 1).

    Args:
        prediction: (D, H, W) in HU, H and W at least 7.
        target: same shape, HU.
        window: name of the HU window that is scaled to [0, 1].
    """
    a, b = scale_window(prediction, window).numpy(), scale_window(target, window).numpy()
    return float(np.mean([structural_similarity(p, t, win_size=7, data_range=1.0) for p, t in zip(a, b, strict=True)]))


def histogram_distance(
    prediction: torch.Tensor, target: torch.Tensor, window: str = "wide", bin_hu: float = 1.0
) -> float:
    """Wasserstein-1 distance in HU between the voxel-value distributions of two volumes of equal size.

    The integral of the absolute difference of the two cumulative histograms over the window; values outside count at
    the window's ends. Bins of ``bin_hu`` bound the error by ``bin_hu``.
    """
    low, high = window_bounds(window)
    bins = round((high - low) / bin_hu)
    cdf = [
        torch.histc(volume.float().clamp(low, high), bins=bins, min=low, max=high).double().cumsum(0) / volume.numel()
        for volume in (prediction, target)
    ]
    return float((cdf[0] - cdf[1]).abs().sum() * (high - low) / bins)


def volume_average(metric: str = "psnr", window: str = "wide") -> Average:
    """Mean of ``psnr``, ``ssim`` or ``histogram_distance`` over volumes, as a metric of a SupervisedEvaluator.

    The engine's output is a decollated list of dicts with ``pred`` and ``label``, each (C, D, H, W) in HU.
    """
    measure = {"psnr": psnr, "ssim": ssim, "histogram_distance": histogram_distance}[metric]

    def per_volume(output: list[dict]) -> float:
        values = [measure(*(convert_to_tensor(item[k])[0].cpu() for k in ("pred", "label")), window) for item in output]
        return sum(values) / len(values)

    return Average(output_transform=per_volume)
