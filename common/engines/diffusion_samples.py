"""Decoded diffusion samples of training cases, drawn once and kept, so that the refiner can learn to use them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.data.ct.reader import read_ct
from common.data.ct.volume import axial_axes, write_nifti
from common.inferers.slice_interpolation import SliceInterpolationInferer
from common.networks.slice_interpolator import SliceInterpolator
from common.networks.weights import weights_hash
from common.transforms.ct_io import to_axial
from common.transforms.slabs import simulate_thick

__all__ = ["add_samples"]

logger = logging.getLogger("train")


def add_samples(
    rows: Sequence[Mapping[str, Any]],
    network: SliceInterpolator,
    inferer: SliceInterpolationInferer,
    folder: str | os.PathLike[str],
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Give the first rows a ``sample`` and its ``sample_ratio``; what was drawn before with the same weights is reused.

    Args:
        rows: manifest rows with "image" and "sha256".
        network: with VAE and U-Net, both frozen.
        inferer: mode ``diffusion`` with a ``target_ratio``, samples not refined.
        folder: receives ``CASE_<key>.nii.gz``, int16 HU; the key covers weights, image and settings.
        limit: rows that get a sample; None for all.

    Returns:
        copies of all rows, in order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "weights": weights_hash(network),
        "ratio": inferer.target_ratio,
        "steps": inferer.sampler.steps,
        "seed": inferer.seed,
    }
    out, drawn = [dict(row) for row in rows], 0
    for row in tqdm(out[:limit], desc="diffusion samples", unit="case"):
        facts = json.dumps(settings | {"image": row["sha256"]}, sort_keys=True)
        path = folder / f"{row['case']}_{hashlib.sha256(facts.encode()).hexdigest()[:16]}.nii.gz"
        if not path.is_file():
            volume = read_ct(row["image"])
            thin, affine = to_axial(volume)
            thick, _ = simulate_thick(thin, inferer.target_ratio)
            thick_mm = float(np.linalg.norm(affine[:3, 0])) * inferer.target_ratio
            hu = inferer.interpolate(thick, thick_mm, network)[0].cpu().round().clamp(-1024, 3071)
            back = np.argsort(axial_axes(volume.affine))
            write_nifti(path, hu.numpy().astype(np.int16).transpose(back), volume.affine)
            drawn += 1
        row["sample"], row["sample_ratio"] = str(path), inferer.target_ratio
    logger.info("%d diffusion samples drawn, %d reused", drawn, len(out[:limit]) - drawn)
    return out
