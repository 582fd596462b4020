"""Read one CT series from a folder or a zip, refusing whatever would bend its geometry or its HU.

A series is right when its slices are CT images of one patient and one series, equal in size, spacing and orientation,
stacked without gap or repeat along their own normal, and rescaled to HU by the slope and intercept of each slice.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from common.data.ct.volume import (
    HU_FLOOR,
    LPS_TO_RAS,
    TILT_DEGREES,
    CTVolume,
    accompanies,
    case_name,
    checked_affine,
    checked_spacing,
    rescale,
    validate_hu,
)
from common.data.dicom_file import DAMAGE, HEAD, read_dataset
from common.data.dicom_pixels import stored_values
from common.data.folder_files import content_kind, file_kind
from common.io.bad_input import BadInput

MAX_ZIP_BYTES = 16 * 2**30
"""Largest unpacked size of a zip, which is read in memory."""

_ORIENTATION_TOLERANCE = 1e-3
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_RECONSTRUCTION = ("ConvolutionKernel", "KVP")
"""What all slices of one reconstruction have in common; a slice that does not tell may be of any."""
_ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, UnicodeDecodeError,
)  # fmt: skip


def read_dicom(path: str | os.PathLike[str]) -> CTVolume:
    """Read and validate one CT series.

    Args:
        path: a folder whose direct files are the series, or a zip of one; read only, a zip is unpacked in memory.
            Files that accompany a series by custom (DICOMDIR, LICENSE, *.txt, *.xml, *.csv, hidden) are passed over.

    Returns:
        The volume, slices ordered along the slice normal; int16 when the HU are whole numbers, else float32.

    Raises:
        BadInput: naming the files at fault. Patient ids are compared but never printed.
    """
    path = Path(path)
    files = _zip_files(path) if path.suffix.lower() == ".zip" and not path.is_dir() else _folder_files(path)
    slices = [(name, _read_slice(path, name, data)) for name, data in files]
    if not slices:
        raise BadInput(path, "holds no DICOM file")
    for name, ds in slices:
        try:
            _check_slice(path, name, ds)
        except BadInput:
            raise
        except DAMAGE as error:
            raise BadInput(path, f"{name} has an unreadable header ({error})") from error
    _check_one_series(path, slices)
    if len(slices) < 2:
        raise BadInput(path, f"is a lone slice ({slices[0][0]}), expected a series of at least 2")
    slices, affine = _sort_slices(path, slices)
    planes = [_read_plane(path, name, ds) for name, ds in slices]
    hu = np.stack(planes).transpose(2, 1, 0)
    return CTVolume(validate_hu(path, hu), affine, case_name(path), patient_id(slices[0][1]), path)


def _folder_files(path: Path) -> Iterator[tuple[str, bytes]]:
    for name in sorted(entry.name for entry in path.iterdir() if entry.is_file()):
        try:
            if _is_slice(name, file_kind(path / name)):
                yield name, (path / name).read_bytes()
        except OSError as error:
            raise BadInput(path, f"{name} cannot be read ({error.strerror})") from error
        except BadInput as error:
            raise BadInput(path, f"{name} {error.reason}") from error


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            for entry in entries:
                parts = entry.filename.replace("\\", "/").split("/")
                if ".." in parts or not parts[0] or ":" in parts[0]:
                    raise BadInput(
                        path, f"entry {entry.filename!r} points outside the zip, expected plain relative names"
                    )
                if entry.flag_bits & 1:
                    raise BadInput(path, f"entry {entry.filename!r} is encrypted, expected a zip without password")
            total = sum(entry.file_size for entry in entries)
            if total > MAX_ZIP_BYTES:
                raise BadInput(path, f"unpacks to {total} bytes, expected at most {MAX_ZIP_BYTES}")
            for entry in sorted(entries, key=lambda entry: entry.filename):
                try:
                    data = archive.read(entry)
                except _ZIP_DAMAGE as error:
                    raise BadInput(path, f"the zip is damaged at entry {entry.filename!r} ({error})") from error
                if _is_slice(Path(entry.filename).name, content_kind(data[:HEAD])):
                    yield entry.filename, data
    except _ZIP_DAMAGE as error:
        raise BadInput(path, f"is not a readable zip ({error})") from error


def _is_slice(name: str, kind: str) -> bool:
    """Whether a file counts as a slice: it is DICOM by its content, or does not accompany a series by its name."""
    return not name.startswith(".") and (kind == "dicom" or (kind != "dicomdir" and not accompanies(name)))


def _read_slice(path: Path, name: str, data: bytes) -> FileDataset:
    try:
        return read_dataset(data)
    except InvalidDicomError as error:
        raise BadInput(path, f"{name} is not a DICOM file, expected only slices of one CT series") from error
    except DAMAGE as error:
        raise BadInput(path, f"{name} is a damaged DICOM file ({error})") from error


def _number(path: Path, name: str, ds: FileDataset, keyword: str, count: int = 1) -> np.ndarray:
    """A numeric element as (count,) float64, or a BadInput that names it."""
    try:
        value = ds.get(keyword)
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64)) if value is not None else np.empty(0)
    except DAMAGE as error:
        raise BadInput(path, f"{name} has an unreadable {keyword} ({error})") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise BadInput(path, f"{name} has no {keyword}, expected {count} finite number{'s' if count > 1 else ''}")
    return numbers


def _check_slice(path: Path, name: str, ds: FileDataset) -> None:
    """Check what one slice says about itself."""
    modality = str(ds.get("Modality", "")).strip()
    if modality != "CT":
        raise BadInput(path, f"{name} has modality {modality or 'missing'!r}, expected CT")
    if "PixelData" not in ds:
        raise BadInput(path, f"{name} has no pixel data, its header is all there is")
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise BadInput(
            path, f"{name} is a multi-frame image of {ds.NumberOfFrames} frames, expected one slice per file"
        )
    if int(ds.get("SamplesPerPixel") or 1) != 1 or ds.get("PhotometricInterpretation") != "MONOCHROME2":
        raise BadInput(
            path, f"{name} has photometry {ds.get('PhotometricInterpretation')!r}, expected MONOCHROME2 for CT"
        )
    if int(ds.get("Rows") or 0) < 1 or int(ds.get("Columns") or 0) < 1:
        raise BadInput(path, f"{name} is {ds.get('Columns')} x {ds.get('Rows')} pixels, expected at least 1 x 1")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if ds.get(keyword) is None:
            raise BadInput(path, f"{name} has no {keyword}, expected a slope and an intercept to HU")
    if _number(path, name, ds, "RescaleSlope")[0] == 0:
        raise BadInput(path, f"{name} has RescaleSlope 0, expected a slope to HU")
    if not ds.get("SeriesInstanceUID"):
        raise BadInput(path, f"{name} has no SeriesInstanceUID, expected slices of one series")


def patient_id(ds: FileDataset) -> str:
    """PatientID without padding, empty if there is none."""
    return str(ds.get("PatientID") or "").strip()


def _check_one_series(path: Path, slices: list[tuple[str, FileDataset]]) -> None:
    """Check that all slices belong together, each against the first."""
    (first_name, first), rest = slices[0], slices[1:]
    orientation = _number(path, first_name, first, "ImageOrientationPatient", 6)
    spacing = _number(path, first_name, first, "PixelSpacing", 2)
    rows, columns = orientation.reshape(2, 3)
    lengths_and_angle = [rows @ rows - 1, columns @ columns - 1, rows @ columns]
    if np.abs(lengths_and_angle).max() > 10 * _ORIENTATION_TOLERANCE:
        raise BadInput(
            path, f"{first_name} has ImageOrientationPatient {orientation.tolist()}, expected two unit vectors"
        )
    patients = {name: patient_id(ds) for name, ds in slices}
    for name, patient in patients.items():
        # None at all is an anonymised series, which can be predicted; preparation refuses it.
        if not patient and any(patients.values()):
            raise BadInput(path, f"{name} has no PatientID, expected that of the other slices")
        if patient != patients[first_name]:
            raise BadInput(path, f"mixes two patients, {first_name} and {name} differ in PatientID")
    for name, ds in rest:
        if ds.SeriesInstanceUID != first.SeriesInstanceUID:
            raise BadInput(path, f"mixes two series, {first_name} and {name} differ in SeriesInstanceUID")
    for keyword in _RECONSTRUCTION:
        told = [(name, value) for name, ds in slices if (value := _text(ds, keyword))]
        for name, value in told:
            if value != told[0][1]:
                raise BadInput(
                    path,
                    f"mixes two series under one SeriesInstanceUID, {told[0][0]} and {name} differ in {keyword} "
                    f"({told[0][1]}, {value})",
                )
    for name, ds in rest:
        sizes = [(item.get("Columns"), item.get("Rows")) for item in (first, ds)]
        if sizes[0] != sizes[1]:
            raise BadInput(
                path, f"has slices of unequal size, {first_name} is {sizes[0]} and {name} is {sizes[1]} pixels"
            )
        for keyword, expected in (("ImageOrientationPatient", orientation), ("PixelSpacing", spacing)):
            found = _number(path, name, ds, keyword, len(expected))
            if np.abs(found - expected).max() > _ORIENTATION_TOLERANCE:
                raise BadInput(
                    path, f"{name} has {keyword} {found.tolist()}, expected {expected.tolist()} as in {first_name}"
                )


def _text(ds: FileDataset, keyword: str) -> str:
    """An element as text in which 120 and 120.0 are alike, "" where it is missing or empty."""
    value = ds.get(keyword)
    parts = [] if value is None else value if isinstance(value, MultiValue) else [value]
    return "/".join(f"{part:g}" if isinstance(part, float) else str(part).strip() for part in parts)


def _check_one_acquisition(path: Path, slices: list[tuple[str, FileDataset]]) -> None:
    """Check, of slices in their order, that no acquisition begins before the one below it has ended.

    A scanner that halts between slices counts each stop, so one series may be of many acquisitions, one above the
    other. Two that cover the same body are two series, whose slices would lie in turn.
    """
    told = [(name, number) for name, ds in slices if (number := _text(ds, "AcquisitionNumber"))]
    ended: set[str] = set()
    for (below, before), (name, number) in zip(told, told[1:], strict=False):
        if number == before:
            continue
        ended.add(before)
        if number in ended:
            raise BadInput(
                path,
                f"mixes two series under one SeriesInstanceUID, {below} and {name} are of the acquisitions {before} "
                f"and {number}, which overlap along the body",
            )


def _sort_slices(path: Path, slices: list[tuple[str, FileDataset]]) -> tuple[list[tuple[str, FileDataset]], np.ndarray]:
    """Order the slices along their normal and give the affine (4, 4) to RAS mm of the stack."""
    rows, columns = _number(path, *slices[0], "ImageOrientationPatient", 6).reshape(2, 3)
    normal = np.cross(rows, columns)
    origins = np.array([_number(path, name, ds, "ImagePositionPatient", 3) for name, ds in slices])
    order = np.argsort(origins @ normal, kind="stable")
    slices, origins = [slices[i] for i in order], origins[order]
    names = [name for name, _ in slices]
    heights = origins @ normal
    _check_one_acquisition(path, slices)
    steps = np.diff(heights)
    if (steps < 0.01).any():
        i = int(np.argmax(steps < 0.01))
        raise BadInput(path, f"has a duplicated position, {names[i]} and {names[i + 1]} both lie at {heights[i]:g} mm")

    aside = origins - origins[0] - np.outer(heights - heights[0], normal)
    shift = np.linalg.norm(aside, axis=1)
    allowed = 0.02 + np.tan(np.radians(TILT_DEGREES)) * (heights - heights[0])
    if (shift > allowed).any():
        i = int(np.argmax(shift - allowed))
        raise BadInput(
            path,
            f"has a gantry tilt, {names[i]} is shifted {shift[i]:.3g} mm within its plane against {names[0]}, expected "
            "slices stacked along their normal",
        )
    # Positions are often rounded to a tenth of a millimetre; a missing slice makes a step of at least twice the usual.
    usual = float(np.median(steps))
    tolerance = max(0.05 * usual, min(0.11, 0.3 * usual))
    if (np.abs(steps - usual) > tolerance).any():
        i = int(np.argmax(np.abs(steps - usual)))
        what = "a gap (a missing slice)" if steps[i] > usual else "an uneven step"
        raise BadInput(
            path, f"has {what} of {steps[i]:.4g} mm between {names[i]} and {names[i + 1]}, expected {usual:.4g} mm"
        )

    row_step, column_step = _number(path, *slices[0], "PixelSpacing", 2)
    to_lps = np.eye(4)
    to_lps[:3, 0] = rows * column_step
    to_lps[:3, 1] = columns * row_step
    to_lps[:3, 2] = (origins[-1] - origins[0]) / (len(slices) - 1)
    to_lps[:3, 3] = origins[0]
    sizes = checked_spacing(path, [column_step, row_step, np.linalg.norm(to_lps[:3, 2])])
    shape = (int(slices[0][1].Columns), int(slices[0][1].Rows), len(slices))
    return slices, checked_affine(path, LPS_TO_RAS @ to_lps, sizes, shape)


def _read_plane(path: Path, name: str, ds: FileDataset) -> np.ndarray:
    """Decode one slice to HU, (rows, columns) int16 or float32."""
    try:
        syntax = ds.file_meta.get("TransferSyntaxUID")
        if syntax in _NATIVE:
            needed = int(ds.Rows) * int(ds.Columns) * int(ds.BitsAllocated) // 8
            if len(ds.PixelData) < needed:
                raise BadInput(path, f"{name} has corrupt pixel data, {len(ds.PixelData)} of {needed} bytes")
        pixels, padding = stored_values(path, ds, name)
    except BadInput:
        raise
    except DAMAGE as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(path, f"{name} has corrupt pixel data ({first_line})") from error
    if pixels.shape != (ds.Rows, ds.Columns):
        raise BadInput(path, f"{name} has pixels of shape {pixels.shape}, expected {(ds.Rows, ds.Columns)}")
    slope, intercept = (float(_number(path, name, ds, keyword)[0]) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if padding is None:
        return rescale(pixels, slope, intercept)
    image = pixels[~padding]
    # Rescaled without the padding, which may be what no type of HU holds.
    hu = rescale(np.where(padding, image[0] if image.size else pixels.dtype.type(0), pixels), slope, intercept)
    hu[padding] = HU_FLOOR
    return hu
