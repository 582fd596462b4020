"""Small thin CTs on disk for the tests of stages that read a manifest."""

import csv

import numpy as np

from common.data.ct.volume import write_nifti


def write_thin_ct(path, shape=(12, 14, 23), spacing=(1.0, 1.0, 1.5), seed=0):
    """A lung-like (x, y, z) volume: soft tissue around air, with noise."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.4 + 0.2 * np.sin(3 * z + seed), -800, 40) + rng.normal(0, 20, shape)
    write_nifti(path, hu.astype(np.int16), np.diag([*spacing, 1.0]))
    return path


def write_manifest(folder, splits):
    """Case names to splits, one CT each, and a manifest.csv with relative paths; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "patient", "split", "image"])
        for seed, (case, split) in enumerate(splits.items()):
            write_thin_ct(folder / f"{case}.nii.gz", seed=seed)
            writer.writerow([case, case, split, f"{case}.nii.gz"])
    return folder / "manifest.csv"
