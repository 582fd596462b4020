"""What the scanner does to a virtual patient: blur and noise."""

from __future__ import annotations

import numpy as np

from common.data.virtual.geometry import Grid

HU_RANGE = (-1024, 3071)
# Point spread (image mm) and noise relative to the smooth kernel; a sharp kernel shows finer detail and more noise.
KERNELS = {"smooth": (0.50, 1.0), "sharp": (0.28, 1.7)}


def scan(
    hu: np.ndarray, grid: Grid, rng: np.random.Generator, noise_hu: float = 12.0, kernel: str = "smooth"
) -> np.ndarray:
    """Image a body.

    Args:
        hu: float32 (D, H, W), the body; overwritten.
        grid: its grid.
        rng: the noise stream; the noise does not depend on ``hu``.
        noise_hu: standard deviation in the middle of the body for 1.5 mm slices and the smooth kernel.
        kernel: "smooth" or "sharp".

    Returns:
        int16 (D, H, W) in -1024..3071 HU.

    Raises:
        ValueError: if the kernel is unknown or the noise negative.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {', '.join(KERNELS)}.")
    if not noise_hu >= 0:
        raise ValueError(f"noise_hu {noise_hu} is not a number of at least 0.")
    spread, louder = KERNELS[kernel]
    taps = [_taps(spread / grid.spacing[1]), _taps(spread / grid.spacing[2])]
    out = _blur(hu, 0, _taps(0.35))  # neighbouring slices overlap a little
    out = _blur(_blur(out, 1, taps[0]), 2, taps[1])
    if noise_hu > 0:
        noise = rng.standard_normal(grid.shape, dtype=np.float32)
        # Reconstruction correlates the noise within the slice; a sharp kernel less.
        grain = [_taps(max(0.35, 1.3 * spread / s)) for s in grid.spacing[1:]]
        noise = _blur(_blur(noise, 1, grain[0]), 2, grain[1])
        sigma = noise_hu * louder * np.clip((1.5 / grid.spacing[0]) ** 0.5, 0.5, 2.0)
        sigma /= np.sqrt(float((grain[0] ** 2).sum() * (grain[1] ** 2).sum()))
        _, y, x = grid.axes
        # Fewer photons reach the middle of the body.
        profile = 0.55 + 0.45 * np.exp(-((x / 130) ** 2) - (y / 100) ** 2)
        noise *= np.float32(sigma) * profile
        out += noise
    np.clip(out, *HU_RANGE, out=out)
    return np.rint(out, out=out).astype(np.int16)


def _taps(sigma: float) -> np.ndarray:
    """Return a normalised Gaussian of ``sigma`` voxels, float32, as narrow as three taps."""
    reach = max(1, int(np.ceil(2.5 * sigma - 0.25)))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def _blur(a: np.ndarray, axis: int, taps: np.ndarray) -> np.ndarray:
    """Convolve along an axis with symmetric taps; the border repeats."""
    reach, n = len(taps) // 2, a.shape[axis]
    padded = np.pad(a, [(reach, reach) if dim == axis else (0, 0) for dim in range(3)], mode="edge")
    out = a * taps[reach]
    for k in range(1, reach + 1):
        for first in (reach + k, reach - k):
            out += padded[(slice(None),) * axis + (slice(first, first + n),)] * taps[reach + k]
    return out
