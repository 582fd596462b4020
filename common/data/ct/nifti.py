"""Read a CT from a single-file NIfTI-1 or NIfTI-2 image, checking every field that a later stage relies on."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from common.data.ct.volume import check_length, checked_affine, checked_shape, checked_spacing, read_file, rescale
from common.io.bad_input import BadInput

_HEADERS = {348: (nib.Nifti1Header, 344, b"n+1\x00"), 540: (nib.Nifti2Header, 4, b"n+2\x00\r\n\x1a\n")}
_NOT_MM = {1: "metres", 3: "micrometres"}
_LONG_QUATERNION = 1e-3
"""By how much b, c, d may be too long; nibabel refuses what a program rounded to four digits, ITK takes anything."""
_QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


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
    shape = _shape(path, header)
    affine = _affine(path, header, shape)
    return _read_voxels(path, raw, header, shape), affine


def _read_bytes(path: Path) -> bytes:
    """The uncompressed file, its gzip checksum verified (nibabel stops reading before the checksum)."""
    data = read_file(path)
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


def _shape(path: Path, header: nib.Nifti1Header) -> tuple[int, int, int]:
    n_axes = int(header["dim"][0])
    if not 1 <= n_axes <= 7:
        raise BadInput(path, f"has an unreadable header, it says {n_axes} axes, expected 3")
    return checked_shape(path, header["dim"][1 : 1 + n_axes])


def _affine(path: Path, header: nib.Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    spacing = checked_spacing(path, header["pixdim"][1:4])
    unit = int(header["xyzt_units"]) & 7
    if unit in _NOT_MM:
        raise BadInput(path, f"gives its spacing in {_NOT_MM[unit]}, expected mm")
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise BadInput(path, "has neither sform nor qform (both codes are 0), so left and right are unknown")
    stated = header["sform_code"] > 0
    affine = header.get_sform().astype(np.float64) if stated else _of_quaternion(path, header, spacing)
    return checked_affine(path, affine, spacing, shape)


def _of_quaternion(path: Path, header: nib.Nifti1Header, spacing: np.ndarray) -> np.ndarray:
    """The affine (4, 4) of the qform; only a negative qfac turns the third axis, 0 does not (nifti1.h)."""
    b, c, d, *origin = (float(header[name]) for name in _QFORM)
    squares = b * b + c * c + d * d
    if not squares <= 1 + _LONG_QUATERNION:  # NaN fails as well
        raise BadInput(path, f"has an unreadable orientation, its quaternion ({b:g}, {c:g}, {d:g}) is longer than 1")
    # At half a turn what is left for the real part is rounding alone; `quat2mat` makes the quaternion as long as 1.
    real = np.sqrt(1 - squares) if 1 - squares > abs(header.quaternion_threshold) else 0.0
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([real, b, c, d]) * spacing * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    affine[:3, 3] = origin
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
    start = float(header["vox_offset"])
    if not header.sizeof_hdr <= start < 2**62:  # NaN fails both
        raise BadInput(
            path, f"has an unreadable header, its voxels start at byte {start:g}, expected one after the header"
        )
    offset = int(start)
    check_length(path, shape, dtype.itemsize, len(raw) - offset)
    stored = np.ndarray(shape, dtype, buffer=raw, offset=offset, order="F")
    slope, intercept = (1.0, 0.0) if slope is None else (float(slope), float(intercept))
    if dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        return rescale(stored, slope, intercept)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which validate_hu names
        return apply_read_scaling(stored, slope, intercept).astype(np.float32)
