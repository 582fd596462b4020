"""Slice geometry: thick slices as slabs of thin ones, interpolation along the slice axis, and the exact projection.

Everything here is linear along one axis, so each operation is one small matrix applied to axis 0 of a (D, H, W) volume.
A stack of ``n`` slices covers ``n`` intervals of equal thickness; two stacks cover the same millimetres.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

INTERPOLATIONS = ("nearest", "linear", "cubic")


def slices_for_spacing(n_thick: int, thick_mm: float, thin_mm: float) -> int:
    """Number of thin slices whose thickness comes closest to ``thin_mm`` while covering exactly the same extent.

    Args:
        n_thick: number of thick slices.
        thick_mm: their spacing in mm.
        thin_mm: wanted spacing in mm.

    Returns:
        the slice count; the spacing that follows is ``n_thick * thick_mm / count``.

    Raises:
        ValueError: if the wanted spacing is not positive or not finer than the input.
    """
    if not thin_mm > 0:
        raise ValueError(f"target_spacing is {thin_mm} mm, expected a positive number")
    count = round(n_thick * thick_mm / thin_mm)
    if count < n_thick:
        raise ValueError(
            f"target_spacing {thin_mm:g} mm is coarser than the input's {thick_mm:g} mm, expected a finer one"
        )
    return count


def ratio_condition(thick_mm: float, thin_mm: float) -> torch.Tensor:
    """What a `SliceUNet` is conditioned on: log2 of the ratio of spacings, of the thick and of the thin spacing in mm.

    Logarithms, because a ratio of 2 is the same step from 1.0 to 2.0 mm as from 2.5 to 5.0 mm; 5.0 mm to 1.0 mm is
    (2.32, 2.32, 0). The values stay near the unit range that a linear layer expects.

    Args:
        thick_mm: spacing of the acquired slices in mm.
        thin_mm: spacing of the wanted slices in mm, not above `thick_mm`.

    Returns:
        (3,) float32.

    Raises:
        ValueError: unless `0 < thin_mm <= thick_mm`.
    """
    if not 0 < thin_mm <= thick_mm < math.inf:
        raise ValueError(f"spacings are {thick_mm} mm (thick) and {thin_mm} mm (thin), expected 0 < thin <= thick")
    return torch.tensor([math.log2(thick_mm / thin_mm), math.log2(thick_mm), math.log2(thin_mm)])


@lru_cache(maxsize=64)
def slab_matrix(n_thick: int, n_thin: int) -> np.ndarray:
    """Box slab profile: the (n_thick, n_thin) matrix that averages thin slices over each thick slice's extent.

    Entry (j, i) is the share of thick slice j's thickness that thin slice i covers, so rows sum to one. For an integer
    ratio this is the plain mean of ``ratio`` consecutive slices.

    Raises:
        ValueError: unless ``1 <= n_thick <= n_thin``.
    """
    if not 1 <= n_thick <= n_thin:
        raise ValueError(
            f"{n_thin} thin slices for {n_thick} thick ones, expected at least as many thin as thick slices"
        )
    thick = np.arange(n_thick + 1) / n_thick
    thin = np.arange(n_thin + 1) / n_thin
    overlap = np.minimum(thick[1:, None], thin[None, 1:]) - np.maximum(thick[:-1, None], thin[None, :-1])
    return np.clip(overlap, 0, None) * n_thick


@lru_cache(maxsize=64)
def _right_inverse(n_thick: int, n_thin: int) -> np.ndarray:
    """A^T (A A^T)^-1 of the slab matrix A, (n_thin, n_thick)."""
    slab = slab_matrix(n_thick, n_thin)
    return slab.T @ np.linalg.inv(slab @ slab.T)


@lru_cache(maxsize=64)
def interpolation_matrix(n_thick: int, n_thin: int, kind: str) -> np.ndarray:
    """The (n_thin, n_thick) matrix that resamples slice centres: ``nearest``, ``linear`` or ``cubic``.

    Centres beyond the first and last thick centre take the edge value (``linear`` equals
    ``torch.nn.functional.interpolate(mode="linear", align_corners=False)``); ``cubic`` is the interpolating spline.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {kind!r}, expected one of {', '.join(INTERPOLATIONS)}")
    centres = np.clip((np.arange(n_thin) + 0.5) * n_thick / n_thin - 0.5, 0, n_thick - 1)
    if kind == "nearest" or n_thick == 1:
        # the slab that contains the centre; a centre on a border belongs to the upper slab
        index = np.floor((np.arange(n_thin) + 0.5) * n_thick / n_thin).astype(int)
        return np.eye(n_thick)[index]
    degree = 1 if kind == "linear" else min(3, n_thick - 1)
    spline = make_interp_spline(np.arange(n_thick), np.eye(n_thick), k=degree)
    return spline(centres)


def apply_along_slices(matrix: np.ndarray, volume: torch.Tensor) -> torch.Tensor:
    """Apply an (n_out, n_in) matrix to axis -3 of a (..., n_in, H, W) volume."""
    if matrix.shape[1] != volume.shape[-3]:
        raise ValueError(f"the volume has {volume.shape[-3]} slices, expected {matrix.shape[1]}")
    flat = volume.flatten(-2)
    return (torch.from_numpy(matrix).to(flat) @ flat).unflatten(-1, volume.shape[-2:])


def average_slabs(thin: torch.Tensor, n_thick: int) -> torch.Tensor:
    """Thick slices of a thin volume (..., n_thin, H, W): the mean over each slab, (..., n_thick, H, W), same units."""
    return apply_along_slices(slab_matrix(int(n_thick), int(thin.shape[-3])), thin)


def interpolate_slices(thick: torch.Tensor, n_thin: int, kind: str = "linear") -> torch.Tensor:
    """Resample a thick volume (..., n_thick, H, W) to ``n_thin`` slices over the same extent."""
    return apply_along_slices(interpolation_matrix(int(thick.shape[-3]), int(n_thin), kind), thick)


def project_to_measurement(thin: torch.Tensor, thick: torch.Tensor) -> torch.Tensor:
    """The volume closest to ``thin`` whose slab means are exactly ``thick``.

    Range-null-space decomposition (Wang et al., DDNM, arXiv:2212.00490): ``x + A^+ (y - A x)`` with the slab matrix A.

    Args:
        thin: estimate, (..., n_thin, H, W), HU.
        thick: acquired slices over the same extent, (..., n_thick, H, W), HU.

    Returns:
        tensor like ``thin``; averaging it over each thick slice returns ``thick`` up to rounding.
    """
    n_thick, n_thin = int(thick.shape[-3]), int(thin.shape[-3])  # TorchScript traces sizes as tensors
    return thin + apply_along_slices(_right_inverse(n_thick, n_thin), thick - average_slabs(thin, n_thick))


def consistency_error(thin: torch.Tensor, thick: torch.Tensor) -> float:
    """Largest absolute difference between slab mean and acquired thick slice, in the volume's unit (HU)."""
    return float((average_slabs(thin, thick.shape[-3]) - thick).abs().max())


def round_keeping_slab_means(thin: torch.Tensor) -> torch.Tensor:
    """Integers whose running sum along the slices never drifts more than half a unit from the input's.

    Plain rounding moves a slab mean by up to 0.5; carrying the remainder to the next slice moves the mean of ``r``
    slices by at most ``1 / r``.

    Args:
        thin: (..., D, H, W) float volume, HU.

    Returns:
        int16 volume of the same shape.
    """
    total = thin.double().cumsum(dim=-3).round()
    return torch.diff(total, dim=-3, prepend=torch.zeros_like(total[..., :1, :, :])).to(torch.int16)


def simulate_thick(thin: torch.Tensor, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Thick slices of ``ratio`` thin ones from slice 0; the remainder is dropped.

    Args:
        thin: (..., D, H, W) volume.
        ratio: thin slices per thick slice, at least 2.

    Returns:
        the thick volume (..., D // ratio, H, W) and the thin slices it was made of.

    Raises:
        ValueError: if the ratio is below 2 or fewer than two thick slices result.
    """
    if ratio < 2:
        raise ValueError(f"ratio is {ratio}, expected an integer of at least 2")
    n_thick = thin.shape[-3] // ratio
    if n_thick < 2:
        raise ValueError(f"{thin.shape[-3]} slices give {n_thick} thick slices at ratio {ratio}, expected at least 2")
    kept = thin[..., : n_thick * ratio, :, :]
    return average_slabs(kept, n_thick), kept


def affine_of_slices(affine: np.ndarray, n_thick: int, n_thin: int) -> np.ndarray:
    """Affine of ``n_thin`` slices that cover the extent of ``n_thick``.

    Args:
        affine: (4, 4) from (d, h, w) index to RAS mm of the thick volume.
        n_thick: its slice count.
        n_thin: the new slice count.

    Returns:
        (4, 4) of the thin volume: slice step scaled, first centre moved so that the outer slice faces stay.
    """
    step = n_thick / n_thin
    out = np.array(affine, dtype=np.float64)
    out[:3, 3] += out[:3, 0] * (0.5 * step - 0.5)
    out[:3, 0] *= step
    return out
