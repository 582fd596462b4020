"""A CT volume in HU, how to find, check and write one; `common.data.ct.reader` reads it whatever its format.

The checks here are those that every format shares.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from common.data.case_names import unique_names
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path

HU_FLOOR = -1024
"""Lowest HU kept: air. What lies below is padding (CT-RATE pads with -8192, GE with -2000 before rescaling)."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the axes of DICOM and ITK to those of NIfTI; its own inverse."""

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_IMAGE_SUFFIXES = {"nifti": NIFTI_SUFFIXES, "itk": ITK_SUFFIXES}
_KNOWN_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".zip", ".dcm", ".png", ".jpg", ".jpeg", ".json", ".txt")


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
    """A name for each input below a folder, see `common.data.case_names.unique_names`; mostly its `case_name`."""
    return unique_names(paths, root, case_name)


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a single-file NIfTI image."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether the name is that of a NIfTI, NRRD or MetaImage file, none of which says whose it is."""
    return path.name.lower().endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES))


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


def find_ct(path: str | os.PathLike[str], kinds: Iterable[str] = ("nifti", "itk", "dicom")) -> list[Path]:
    """List the CT inputs at or below a path: image files, DICOM series folders, zips; sorted, hidden names left out.

    Args:
        path: a single input or a folder.
        kinds: "nifti" for *.nii and *.nii.gz; "itk" for NRRD (*.nrrd, *.nhdr) and MetaImage (*.mha, *.mhd); "dicom" for
            every folder that directly holds DICOM files and every zip. The data file of a header (*.raw) is no input.

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
    endings = tuple(ending for kind in kinds for ending in _IMAGE_SUFFIXES.get(kind, ()))
    found = []
    visited = set()
    for folder, subfolders, names in os.walk(path, followlinks=True):
        if os.path.realpath(folder) in visited:  # a link back to where we have been
            subfolders.clear()
            continue
        visited.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR"]
        found += [file for file in files if file.name.lower().endswith(endings)]
        if "dicom" in kinds:
            found += [file for file in files if file.suffix.lower() == ".zip"]
            rest = (file for file in files if not is_image(file) and file.suffix.lower() != ".zip")
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
        raise BadInput(path, "holds no CT, expected NIfTI, NRRD or MetaImage files or DICOM series")
    names = case_names(paths, Path(path))
    return [{"image": str(found), "case": name} for found, name in zip(paths, names, strict=True)]


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
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate_hu` names
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def read_file(path: Path, size: int = -1) -> bytes:
    """The first bytes of a file, by default all of them.

    Raises:
        BadInput: if it cannot be read or is empty.
    """
    try:
        with path.open("rb") as file:
            data = file.read(size)
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error
    if not data:
        raise BadInput(path, "is an empty file (0 bytes), expected an image")
    return data


def checked_shape(path: Path, shape: Sequence[int]) -> tuple[int, int, int]:
    """The first three lengths of a volume, if it has three axes of at least 2 voxels (further ones of 1)."""
    shape = tuple(int(length) for length in shape)
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise BadInput(path, f"is {len(shape)}-D with shape {shape}, expected a 3-D volume")
    x, y, z = shape[:3]
    if min(x, y, z) < 1:
        raise BadInput(path, f"has an unreadable header, its shape is {x, y, z}, expected lengths of at least 1")
    if min(x, y, z) < 2:
        raise BadInput(path, f"is a lone slice with shape {x, y, z}, expected at least 2 voxels along every axis")
    return x, y, z


def checked_spacing(path: Path, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Three voxel sizes in mm as (3,) float64, if they are positive."""
    spacing = np.asarray(spacing, dtype=np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        kind = "zero" if (spacing == 0).any() else "negative" if (spacing < 0).any() else "non-finite"
        raise BadInput(path, f"has a {kind} spacing ({_listed(spacing)}), expected positive mm")
    return spacing


def checked_affine(path: Path, affine: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """An affine (4, 4) to mm, if its axes span the space and are as long as the spacing (3,) says."""
    if not np.isfinite(affine).all():
        raise BadInput(path, "has NaN or infinity in its affine, expected finite mm")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if volume <= 1e-3 * lengths.prod():
        raise BadInput(path, f"has a singular affine (a voxel of {volume:.3g} mm3), its axes must span the space")
    if (np.abs(lengths / spacing - 1) > 0.01).any():
        raise BadInput(
            path,
            f"contradicts itself about spacing: {_listed(spacing)} by its header, {_listed(lengths)} mm by its affine, "
            "expected within 1 %",
        )
    return affine


def check_length(path: Path, shape: Sequence[int], size: int, held: int) -> None:
    """Check that a file holds the bytes of as many voxels of `size` bytes as its shape says."""
    needed = int(np.prod(shape, dtype=object)) * size
    if held < needed:
        raise BadInput(path, f"is truncated, it holds {max(held, 0)} of {needed} bytes of voxels")


def _listed(sizes: np.ndarray) -> str:
    return ", ".join(f"{size:g}" for size in sizes)


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
    return np.maximum(hu, hu.dtype.type(HU_FLOOR), out=hu) if low < HU_FLOOR else hu


def write_nifti(path: str | os.PathLike[str], array: np.ndarray, affine: np.ndarray) -> Path:
    """Write an image atomically: a reader sees the whole file or none.

    Args:
        path: *.nii or *.nii.gz; its folder is created. Equal arrays give equal bytes.
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
    with atomic_path(path) as part, part.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the gzip header, or the same volume would hash differently each time.
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
    return path
