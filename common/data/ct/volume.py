"""A CT volume in HU, how to find, check and write one; `common.data.ct.reader` reads it whatever its format.

The checks here are those that every format shares.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from common.data.case_list import CaseList
from common.data.case_names import unique_names
from common.data.folder_files import check_regular, file_kind, other_kind, others_text, walk_files
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path

HU_FLOOR = -1024
"""Lowest HU kept: air. What lies below is padding (CT-RATE pads with -8192, GE with -2000 before rescaling)."""

TILT_DEGREES = 0.2
"""By how much the axes of a volume may miss a right angle; what leans further is sheared, and no box of voxels."""

_SPACINGS = (0.1, 30.0)
"""mm; finer is no chest CT (0.15 mm is what the finest scanners give), and metres or centimetres look like it."""

_COARSE = 1.2
"""Slices are thick where their spacing is so many times that of the other two axes."""

_SAME_AXES = 5e-4
"""By how much of a voxel a qform may step aside: rounding, in its quaternion or in cosines of few digits."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the axes of DICOM and ITK to those of NIfTI; its own inverse."""

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_IMAGE_SUFFIXES = {"nifti": NIFTI_SUFFIXES, "itk": ITK_SUFFIXES}
_OF_KIND = {"nifti": "nifti", "nrrd": "itk", "metaimage": "itk"}
_HEADER_BYTES = 2**16
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_BESIDE_SLICES = re.compile(
    r"^(\..*|dicomdir|licen[cs]e|readme|version|checksums?|thumbs\.db|.*\.(txt|xml|csv|tsv|json|md|html?|pdf|log|png|jpe?g|zip"
    r"|nii|nii\.gz|nrrd|nhdr|mha|mhd|z?raw|raw\.gz|tiff?|bmp|gif|exe|dll|inf|ini|bat|db|rtf|docx?|xlsx?|gz))$",
    re.IGNORECASE,
)
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


def axial_axes(affine: np.ndarray) -> tuple[int, int, int]:
    """Array axes of slices, rows and columns: along the thick slices, then by where they run in the body.

    The slices are those of the axis whose spacing is clearly the coarsest, as of a sagittal or coronal stack; where
    none is, of the axis that runs closest to superior-inferior. The others follow in the order superior-inferior,
    anterior-posterior, left-right.
    """
    world = io_orientation(affine)[:, 0].astype(int)
    d, h, w = (int(np.flatnonzero(world == axis)[0]) for axis in (2, 1, 0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    coarsest = int(np.argmax(spacing))
    if spacing[coarsest] < _COARSE * np.sort(spacing)[1]:
        return d, h, w
    rest = [axis for axis in (d, h, w) if axis != coarsest]
    return coarsest, rest[0], rest[1]


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a single-file NIfTI image."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether the name is that of a NIfTI, NRRD or MetaImage file, none of which says whose it is."""
    return path.name.lower().endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content or, so that a damaged one is not overlooked, by its name."""
    return path.suffix.lower() in _DICOM_SUFFIXES or file_kind(path) == "dicom"


def accompanies(name: str) -> bool:
    """Whether a file that is no DICOM stands beside the slices of a series by custom, such as LICENSE or *.txt."""
    return _BESIDE_SLICES.match(name) is not None


def find_ct(
    path: str | os.PathLike[str],
    kinds: Iterable[str] = ("nifti", "itk", "dicom"),
    problems: list[BadInput] | None = None,
    other: Counter[str] | None = None,
) -> list[Path]:
    """List the CT inputs at or below a path: image files, DICOM series folders, zips; sorted, hidden names left out.

    Args:
        path: a single input or a folder.
        kinds: "nifti" for *.nii and *.nii.gz; "itk" for NRRD (*.nrrd, *.nhdr) and MetaImage (*.mha, *.mhd); "dicom" for
            every folder that directly holds DICOM files, whatever their names, and every zip. The data file of a header
            (*.raw) is no input.
        problems: files are added that are of these kinds by content and cannot be used, and what is no file.
        other: all other files are counted into it by kind.

    Returns:
        Candidates, not yet validated.

    Raises:
        BadInput: if the path does not exist, or is no file and no folder.
    """
    path, kinds = Path(path), set(kinds)
    problems, other = [] if problems is None else problems, Counter() if other is None else other
    if not path.exists():
        raise BadInput(path, "does not exist")
    if not path.is_dir():
        check_regular(path)
        return [path]
    endings = tuple(ending for kind in kinds for ending in _IMAGE_SUFFIXES.get(kind, ()))
    found: list[Path] = []
    for folder, files in groupby(walk_files(path, problems, other), lambda file: file.parent):
        slices, rest = [], []
        for file in files:
            name = file.name.lower()
            if name.endswith(endings) or ("dicom" in kinds and name.endswith(".zip")):
                found.append(file)
            elif name.endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".zip")):
                other[other_kind(file)] += 1
            else:
                try:
                    kind = "dicom" if file.suffix.lower() in _DICOM_SUFFIXES else file_kind(file)
                except BadInput as problem:
                    problems.append(problem)
                    continue
                if kind == "dicom" and "dicom" in kinds:
                    slices.append(file)
                elif _OF_KIND.get(kind) in kinds:
                    expected = " or ".join(_IMAGE_SUFFIXES[_OF_KIND[kind]])
                    problems.append(BadInput(file, f"is {kind} by its content, expected a name ending in {expected}"))
                else:
                    rest.append((file, kind))
        if slices:
            found.append(folder)
        headers = [file for file in found if file.parent == folder and file.name.lower().endswith((".nhdr", ".mhd"))]
        for file, kind in rest:
            if _is_data_of(file, headers):
                continue
            named = accompanies(file.name) or kind == "dicomdir"
            if kind == "empty" and other_kind(file) == "without ending" and not slices:
                problems.append(BadInput(file, "is an empty file (0 bytes), expected an image"))
            elif named or not slices:  # else it is taken for a slice, and the series refused for it
                other["DICOMDIR" if kind == "dicomdir" else other_kind(file)] += 1
    return sorted(found)


def _is_data_of(file: Path, headers: Iterable[Path]) -> bool:
    """Whether one of some headers (*.nhdr, *.mhd) beside a file names it as the place of its voxels."""
    for header in headers:
        with suppress(BadInput):  # an empty header, which its own check names
            if file.name.encode() in read_file(header, _HEADER_BYTES):
                return True
    return False


def ct_cases(path: str | os.PathLike[str]) -> CaseList:
    """What `find_ct` finds, as items of a MONAI `Dataset`: `[{"image": PATH, "case": NAME}, ...]`.

    Raises:
        BadInput: if there is no CT.
    """
    problems: list[BadInput] = []
    other: Counter[str] = Counter()
    paths = find_ct(path, problems=problems, other=other)
    if not paths:
        if problems:
            raise problems[0]
        held = f" ({others_text(other)})" if others_text(other) else ""
        raise BadInput(path, f"holds no CT{held}, expected NIfTI, NRRD or MetaImage files or DICOM series")
    names = case_names(paths, Path(path))
    cases = [{"image": str(found), "case": name} for found, name in zip(paths, names, strict=True)]
    return CaseList(cases, [{"path": str(p.path), "reason": p.reason} for p in problems], other)


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
    low, high = _SPACINGS
    if spacing.min() < low or spacing.max() > high:
        raise BadInput(
            path,
            f"has a spacing of {_listed(spacing)} mm, which no chest CT has, expected {low:g} to {high:g} mm (is it in "
            "another unit?)",
        )
    return spacing


def checked_affine(path: Path, affine: np.ndarray, spacing: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An affine (4, 4) to mm, if its axes stand upright on each other and are as long as the spacing (3,) says.

    Args:
        path: named in errors.
        affine: of the volume.
        spacing: as its header says beside the affine.
        shape: of the volume; how far a shear moves the end of an axis tells it from rounding.
    """
    if not np.isfinite(affine).all():
        raise BadInput(path, "has NaN or infinity in its affine, expected finite mm")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if volume <= 1e-3 * lengths.prod():
        raise BadInput(path, f"has a singular affine (a voxel of {volume:.3g} mm3), its axes must span the space")
    axes, extent = affine[:3, :3] / lengths, (np.asarray(shape) - 1) * lengths
    for i, j in ((0, 1), (0, 2), (1, 2)):
        lean, reach = abs(axes[:, i] @ axes[:, j]), min(extent[i], extent[j])
        if lean * reach > 0.02 + np.tan(np.radians(TILT_DEGREES)) * reach:
            raise BadInput(
                path,
                f"has a shear of {np.degrees(np.arcsin(min(lean, 1))):.3g} degrees between its axes {i} and {j} (a "
                "gantry tilt?), expected right angles",
            )
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
        affine: (4, 4) to RAS mm, stored as sform with code 1 (scanner), and so as qform where a quaternion can say it.

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
    # Quaternions hold no shear. Where it is but rounding, ITK still asks for one.
    aside = (image.header.get_qform() - image.header.get_sform())[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(aside).max() > _SAME_AXES:
        image.header["qform_code"] = 0
    image.header.set_xyzt_units("mm", "sec")
    with atomic_path(path) as part, part.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the gzip header, or the same volume would hash differently each time.
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
    return path
