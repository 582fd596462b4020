"""A CT volume in HU, and how to find, check and write one; `common.data.ct.reader` reads it whatever its format."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from common.io.bad_input import BadInput

HU_FLOOR = -1024
"""Lowest HU kept: air. What lies below is padding (CT-RATE pads with -8192, GE with -2000 before rescaling)."""

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_KNOWN_SUFFIXES = (*NIFTI_SUFFIXES, ".zip", ".dcm", ".png", ".jpg", ".jpeg", ".json", ".txt")


@dataclass(frozen=True, eq=False)
class CTVolume:
    """One CT volume.

    Attributes:
        hu: (x, y, z) int16 or float32, Hounsfield units, nothing below -1024.
        affine: (4, 4) float64, voxel index to RAS millimetres (the NIfTI convention).
        case: file or folder name without extension.
        patient: patient id, the unit that a split may not cut through.
        source: the file or folder it was read from.
    """

    hu: np.ndarray
    affine: np.ndarray
    case: str
    patient: str
    source: Path

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (x, y, z) in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def case_name(path: str | os.PathLike[str]) -> str:
    """Name of a case: the file name without its extension, inner dots kept (`a.b.nii.gz` is `a.b`).

    Only extensions that this library reads are taken off, so a folder named by a DICOM UID stays whole.
    """
    name = Path(path).name
    for suffix in _KNOWN_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def case_names(paths: Sequence[Path], root: Path) -> list[str]:
    """A name for each input below a folder: its case name, or where several share one, with the folders above it.

    Series folders are often named alike: `P1/CT` and `P2/CT` become `P1_CT` and `P2_CT`.
    """
    names = [case_name(path) for path in paths]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        "_".join([*path.relative_to(root).parts[:-1], name]) if name in repeated else name
        for path, name in zip(paths, names, strict=True)
    ]


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a single-file NIfTI image."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its `DICM` mark or, so that a damaged one is not overlooked, by its name."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error


def find_ct(path: str | os.PathLike[str], kinds: Iterable[str] = ("nifti", "dicom")) -> list[Path]:
    """List the CT inputs at or below a path: NIfTI files, DICOM series folders, zips; sorted, hidden names left out.

    Args:
        path: a single input or a folder.
        kinds: "nifti" for *.nii and *.nii.gz; "dicom" for every folder that directly holds DICOM files and every zip.

    Returns:
        Candidates, not yet validated.

    Raises:
        BadInput: if the path does not exist or a file in it cannot be opened.
    """
    path, kinds = Path(path), set(kinds)
    if not path.exists():
        raise BadInput(path, "does not exist")
    if path.is_file():
        return [path]
    found = []
    visited = set()
    for folder, subfolders, names in os.walk(path, followlinks=True):
        if os.path.realpath(folder) in visited:  # a link back to where we have been
            subfolders.clear()
            continue
        visited.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        if "nifti" in kinds:
            found += [file for file in files if is_nifti(file)]
        if "dicom" in kinds:
            found += [file for file in files if file.suffix.lower() == ".zip"]
            rest = (file for file in files if not is_nifti(file) and file.suffix.lower() != ".zip")
            if any(looks_like_dicom(file) for file in rest):
                found.append(Path(folder))
    return sorted(found)


def ct_cases(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """What `find_ct` finds, as items of a MONAI `Dataset`: `[{"image": PATH, "case": NAME}, ...]`.

    Raises:
        BadInput: if there is no CT.
    """
    paths = find_ct(path)
    if not paths:
        raise BadInput(path, "holds no CT, expected NIfTI files or DICOM series")
    names = case_names(paths, Path(path))
    return [{"image": str(found), "case": name} for found, name in zip(paths, names, strict=True)]


def clip_padding(hu: np.ndarray) -> np.ndarray:
    """Raise everything below -1024 HU to -1024, in place; high values (metal, above 3071) are kept."""
    return np.maximum(hu, hu.dtype.type(HU_FLOOR), out=hu)


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Stored values to HU: `slope * stored + intercept`.

    Returns:
        int16 when that holds every value exactly, else float32; always a new array.
    """
    slope, intercept = float(slope), float(intercept)
    if (slope, intercept) == (1.0, 0.0) and np.can_cast(stored.dtype, np.int16):
        return stored.astype(np.int16)
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
        if min(ends) >= -32768 and max(ends) <= 32767:
            return (stored.astype(np.int32) * int(slope) + int(intercept)).astype(np.int16)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def validate_hu(path: str | os.PathLike[str], hu: np.ndarray) -> np.ndarray:
    """Check that an array is a CT in HU, and clip its padding.

    The rule is about tissues, since ranges alone cannot tell CT from its look-alikes. Every CT of the body, even one
    cropped inside the heart, holds
      * fat or lung: at least 1 voxel in 10,000 strictly between -1024 and -100 HU. Label maps, 8-bit pictures, MRI and
        stored values that still lack their intercept hold none; -1024 and below may be padding and do not count;
      * soft tissue or blood: at least 2 % of the voxels between -200 and 300 HU. A volume whose intercept was applied
        twice has there only what was dense bone.
    Both shares are taken over about 32 evenly spaced slices.

    Args:
        path: named in the error.
        hu: (x, y, z) int16 or float32; clipped in place.

    Returns:
        The same array.

    Raises:
        BadInput: for NaN or infinite voxels, a constant volume, or values that are not HU.
    """
    low, high = hu.min(), hu.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        nans, infinite = int(np.isnan(hu).sum()), int(np.isinf(hu).sum())
        raise BadInput(path, f"holds {nans} NaN and {infinite} infinite voxels, expected finite HU in every voxel")
    if low == high:
        raise BadInput(path, f"is a constant volume, every voxel is {low:g}, expected a CT image")
    if high > 32767:
        raise BadInput(path, f"is not CT in HU: the highest value is {high:g}, expected at most 32767")
    sample = hu[..., :: max(1, hu.shape[-1] // 32)]
    light = np.count_nonzero((sample > HU_FLOOR) & (sample < -100)) / sample.size
    if light < 1e-4:
        raise BadInput(
            path,
            f"is not CT in HU: values run from {low:g} to {high:g} with nothing like lung or fat, expected at least "
            "0.01 % of the voxels between -1024 and -100 (a label map, another modality, or not rescaled to HU)",
        )
    soft = np.count_nonzero((sample >= -200) & (sample <= 300)) / sample.size
    if soft < 0.02:
        raise BadInput(
            path,
            f"is not CT in HU: {100 * soft:.2g} % of the voxels lie between -200 and 300 where soft tissue is, "
            f"expected at least 2 % (values run from {low:g} to {high:g}; intercept applied twice or never?)",
        )
    return clip_padding(hu) if low < HU_FLOOR else hu


def write_nifti(path: str | os.PathLike[str], array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an image atomically: a reader sees the whole file or none.

    Args:
        path: *.nii or *.nii.gz; its folder exists. Equal arrays give equal bytes.
        array: (x, y, z) or (x, y, z, c), written with its own dtype, no scaling.
        affine: (4, 4) to RAS mm, stored as sform and qform with code 1 (scanner).

    Returns:
        The path.

    Raises:
        ValueError: if the name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    if not is_nifti(path):
        raise ValueError(f"{path}: the name of an image ends in .nii or .nii.gz.")
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            if path.name.lower().endswith(".gz"):
                # No name and no time in the gzip header, or the same volume would hash differently each time.
                with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                    image.to_stream(packed)
            else:
                image.to_stream(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
