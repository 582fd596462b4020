"""Thick slices simulated from thin ones, as a dictionary transform."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import convert_to_tensor

from common.transforms.ct_pairs import resize_in_plane
from common.transforms.slabs import affine_of_slices, simulate_thick


class SimulateThickd(Transform):
    """From a thin CT at "image", MetaTensor (1, D, H, W) in HU, make simulated thick input and thin target.

    The thick CT takes its place, and the thin slices that it was made of go to "label".

    Args:
        ratio: thin slices per thick slice.
        max_slices: keep only this many thin slices around the middle, or None for all.
        resolution: longest side in plane after resizing, as in training; None leaves it.
    """

    def __init__(self, ratio: int = 5, max_slices: int | None = None, resolution: int | None = None) -> None:
        self.ratio, self.max_slices, self.resolution = ratio, max_slices, resolution

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the pair to ``data``."""
        out, thin = dict(data), data["image"]
        affine = thin.affine.cpu().numpy().astype(np.float64)
        first = 0
        if self.max_slices is not None and thin.shape[1] > self.max_slices:
            first = (thin.shape[1] - self.max_slices) // 2
            thin = thin[:, first : first + self.max_slices]
        affine[:3, 3] += affine[:3, 0] * first
        resized = resize_in_plane(convert_to_tensor(thin)[0], self.resolution)[None]
        for axis in (1, 2):
            step = thin.shape[axis + 1] / resized.shape[axis + 1]
            affine[:3, 3] += affine[:3, axis] * (0.5 * step - 0.5)
            affine[:3, axis] *= step
        thick, kept = simulate_thick(resized, self.ratio)
        thick_affine = affine_of_slices(affine, kept.shape[1], thick.shape[1])
        meta = {key: value for key, value in data["image"].meta.items() if key != "affine"}
        out["image"] = MetaTensor(thick, affine=torch.from_numpy(thick_affine), meta=dict(meta))
        out["label"] = MetaTensor(kept, affine=torch.from_numpy(affine), meta=dict(meta))
        return out
