"""Read a CT whatever its format: NIfTI, NRRD, MetaImage, or a DICOM series as a folder or a zip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.data.ct.dicom import read_dicom
from common.data.ct.itk_image import data_file, load_itk
from common.data.ct.nifti import load_nifti
from common.data.ct.volume import CTVolume, case_name, is_image, is_nifti, looks_like_dicom, validate_hu
from common.io.bad_input import BadInput


def read_ct(path: str | os.PathLike[str]) -> CTVolume:
    """Read one CT from an image file, a folder holding one DICOM series, or a zip of one.

    Args:
        path: what to read; it is never written to.

    Returns:
        The volume in HU, padding below -1024 clipped; int16 when the HU are whole numbers that fit, else float32. The
        patient of an image file is its case name.

    Raises:
        BadInput: if the input is missing, damaged or not a CT volume.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(path, "does not exist")
    if path.is_dir() or path.suffix.lower() == ".zip":
        return read_dicom(path)
    if is_image(path):
        values, affine = load_image(path)
        name = case_name(path)
        return CTVolume(validate_hu(path, values), affine, name, name, path)
    if looks_like_dicom(path):
        raise BadInput(path, "is a single DICOM file, expected the folder or zip that holds its whole series")
    raise BadInput(
        path,
        f"has the name ending {path.suffix!r}, expected .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, a DICOM folder or a "
        ".zip of one",
    )


def load_image(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read voxels and geometry of a NIfTI, NRRD or MetaImage file without asking whether the values are HU.

    Args:
        path: read only.

    Returns:
        Values (x, y, z) int16 or float32, header scaling applied, writable; affine (4, 4) float64 to RAS mm.

    Raises:
        BadInput: if the file is damaged or its header contradicts itself.
    """
    return load_nifti(path) if is_nifti(Path(path)) else load_itk(path)


def input_files(path: Path) -> list[Path]:
    """The files that an input consists of: those of a folder, an image file, and of a header its data file too."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    beside = data_file(path) if is_image(path) and not is_nifti(path) else None
    return [path] if beside is None else [path, beside]
