"""Read a CT from a single-file NIfTI-1 or NIfTI-2 image, checking every field that a later stage relies on."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from common.data.ct.volume import CTVolume, case_name, rescale, validate_hu
from common.io.bad_input import BadInput

_HEADERS = {348: (nib.Nifti1Header, 344, b"n+1\x00"), 540: (nib.Nifti2Header, 4, b"n+2\x00\r\n\x1a\n")}
_NOT_MM = {1: "metres", 3: "micrometres"}


def read_nifti(path: str | os.PathLike[str]) -> CTVolume:
    """Read and validate one CT; the patient id is the case name, since NIfTI has no field for it.

    Args:
        path: *.nii or *.nii.gz, read only.

    Returns:
        int16 when the file stores integers that fit after `scl_slope`/`scl_inter`, else float32.

    Raises:
        BadInput: for a damaged file, a header that contradicts itself, or voxels that are not CT in HU.
    """
    path = Path(path)
    values, affine = load_nifti(path)
    name = case_name(path)
    return CTVolume(validate_hu(path, values), affine, name, name, path)


def load_nifti(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read voxels and geometry without asking whether the values are HU.

    Args:
        path: *.nii or *.nii.gz, read only.

    Returns:
        Values (x, y, z) int16 or float32, header scaling applied, writable; affine (4, 4) float64 to RAS mm.

    Raises:
        BadInput: if the file is damaged or its header contradicts itself.
    """
    path = Path(path)
    raw = _read_bytes(path)
    header = _read_header(path, raw)
    shape = _checked_shape(path, header)
    affine = _checked_affine(path, header)
    return _read_voxels(path, raw, header, shape), affine


def _read_bytes(path: Path) -> bytes:
    """The uncompressed file, its gzip checksum verified (nibabel stops reading before the checksum)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror})") from error
    if not data:
        raise BadInput(path, "is an empty file (0 bytes), expected a NIfTI image")
    packed = data[:2] == b"\x1f\x8b"
    if packed != path.name.lower().endswith(".gz"):
        raise BadInput(path, f"is {'' if packed else 'not '}gzip-compressed, which its name contradicts")
    if not packed:
        return data
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise BadInput(path, f"is a truncated gzip file, its compressed data end after {len(data)} bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(path, f"is a damaged gzip file ({error})") from error


def _read_header(path: Path, raw: bytes) -> nib.Nifti1Header:
    endianness, size = "<", int.from_bytes(raw[:4], "little")
    if size not in _HEADERS:
        endianness, size = ">", int.from_bytes(raw[:4], "big")
    if size not in _HEADERS:
        size = int.from_bytes(raw[:4], "little")
        raise BadInput(path, f"has an unreadable header, its size field is {size}, expected 348 or 540 (NIfTI-1 or -2)")
    header_class, offset, magic = _HEADERS[size]
    if len(raw) < size:
        raise BadInput(path, f"has an unreadable header, it ends after {len(raw)} of {size} bytes")
    if raw[offset : offset + len(magic)] != magic:
        found = raw[offset : offset + len(magic)]
        raise BadInput(path, f"has the wrong magic {found!r}, expected {magic!r} (a single-file NIfTI image)")
    return header_class(raw[:size], endianness=endianness, check=False)


def _checked_shape(path: Path, header: nib.Nifti1Header) -> tuple[int, int, int]:
    n_axes = int(header["dim"][0])
    if not 1 <= n_axes <= 7:
        raise BadInput(path, f"has an unreadable header, it says {n_axes} axes, expected 3")
    shape = tuple(int(length) for length in header["dim"][1 : 1 + n_axes])
    if n_axes < 3:
        raise BadInput(path, f"is {n_axes}-D with shape {shape}, expected a 3-D volume")
    if any(length != 1 for length in shape[3:]):
        raise BadInput(path, f"is {n_axes}-D with shape {shape}, expected a 3-D volume")
    shape = shape[:3]
    if min(shape) < 1:
        raise BadInput(path, f"has an unreadable header, its shape is {shape}, expected lengths of at least 1")
    if min(shape) < 2:
        raise BadInput(path, f"is a lone slice with shape {shape}, expected at least 2 voxels along every axis")
    return shape


def _checked_affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    pixdim = header["pixdim"][1:4].astype(np.float64)
    listed = ", ".join(f"{size:g}" for size in pixdim)
    if not np.isfinite(pixdim).all() or (pixdim <= 0).any():
        kind = "zero" if (pixdim == 0).any() else "negative" if (pixdim < 0).any() else "non-finite"
        raise BadInput(path, f"has a {kind} spacing (pixdim {listed}), expected positive mm")
    unit = int(header["xyzt_units"]) & 7
    if unit in _NOT_MM:
        raise BadInput(path, f"gives its spacing in {_NOT_MM[unit]}, expected mm")
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise BadInput(path, "has neither sform nor qform (both codes are 0), so left and right are unknown")
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise BadInput(path, f"has an unreadable orientation ({error})") from error
    if not np.isfinite(affine).all():
        raise BadInput(path, "has NaN or infinity in its affine, expected finite mm")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if volume <= 1e-3 * lengths.prod():
        raise BadInput(path, f"has a singular affine (a voxel of {volume:.3g} mm3), its axes must span the space")
    if (np.abs(lengths / pixdim - 1) > 0.01).any():
        found = ", ".join(f"{size:g}" for size in lengths)
        raise BadInput(
            path, f"contradicts itself about spacing: pixdim {listed}, affine {found} mm, expected within 1 %"
        )
    return affine


def _read_voxels(path: Path, raw: bytes, header: nib.Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        dtype = header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
    except KeyError as error:
        raise BadInput(path, f"has an unreadable header, its datatype code is {error}") from error
    except HeaderDataError as error:
        raise BadInput(path, f"has an unreadable header ({error})") from error
    if dtype.kind not in "iuf":
        raise BadInput(path, f"stores voxels of type {dtype}, expected integers or floats")
    start, needed = float(header["vox_offset"]), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not header.sizeof_hdr <= start < 2**62:  # NaN fails both
        raise BadInput(
            path, f"has an unreadable header, its voxels start at byte {start:g}, expected one after the header"
        )
    offset = int(start)
    if len(raw) - offset < needed:
        raise BadInput(path, f"is truncated, it holds {max(len(raw) - offset, 0)} of {needed} bytes of voxels")
    stored = np.ndarray(shape, dtype, buffer=raw, offset=offset, order="F")
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept))
    if dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        return rescale(stored, slope, intercept)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which validate_hu names
        return apply_read_scaling(stored, slope, intercept).astype(np.float32)
