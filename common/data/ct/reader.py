"""Read a CT whatever its file format: NIfTI by `common.data.ct.nifti`, DICOM series by `common.data.ct.dicom`."""

from __future__ import annotations

import os
from pathlib import Path

from common.data.ct.dicom import read_dicom
from common.data.ct.nifti import read_nifti
from common.data.ct.volume import CTVolume, is_nifti, looks_like_dicom
from common.io.bad_input import BadInput


def read_ct(path: str | os.PathLike[str]) -> CTVolume:
    """Read one CT from a NIfTI file, a folder holding one DICOM series, or a zip of one.

    Args:
        path: what to read; it is never written to.

    Returns:
        The volume in HU, padding below -1024 clipped.

    Raises:
        BadInput: if the input is missing, damaged or not a CT volume.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(path, "does not exist")
    if path.is_dir() or path.suffix.lower() == ".zip":
        return read_dicom(path)
    if is_nifti(path):
        return read_nifti(path)
    if looks_like_dicom(path):
        raise BadInput(path, "is a single DICOM file, expected the folder or zip that holds its whole series")
    raise BadInput(
        path, f"has the name ending {path.suffix!r}, expected .nii, .nii.gz, a DICOM folder or a .zip of one"
    )
