"""Writes virtual patients in the layouts of real CT data: NIfTI folders, DICOM series and the CT-RATE tree.

Every writer keeps what an earlier call with the same parameters completed and refuses a folder with other content.
Files appear under their final name only when they are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.uid import CTImageStorage

from common.data.virtual.files import VERSION, claim, for_each, save_csv, virtual_uid
from common.data.virtual.geometry import Grid, stream
from common.data.virtual.patient import (
    CT_RATE_LABELS,
    SHAPE,
    SPACING,
    VirtualPatient,
    lesion_map,
    make_virtual_patient,
    thick_reconstruction,
    virtual_labels,
    virtual_person,
)
from common.io.output_folder import atomic_path
from common.io.table import read_rows
from common.text.ct_template import ct_report

__all__ = [
    "CT_RATE_METADATA_COLUMNS", "CT_RATE_REPORT_COLUMNS", "VERSION", "template_report", "write_ct_rate", "write_dicom",
    "write_nifti",
]  # fmt: skip

CT_RATE_THICK_RATIO = 2
NOT_GIVEN = "Not given."
CT_RATE_REPORT_COLUMNS = ("VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN")
CT_RATE_METADATA_COLUMNS = (
    "VolumeName", "Manufacturer", "SeriesDescription", "ManufacturerModelName", "PatientSex", "PatientAge",
    "ReconstructionDiameter", "DistanceSourceToDetector", "DistanceSourceToPatient", "GantryDetectorTilt",
    "TableHeight", "RotationDirection", "ExposureTime", "XRayTubeCurrent", "Exposure", "FilterType", "GeneratorPower",
    "FocalSpots", "ConvolutionKernel", "PatientPosition", "RevolutionTime", "SingleCollimationWidth",
    "TotalCollimationWidth", "TableSpeed", "TableFeedPerRotation", "SpiralPitchFactor", "DataCollectionCenterPatient",
    "ReconstructionTargetCenterPatient", "ExposureModulationType", "CTDIvol", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns",
    "XYSpacing", "RescaleIntercept", "RescaleSlope", "RescaleType", "NumberofSlices", "ZSpacing", "StudyDate",
)  # fmt: skip

Row = dict[str, Any]


def write_nifti(
    output_dir: str | Path,
    n: int,
    seed: int = 0,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    workers: int = 1,
) -> list[Row]:
    """Write ``images/``, ``regions/``, ``lesions/`` (CASE.nii.gz each) and ``labels.csv``.

    Args:
        output_dir: a folder that is new, or was written by the same call before.
        n: number of patients; patient i has the seed ``seed + i``.
        seed: seed of the first patient.
        shape: voxels along (z, y, x).
        spacing: millimetres along (z, y, x).
        workers: processes that make patients.

    Returns:
        One row per patient: case, patient, split, image, regions, lesions (paths relative to ``output_dir``), seed,
        sex and age.

    Raises:
        ValueError: if an argument is not usable.
        FileExistsError: if the folder holds something else.
    """
    out = claim(output_dir, "nifti", n, seed, shape, spacing)
    rows = [_person(seed + i, _split(i, n)) for i in range(n)]
    for row in rows:
        row |= {name: f"{folder}/{row['case']}.nii.gz" for name, folder in
                (("image", "images"), ("regions", "regions"), ("lesions", "lesions"))}  # fmt: skip
    for_each(partial(_make_nifti, out=out, shape=shape, spacing=spacing), rows, workers, "nifti", "patient")
    _save_labels(out / "labels.csv", "case", ((row["case"], virtual_labels(row["seed"])) for row in rows))
    return rows


def _make_nifti(row: Row, out: Path, shape: Sequence[int], spacing: Sequence[float]) -> None:
    if not all((out / row[name]).exists() for name in ("image", "regions", "lesions")):
        patient = make_virtual_patient(row["seed"], shape, spacing)
        volumes = {"image": patient.ct, "regions": patient.regions, "lesions": lesion_map(patient)}
        for name, volume in volumes.items():
            _save_nifti(out / row[name], volume, patient.affine)


def write_dicom(
    output_dir: str | Path,
    n: int,
    seed: int = 0,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    workers: int = 1,
) -> list[Row]:
    """Write ``dicom/PATIENT/SERIES/*.dcm`` (file names in no order) and ``labels.csv``.

    Args:
        output_dir: a folder that is new, or was written by the same call before.
        n: number of patients; patient i has the seed ``seed + i``.
        seed: seed of the first patient.
        shape: voxels along (z, y, x).
        spacing: millimetres along (z, y, x).
        workers: processes that make patients.

    Returns:
        One row per patient: case, patient, split, image (the folder of the series, relative), seed, sex and age.

    Raises:
        ValueError: if an argument is not usable.
        FileExistsError: if the folder holds something else.
    """
    out = claim(output_dir, "dicom", n, seed, shape, spacing)
    rows = [_person(seed + i, _split(i, n)) for i in range(n)]
    for row in rows:
        row["image"] = f"dicom/{row['patient']}/series_001"
    for_each(partial(_make_series, out=out, shape=shape, spacing=spacing), rows, workers, "dicom", "patient")
    _save_labels(out / "labels.csv", "case", ((row["case"], virtual_labels(row["seed"])) for row in rows))
    return rows


def _make_series(row: Row, out: Path, shape: Sequence[int], spacing: Sequence[float]) -> None:
    if not (out / row["image"]).exists():
        with atomic_path(out / row["image"]) as part:
            part.mkdir()
            _save_series(part, make_virtual_patient(row["seed"], shape, spacing))


def write_ct_rate(
    output_dir: str | Path,
    n: int,
    seed: int = 0,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    workers: int = 1,
    report: Callable[[VirtualPatient], dict[str, str]] | None = None,
) -> list[Row]:
    """Write the tree of CT-RATE under ``dataset/``: fixed volumes (HU), labels, reports and metadata.

    Every sixth scan is a second scan ("b") of the patient before, every fourth has a second, thick reconstruction.

    Args:
        output_dir: a folder that is new, or was written by the same call before.
        n: number of scans; about a fifth of them is in the validation split.
        seed: seed of the first patient.
        shape: voxels along (z, y, x) of the first reconstruction.
        spacing: millimetres along (z, y, x) of the first reconstruction.
        workers: processes that make scans.
        report: returns report columns of a patient (without VolumeName); what it leaves out is "Not given.". By
            default those of ``template_report``, of which every fifth scan lacks the clinical information.

    Returns:
        One row per scan: case, patient, split, image (first reconstruction, relative path), seed, sex and age.

    Raises:
        ValueError: if an argument is not usable.
        FileExistsError: if the folder holds something else.
    """
    out = claim(output_dir, "ct_rate", n, seed, shape, spacing)
    root = out / "dataset"
    rows: list[Row] = []
    for split, long_name, scans in _ct_rate_scans(n, seed):
        labels, reports, metadata = [], [], []
        report_path = root / "radiology_text_reports" / f"{long_name}_reports.csv"
        # A table written before, which holds every scan, saves making the patients again for their reports.
        known = {} if report else _read_reports(report_path)
        make = partial(_make_scan, folder=root / f"{split}_fixed", shape=shape, spacing=spacing, report=report)
        items = [(k, split, scan, known) for k, scan in enumerate(scans)]
        texts = for_each(make, items, workers, f"ct_rate {split}", "scan")
        for k, ((number, letter, person, scan), text) in enumerate(zip(scans, texts, strict=True)):
            names = _scan_files(k, split, number, letter)
            row = _person(person, split) | {"case": names[0].removesuffix(".nii.gz"), "patient": f"{split}_{number}"}
            folder = root / f"{split}_fixed" / row["patient"] / f"{split}_{number}_{letter}"
            row["image"] = (folder / names[0]).relative_to(out).as_posix()
            rows.append(row)
            for r, name in enumerate(names):
                labels.append((name, virtual_labels(person, scan)))
                reports.append({"VolumeName": name} | text)
                metadata.append(_ct_rate_metadata(name, row, Grid.fit(shape, spacing), r, blank_z=k % 7 == 6))
        _save_labels(root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv", "VolumeName", labels)
        save_csv(report_path, CT_RATE_REPORT_COLUMNS, reports)
        save_csv(root / "metadata" / f"{long_name}_metadata.csv", CT_RATE_METADATA_COLUMNS, metadata)
        with atomic_path(root / "metadata" / f"no_chest_{split}.txt") as part:
            part.write_text("")
    return rows


def _scan_files(k: int, split: str, number: int, letter: str) -> list[str]:
    """Names of the reconstructions of the scan of index k."""
    return [f"{split}_{number}_{letter}_{r}.nii.gz" for r in ((1, 2) if k % 4 == 3 else (1,))]


def _make_scan(
    item: tuple[int, str, tuple[int, str, int, int], dict[str, Row]],
    folder: Path,
    shape: Sequence[int],
    spacing: Sequence[float],
    report: Callable[[VirtualPatient], dict[str, str]] | None,
) -> dict[str, str]:
    """Write the reconstructions of a scan that are not there, and return the columns of its report."""
    k, split, (number, letter, person, scan), known = item
    names = _scan_files(k, split, number, letter)
    folder = folder / f"{split}_{number}" / f"{split}_{number}_{letter}"
    text = dict.fromkeys(CT_RATE_REPORT_COLUMNS[1:], NOT_GIVEN) | known.get(names[0], {})
    if not known or not all((folder / name).exists() for name in names):
        patient = make_virtual_patient(person, shape, spacing, scan=scan)
        text |= (report or template_report)(patient)
        if not report and k % 5 == 4:
            text["ClinicalInformation_EN"] = NOT_GIVEN
        volumes = [(patient.ct, patient.affine), thick_reconstruction(patient, CT_RATE_THICK_RATIO)]
        for name, (volume, affine) in zip(names, volumes, strict=False):
            if not (folder / name).exists():
                _save_nifti(folder / name, volume, affine)
    return text


def template_report(patient: VirtualPatient) -> dict[str, str]:
    """Return the report columns of CT-RATE (without VolumeName) that a template writes of a patient's findings."""
    seed = patient.seed * 100 + patient.scan
    return ct_report(patient.findings, patient.labels, patient.sex, patient.age, seed).ct_rate_columns()


def _read_reports(path: Path) -> dict[str, Row]:
    if not path.exists():
        return {}
    return {row.pop("VolumeName"): row for _, row in read_rows(path, ["VolumeName"])}


def _valid_count(n: int) -> int:
    """A fifth of the cases is for validation, at least one of two or more."""
    return max(n // 5, int(n > 1))


def _split(i: int, n: int) -> str:
    return "valid" if i >= n - _valid_count(n) else "train"


def _person(seed: int, split: str) -> Row:
    sex, age = virtual_person(seed)
    case = f"virtual_{seed:06d}"
    return {"case": case, "patient": case, "split": split, "image": "", "seed": seed, "sex": sex, "age": age}


def _save_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(volume, affine)  # a .gz is written with nibabel's compression level, 1
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as part:
        nib.save(image, part)


def _save_labels(path: Path, key: str, rows: Iterable[tuple[str, Sequence[str]]]) -> None:
    table = ({key: name} | {label: int(label in present) for label in CT_RATE_LABELS} for name, present in rows)
    save_csv(path, (key, *CT_RATE_LABELS), table)


def _save_series(folder: Path, patient: VirtualPatient) -> None:
    """Write one CT Image Storage file per slice; names are shuffled, instances count from the top."""
    import SimpleITK as sitk  # here, since its quarter of a second is nothing that other layouts should wait for

    key = (patient.case, patient.ct.shape, patient.spacing, VERSION)
    slices = patient.ct.shape[2]
    names = stream(patient.seed, "dicom names").permutation(slices)
    volume = sitk.GetImageFromArray(patient.ct.T)
    volume.SetSpacing(patient.spacing[::-1])
    volume.SetOrigin(patient.affine[:3, 3] * (-1, -1, 1))
    about = {
        "SOPClassUID": CTImageStorage, "StudyInstanceUID": virtual_uid(*key, "study"),
        "SeriesInstanceUID": virtual_uid(*key, "series"), "FrameOfReferenceUID": virtual_uid(*key, "frame"),
        "PatientID": patient.case, "PatientName": f"Virtual^{patient.seed:06d}", "PatientSex": patient.sex,
        "PatientAge": f"{patient.age:03d}Y", "StudyDate": 20210101, "StudyTime": 120000, "StudyID": 1,
        "AccessionNumber": patient.seed, "Modality": "CT", "Manufacturer": "Virtual",
        "ManufacturerModelName": "virtual_patient", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL", "SeriesNumber": 1,
        "AcquisitionNumber": 1, "SeriesDescription": "Chest thin", "BodyPartExamined": "CHEST",
        "PatientPosition": "HFS", "KVP": 120, "XRayTubeCurrent": 180, "ConvolutionKernel": patient.kernel.upper(),
        "SliceThickness": patient.spacing[0], "SpacingBetweenSlices": patient.spacing[0], "RescaleSlope": 1,
        "RescaleIntercept": -1024, "RescaleType": "HU", "WindowCenter": "-600\\40",
        "WindowWidth": "1500\\400", "PositionReferenceIndicator": "",
    } | ({"ContrastBolusAgent": "iodine"} if patient.contrast else {})  # fmt: skip
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(slices):
        image = volume[:, :, k : k + 1]
        own = {"SOPInstanceUID": virtual_uid(*key, "slice", k), "InstanceNumber": slices - k}
        own["SliceLocation"] = round(image.GetOrigin()[2], 6)
        for keyword, value in (about | own).items():
            tag = tag_for_keyword(keyword)
            image.SetMetaData(f"{tag >> 16:04x}|{tag & 0xFFFF:04x}", str(value))
        writer.SetFileName(str(folder / f"IM{names[k]:05d}.dcm"))
        writer.Execute(image)  # stores (HU - intercept) / slope, and position, orientation and size of the pixels


def _ct_rate_scans(n: int, seed: int) -> Iterator[tuple[str, str, list[tuple[int, str, int, int]]]]:
    """Yield (split, long name, scans); a scan is (patient number in the split, letter, seed, scan of the patient)."""
    valid = _valid_count(n)
    sizes = (("train", "train", n - valid), ("valid", "validation", valid))
    person = seed - 1
    for split, long_name, size in sizes:
        scans, number = [], 0
        for k in range(size):
            again = k % 6 == 5
            if not again:
                person, number = person + 1, number + 1
            scans.append((number, "b" if again else "a", person, int(again)))
        yield split, long_name, scans


def _ct_rate_metadata(name: str, row: Row, grid: Grid, reconstruction: int, blank_z: bool) -> Row:
    depth, height, width = grid.shape
    sz, sy, sx = grid.spacing
    ratio = CT_RATE_THICK_RATIO if reconstruction else 1
    x, y, z = grid.affine[:3, 3] * (-1, -1, 1)
    z += (ratio - 1) / 2 * sz
    known = {
        "VolumeName": name,
        "Manufacturer": "Virtual",
        "SeriesDescription": "Chest thick" if reconstruction else "Chest thin",
        "ManufacturerModelName": "virtual_patient",
        "PatientSex": row["sex"],
        "PatientAge": f"{row['age']:03d}Y",
        "ReconstructionDiameter": round(width * sx, 3),
        "DistanceSourceToDetector": 1085.6,
        "DistanceSourceToPatient": 595,
        "GantryDetectorTilt": 0,
        "TableHeight": 150,
        "RotationDirection": "CW",
        "ExposureTime": 500,
        "XRayTubeCurrent": 180,
        "Exposure": 90,
        "ConvolutionKernel": "SMOOTH",
        "PatientPosition": "HFS",
        "RevolutionTime": 0.5,
        "ExposureModulationType": "NONE",
        "CTDIvol": 6.5,
        "ImagePositionPatient": str([round(float(v), 4) for v in (x, y, z)]),
        "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]",
        "SliceLocation": round(float(z), 4),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": height,
        "Columns": width,
        "XYSpacing": str([sx, sy]),
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "NumberofSlices": depth // ratio,
        "ZSpacing": "" if blank_z else sz * ratio,
        "StudyDate": 20210101,
    }
    return dict.fromkeys(CT_RATE_METADATA_COLUMNS, "") | known
