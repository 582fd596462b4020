"""Thick and thin slices of the same CT, as the latent diffusion stages use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from common.data.ct.reader import read_ct
from common.data.manifest import read_split
from common.io.bad_input import BadInput
from common.transforms.ct_io import to_axial
from common.transforms.slabs import simulate_thick

__all__ = ["PairReader", "SlicePair", "pair_cases", "read_pair", "resize_in_plane"]


@dataclass(frozen=True, eq=False)
class SlicePair:
    """A CT and what a scanner with thicker slices would have shown.

    Attributes:
        thin: (D, H, W) float32 HU; the slices that fill whole slabs, resized in plane if asked for.
        thick: (D // ratio, H, W) float32 HU, means over slabs of `ratio` slices.
        thin_mm: slice spacing of `thin`.
        thick_mm: slice spacing of `thick`.
    """

    thin: torch.Tensor
    thick: torch.Tensor
    thin_mm: float
    thick_mm: float


def pair_cases(manifest: str | os.PathLike[str], split: str, ratios: Sequence[int]) -> list[dict[str, Any]]:
    """Every CT of a split once per ratio: {"case", "patient", "image" (path), "ratio"}.

    Args:
        manifest: `manifest.csv` of the prepared data, or its folder.
        split: "train", "val" or "test".
        ratios: thin slices per thick slice.

    Raises:
        ValueError: if there is no ratio, or one below 2.
        BadInput: if the manifest has no case for the split.
    """
    if not ratios or any(ratio < 2 for ratio in ratios):
        raise ValueError(f"ratios are {list(ratios)}, expected at least one integer of at least 2")
    return [
        {"case": row["case"], "patient": row.get("patient", row["case"]), "image": row["image"], "ratio": ratio}
        for row in read_split(manifest, split)
        for ratio in sorted(set(ratios))
    ]


class PairReader:
    """`read_pair` for the cases of `pair_cases`; asked for the same case twice in a row, it reads once.

    Args:
        resolution: longest side in plane (512 in the document, 384 to save memory); None leaves it.
    """

    def __init__(self, resolution: int | None = None) -> None:
        self.resolution = resolution
        self._last: tuple[Mapping[str, Any], SlicePair] | None = None

    def __call__(self, case: Mapping[str, Any]) -> SlicePair:
        """Read a case."""
        if self._last is None or self._last[0] is not case:
            self._last = case, read_pair(case["image"], case["ratio"], self.resolution)
        return self._last[1]


def read_pair(path: str | os.PathLike[str], ratio: int, resolution: int | None = None) -> SlicePair:
    """Read a thin CT and simulate its thick slices.

    Args:
        path: as `common.data.ct.reader.read_ct` takes it.
        ratio: thin slices per thick slice, at least 2; a remainder at the end is dropped.
        resolution: longest side in plane after resizing; None leaves it.

    Raises:
        BadInput: if the CT cannot be read or is too short for two thick slices.
    """
    volume = read_ct(path)
    hu, affine = to_axial(volume)
    try:
        thick, thin = simulate_thick(resize_in_plane(hu, resolution), ratio)
    except ValueError as error:
        raise BadInput(path, str(error)) from error
    spacing = float(np.linalg.norm(affine[:3, 0]))
    return SlicePair(thin, thick, spacing, ratio * spacing)


def resize_in_plane(volume: torch.Tensor, resolution: int | None) -> torch.Tensor:
    """Resize H and W by one factor so that the longer becomes `resolution`: area averaging down, bilinear up.

    Args:
        volume: (D, H, W), HU.
        resolution: pixels, or None to leave the volume as it is.

    Returns:
        (D, H', W').

    Raises:
        ValueError: if the resolution is not positive.
    """
    if resolution is None or max(volume.shape[1:]) == resolution:
        return volume
    if resolution < 1:
        raise ValueError(f"resolution is {resolution}, expected a positive number of pixels")
    factor = resolution / max(volume.shape[1:])
    size = [max(1, round(n * factor)) for n in volume.shape[1:]]
    options = {"mode": "area"} if factor < 1 else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(volume[:, None], size=size, **options)[:, 0]
