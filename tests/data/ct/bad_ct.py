"""Write 25 CT inputs that must be refused, one kind of damage each, and tiny CTs that must not.

Importable as a plain module: `from tests.data.ct.bad_ct import write_bad_ct`; a benchmark uses it too.
"""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import JPEG2000MC, CTImageStorage, ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter

SPACING = (1.5, 1.5, 2.5)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
"""What a DICOM series of `write_series` at its default position reads back as."""

BAD_KEYWORDS = {
    "nifti_truncated_gzip": "truncated gzip",
    "nifti_empty_file": "empty file",
    "nifti_nan_and_inf": "3 NaN and 2 infinite voxels",
    "nifti_constant": "constant volume",
    "nifti_2d": "2-D",
    "nifti_4d": "4-D",
    "nifti_zero_spacing": "zero spacing",
    "nifti_negative_spacing": "negative spacing",
    "nifti_singular_affine": "singular affine",
    "nifti_unreadable_header": "unreadable header",
    "nifti_wrong_magic": "wrong magic",
    "dicom_missing_slice": "gap (a missing slice) of 5 mm between slice_004.dcm and slice_006.dcm",
    "dicom_duplicated_position": "duplicated position, slice_005.dcm and slice_006.dcm",
    "dicom_two_series": "mixes two series, slice_000.dcm and slice_006.dcm",
    "dicom_no_rescale": "slice_000.dcm has no RescaleSlope",
    "dicom_not_ct": "slice_000.dcm has modality 'MR'",
    "dicom_no_decoder": "no decoder",
    "dicom_unequal_sizes": "unequal size, slice_000.dcm is (20, 24) and slice_007.dcm is (20, 22)",
    "dicom_gantry_tilt": "gantry tilt",
    "dicom_lone_slice": "lone slice (slice_000.dcm)",
    "dicom_corrupt_pixels": "slice_003.dcm has corrupt pixel data",
    "dicom_damaged_zip": "zip is damaged at entry 'series/slice_004.dcm'",
    "dicom_escaping_zip": "entry '../slice_003.dcm' points outside",
    "dicom_no_patient": "has no PatientID in any slice",
    "dicom_two_patients": "mixes two patients, slice_000.dcm and slice_006.dcm",
}
"""Case name -> what its reason in excluded.csv must say."""


def tiny_hu(seed: int = 0, shape: Sequence[int] = (20, 24, 12)) -> np.ndarray:
    """A smooth random volume (x, y, z) int16 between air and bone."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    ranks = noise.ravel().argsort().argsort().reshape(shape) / (noise.size - 1)
    return np.interp(ranks, [0, 0.3, 0.5, 0.9, 1], [-1000, -850, -60, 60, 900]).round().astype(np.int16)


def write_volume(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """Write a NIfTI with nibabel alone, so that the reader is not tested against its own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(tiny_hu() if array is None else array, affine), path)
    return path


def tiny_series(seed: int = 0, patient: str = "P1", hu: np.ndarray | None = None) -> list[FileDataset]:
    """The slices of a CT series, bottom first, stored as HU + 1024 in unsigned 16 bit."""
    hu = tiny_hu(seed) if hu is None else hu
    slices = []
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{seed}.{k + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.Modality, ds.PatientID, ds.PatientName = "CT", patient, "Nobody"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{seed}", f"1.2.3.{seed}.0"
        ds.InstanceNumber = k + 1
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-20, -30, -40 + 2.5 * k]
        ds.PixelSpacing, ds.SliceThickness = [1.5, 1.5], 2.5
        ds.Rows, ds.Columns = hu.shape[1], hu.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = (hu[:, :, k].T.astype(np.int32) + 1024).astype("<u2").tobytes()
        slices.append(ds)
    return slices


def write_series(folder: Path, slices: list[FileDataset] | None = None) -> Path:
    """Write slices as folder/slice_000.dcm and on."""
    folder.mkdir(parents=True)
    for k, ds in enumerate(tiny_series() if slices is None else slices):
        ds.save_as(folder / f"slice_{k:03d}.dcm", enforce_file_format=True)
    return folder


def write_zip(path: Path, slices: list[FileDataset] | None = None, prefix: str = "series/") -> Path:
    """Write slices into a zip, stored without compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for k, ds in enumerate(tiny_series() if slices is None else slices):
            buffer = io.BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            archive.writestr(f"{prefix}slice_{k:03d}.dcm", buffer.getvalue())
    return path


def write_good_ct(folder: Path) -> dict[str, Path]:
    """Write 20 inputs that must be kept: 10 NIfTI files, 8 DICOM folders, 2 DICOM zips."""
    paths = {f"good_n{i}": write_volume(folder / f"good_n{i}.nii.gz", tiny_hu(100 + i)) for i in range(10)}
    for i in range(8):
        paths[f"good_d{i}"] = write_series(folder / f"good_d{i}", tiny_series(200 + i, patient=f"D{i // 2}"))
    for i in range(2):
        paths[f"good_z{i}"] = write_zip(folder / f"good_z{i}.zip", tiny_series(300 + i, patient=f"Z{i}"))
    return paths


def write_bad_ct(folder: str | Path) -> dict[str, Path]:
    """Write the 25 inputs of `BAD_KEYWORDS`, each as folder/NAME, NAME.nii.gz or NAME.zip; give their paths by name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = _write_bad_nifti(folder) | _write_bad_dicom(folder)
    assert set(paths) == set(BAD_KEYWORDS)
    return paths


def _patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes of the header inside a .nii.gz."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(data)] = data
    path.write_bytes(gzip.compress(bytes(raw), 1, mtime=0))
    return path


def _write_bad_nifti(folder: Path) -> dict[str, Path]:
    hu = tiny_hu(1)
    holes = hu.astype(np.float32)
    holes[3, 4, 5:8], holes[7, 7, 2:4] = np.nan, (np.inf, -np.inf)
    flat = AFFINE.copy()
    flat[:3, 2] = 2.5 * flat[:3, 1] / 1.5
    arrays = {
        "nifti_truncated_gzip": hu,
        "nifti_nan_and_inf": holes,
        "nifti_constant": np.full_like(hu, -1000),
        "nifti_2d": hu[:, :, 4],
        "nifti_4d": np.stack([hu, hu], axis=-1),
        "nifti_zero_spacing": hu,
        "nifti_negative_spacing": hu,
        "nifti_singular_affine": hu,
        "nifti_unreadable_header": hu,
        "nifti_wrong_magic": hu,
    }
    paths = {name: write_volume(folder / f"{name}.nii.gz", array) for name, array in arrays.items()}
    path = paths["nifti_truncated_gzip"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    paths["nifti_empty_file"] = folder / "nifti_empty_file.nii.gz"
    paths["nifti_empty_file"].write_bytes(b"")
    # Offsets of the NIfTI-1 header: size field 0, pixdim[3] 88, three sform rows 280, magic 344.
    _patch(paths["nifti_zero_spacing"], 88, struct.pack("<f", 0))
    _patch(paths["nifti_negative_spacing"], 88, struct.pack("<f", -2.5))
    _patch(paths["nifti_singular_affine"], 280, flat[:3].astype("<f4").tobytes())
    _patch(paths["nifti_unreadable_header"], 0, bytes(range(200, 240)))
    _patch(paths["nifti_wrong_magic"], 344, b"abc\0")
    return paths


def _write_bad_dicom(folder: Path) -> dict[str, Path]:
    paths = {}

    def series(name: str, change: Callable[[list[FileDataset]], object], seed: int) -> Path:
        slices = tiny_series(seed, patient=f"bad-{seed}")
        change(slices)
        paths[name] = write_series(folder / name, slices)
        return paths[name]

    def each(keyword: str, value: object, start: int = 0) -> Callable[[list[FileDataset]], None]:
        def change(slices: list[FileDataset]) -> None:
            for ds in slices[start:]:
                setattr(ds, keyword, value)

        return change

    def without_rescale(slices: list[FileDataset]) -> None:
        for ds in slices:
            del ds.RescaleSlope, ds.RescaleIntercept

    def compressed(slices: list[FileDataset]) -> None:
        for ds in slices:
            ds.file_meta.TransferSyntaxUID = JPEG2000MC  # pydicom and its plugins have no decoder for it
            ds.PixelData = pydicom.encaps.encapsulate([bytes(range(256))])
            ds["PixelData"].VR = "OB"

    def smaller_slice(slices: list[FileDataset]) -> None:
        slices[7].Rows = 22
        slices[7].PixelData = slices[7].PixelData[: 22 * 20 * 2]

    def tilted(slices: list[FileDataset]) -> None:
        for k, ds in enumerate(slices):
            ds.ImagePositionPatient = [-20, -30 + 0.6 * k, -40 + 2.5 * k]

    def same_position(slices: list[FileDataset]) -> None:
        slices[6].ImagePositionPatient = slices[5].ImagePositionPatient

    gap = series("dicom_missing_slice", lambda slices: None, 1)
    (gap / "slice_005.dcm").unlink()
    series("dicom_duplicated_position", same_position, 2)
    series("dicom_two_series", each("SeriesInstanceUID", "1.2.3.99", 6), 3)
    series("dicom_no_rescale", without_rescale, 4)
    series("dicom_not_ct", each("Modality", "MR"), 5)
    series("dicom_no_decoder", compressed, 6)
    series("dicom_unequal_sizes", smaller_slice, 7)
    series("dicom_gantry_tilt", tilted, 8)
    lone = series("dicom_lone_slice", lambda slices: None, 9)
    for path in sorted(lone.iterdir())[1:]:
        path.unlink()
    corrupt = series("dicom_corrupt_pixels", lambda slices: None, 10) / "slice_003.dcm"
    corrupt.write_bytes(corrupt.read_bytes()[:-300])
    series("dicom_no_patient", each("PatientID", ""), 11)
    series("dicom_two_patients", each("PatientID", "bad-other", 6), 12)

    damaged = write_zip(folder / "dicom_damaged_zip.zip", tiny_series(13, patient="bad-13"))
    with zipfile.ZipFile(damaged) as archive:
        offset = archive.getinfo("series/slice_004.dcm").header_offset
    raw = bytearray(damaged.read_bytes())
    raw[offset + 600 : offset + 640] = bytes(40)
    damaged.write_bytes(raw)
    paths["dicom_damaged_zip"] = damaged

    escaping = write_zip(folder / "dicom_escaping_zip.zip", tiny_series(14, patient="bad-14"))
    inside = escaping.with_suffix(".tmp")
    with zipfile.ZipFile(escaping) as source, zipfile.ZipFile(inside, "w") as target:
        for entry in source.namelist():
            target.writestr(entry.replace("series/", "../") if "003" in entry else entry, source.read(entry))
    shutil.move(inside, escaping)
    paths["dicom_escaping_zip"] = escaping
    return paths
