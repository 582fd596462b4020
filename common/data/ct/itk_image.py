"""Read NRRD and MetaImage with SimpleITK, checking first what ITK passes over or fills in without a word.

ITK reads on past damage in compressed voxels, takes a missing spacing for 1 mm and a missing orientation for the axes
of the patient, and ignores the slope of a MetaImage. The text of the header and zlib tell.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.ct.volume import (
    LPS_TO_RAS,
    check_length,
    checked_affine,
    checked_shape,
    checked_spacing,
    read_file,
    rescale,
)
from common.io.bad_input import BadInput

_LONGEST_HEADER = 2**20
_FIELD = re.compile(rb"^[ \t]*(\w[\w \t]*?)[ \t]*(?:=|:(?!=))[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_END = {True: re.compile(rb"\r?\n\r?\n"), False: re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:].*\n?", re.MULTILINE)}
"""What ends a header: of NRRD (True) an empty line, of MetaImage the line that says where the voxels are."""
_GEOMETRY = {
    True: (("space",), ("space directions",)),
    False: (("ElementSpacing", "ElementSize"), ("TransformMatrix", "Rotation", "Orientation")),
}


@dataclass(frozen=True)
class _Header:
    """Fields of a header by name, the file that holds the voxels, and the byte from which it does."""

    is_nrrd: bool
    fields: dict[str, str]
    data: Path
    start: int


def load_itk(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read voxels and geometry without asking whether the values are HU.

    Args:
        path: *.nrrd, *.nhdr, *.mha or *.mhd, read only; a separate data file lies beside it.

    Returns:
        Values (x, y, z) int16 or float32, writable; affine (4, 4) float64 to RAS mm.

    Raises:
        BadInput: if the file is damaged or its header contradicts itself.
    """
    import SimpleITK as sitk  # here, since its quarter of a second is nothing that other formats should wait for

    path = Path(path)
    header = _read_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if header.is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise BadInput(path, f"has an unreadable header ({_last_line(error)})") from error
    shape, axes = checked_shape(path, reader.GetSize()), reader.GetDimension()
    if reader.GetNumberOfComponents() != 1:
        raise BadInput(path, f"holds {reader.GetNumberOfComponents()} values in a voxel, expected 1")
    for names in _GEOMETRY[header.is_nrrd]:
        if not any(name in header.fields for name in names) or "none" in header.fields.get(names[0], ""):
            raise BadInput(path, f"has no {names[0]} for each axis, so its geometry is unknown")
    if header.is_nrrd and reader.GetMetaData("NRRD_space") != "left-posterior-superior":  # ITK turns others into it
        raise BadInput(path, f"is in the space {header.fields['space']!r}, so left and right are unknown")
    units = set(re.findall(r'"(.*?)"', header.fields.get("space units", "")))
    if not units <= {"", "mm"}:
        raise BadInput(path, f"gives its spacing in {', '.join(sorted(units))}, expected mm")
    spacing = checked_spacing(path, reader.GetSpacing()[:3])
    to_lps = np.eye(4)
    to_lps[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * spacing
    to_lps[:3, 3] = reader.GetOrigin()[:3]
    affine = checked_affine(path, LPS_TO_RAS @ to_lps, spacing, shape)
    voxel = sitk.Image([1] * 3, reader.GetPixelID())
    check_length(path, shape, voxel.GetSizeOfPixelComponent(), _bytes_of_voxels(path, header))
    try:
        stored = sitk.GetArrayFromImage(reader.Execute()).reshape(shape[::-1]).T
        slope = float(header.fields.get("ElementToIntensityFunctionSlope", 1))
        return rescale(stored, slope, float(header.fields.get("ElementToIntensityFunctionOffset", 0))), affine
    except (RuntimeError, ValueError) as error:
        raise BadInput(path, f"cannot be read ({_last_line(error)})") from error


def data_file(path: Path) -> Path | None:
    """The file that holds the voxels of a header and lies beside it, None if there is none."""
    try:
        data = _read_header(path).data
    except BadInput:
        return None
    return None if data == path else data


def _read_header(path: Path) -> _Header:
    head = read_file(path, _LONGEST_HEADER)
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    if head.startswith(b"NRRD000") != is_nrrd:
        raise BadInput(path, f"has the wrong magic {head[:8]!r}, expected {'NRRD' if is_nrrd else 'a MetaImage'}")
    end = _END[is_nrrd].search(head)
    fields = {
        name.decode(): value.decode("utf-8", "replace")
        for name, value in _FIELD.findall(head, 0, end.end() if end else len(head))
    }
    name = fields.get("data file", fields.get("datafile")) if is_nrrd else fields.get("ElementDataFile", "")
    if end is None and not (is_nrrd and name):
        raise BadInput(path, f"has an unreadable header, which does not end within {len(head)} bytes")
    if name is None or name.upper() == "LOCAL":
        return _Header(is_nrrd, fields, path, end.end())
    data = path.with_name(name) if name == Path(name).name else None
    if data is None or not data.is_file():
        raise BadInput(path, f"names the data file {name!r}, expected one file beside it")
    return _Header(is_nrrd, fields, data, 0)


def _bytes_of_voxels(path: Path, header: _Header) -> int:
    """How many bytes of voxels there are, decompressed to know that they are whole."""
    fields = header.fields
    encoding = fields.get("encoding", "gzip" if _is_true(fields.get("CompressedData")) else "raw")
    if encoding not in ("raw", "gzip", "gz") or not _is_true(fields.get("BinaryData", "True")):
        raise BadInput(path, f"stores its voxels as {fields.get('encoding', 'text')}, expected raw or gzip")
    if encoding == "raw":
        return header.data.stat().st_size - header.start
    packed = read_file(header.data)[header.start :]
    stream = zlib.decompressobj(wbits=47)  # gzip of NRRD or zlib of MetaImage, told apart by their first bytes
    try:
        held = len(stream.decompress(packed))
    except zlib.error as error:
        raise BadInput(path, f"is damaged, its compressed voxels cannot be read ({error})") from error
    if not stream.eof:
        raise BadInput(path, f"is truncated, its compressed voxels end after {len(packed)} bytes")
    return held


def _is_true(value: str | None) -> bool:
    return (value or "").startswith(("T", "t", "1"))


def _last_line(error: Exception) -> str:
    """What ITK says at the end of an error, without the address of the object that says it."""
    return re.sub(r"^.*\(0x[0-9a-f]+\): ", "", str(error).strip().splitlines()[-1])
