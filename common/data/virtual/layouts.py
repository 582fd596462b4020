"""Writes virtual patients in the layouts of real CT data: NIfTI folders, DICOM series and the CT-RATE tree.

Every writer takes a folder, which patients and how many processes make them. It keeps what an earlier call with the
same arguments completed, and raises FileExistsError for a folder with other content. Files appear under their final
name only when they are whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.uid import CTImageStorage

from common.data.virtual.files import VERSION, Cohort, claim, for_each, save_csv, virtual_uid
from common.data.virtual.geometry import Grid, stream
from common.data.virtual.patient import (
    CT_RATE_LABELS,
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
Scan = tuple[str, list[str], int, int]
"""Folder of a scan of CT-RATE, names of its reconstructions, seed of the patient, which scan of this patient."""


def write_nifti(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write ``images/``, ``regions/``, ``lesions/`` (CASE.nii.gz each) and ``labels.csv``.

    Returns:
        One row per patient: case, patient, split, image, seed, sex, age, regions, lesions (paths relative to
        ``output_dir``).
    """
    out, rows = claim(output_dir, "nifti", cohort), _people(cohort)
    for row in rows:
        row |= {name: f"{folder}/{row['case']}.nii.gz" for name, folder in
                (("image", "images"), ("regions", "regions"), ("lesions", "lesions"))}  # fmt: skip
    for_each(_make_nifti, rows, workers, "nifti", "patient", out=out, cohort=cohort)
    _save_labels(out / "labels.csv", "case", ((row["case"], virtual_labels(row["seed"])) for row in rows))
    return rows


def _make_nifti(row: Row, out: Path, cohort: Cohort) -> None:
    if not all((out / row[name]).exists() for name in ("image", "regions", "lesions")):
        patient = make_virtual_patient(row["seed"], cohort.shape, cohort.spacing)
        volumes = {"image": patient.ct, "regions": patient.regions, "lesions": lesion_map(patient)}
        for name, volume in volumes.items():
            _save_nifti(out / row[name], volume, patient.affine)


def write_dicom(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write ``dicom/PATIENT/SERIES/*.dcm`` (file names in no order) and ``labels.csv``.

    Returns:
        One row per patient: case, patient, split, image (the folder of the series, relative), seed, sex and age.
    """
    out, rows = claim(output_dir, "dicom", cohort), _people(cohort)
    for row in rows:
        row["image"] = f"dicom/{row['patient']}/series_001"
    for_each(_make_series, rows, workers, "dicom", "patient", out=out, cohort=cohort)
    _save_labels(out / "labels.csv", "case", ((row["case"], virtual_labels(row["seed"])) for row in rows))
    return rows


def _make_series(row: Row, out: Path, cohort: Cohort) -> None:
    if not (out / row["image"]).exists():
        with atomic_path(out / row["image"]) as part:
            part.mkdir()
            _save_series(part, make_virtual_patient(row["seed"], cohort.shape, cohort.spacing))


def write_ct_rate(output_dir: str | Path, cohort: Cohort, workers: int = 1) -> list[Row]:
    """Write the tree of CT-RATE under ``dataset/``: fixed volumes (HU), labels, reports and metadata.

    About a fifth of the scans is in the validation split. Every sixth is a second scan ("b") of the patient before,
    every fourth has a second, thick reconstruction, and the report of every fifth lacks the clinical information.

    Returns:
        One row per scan: case, patient, split, image (first reconstruction, relative path), seed, sex and age.
    """
    out = claim(output_dir, "ct_rate", cohort)
    root = out / "dataset"
    rows: list[Row] = []
    for split, long_name, scans in _ct_rate_scans(cohort):
        labels, reports, metadata = [], [], []
        path = root / "radiology_text_reports" / f"{long_name}_reports.csv"
        # A table written before saves making the patients again for their reports.
        known = {row.pop("VolumeName"): row for _, row in read_rows(path, ["VolumeName"])} if path.exists() else {}
        shared = {"root": root / f"{split}_fixed", "cohort": cohort, "known": known}
        texts = for_each(_make_scan, list(enumerate(scans)), workers, f"ct_rate {split}", "scan", **shared)
        for k, ((folder, names, person, scan), text) in enumerate(zip(scans, texts, strict=True)):
            row = _person(person, split) | {"case": names[0].removesuffix(".nii.gz"), "patient": folder.split("/")[0]}
            rows.append(row | {"image": f"dataset/{split}_fixed/{folder}/{names[0]}"})
            for r, name in enumerate(names):
                labels.append((name, virtual_labels(person, scan)))
                reports.append({"VolumeName": name} | text)
                grid = Grid.fit(cohort.shape, cohort.spacing)
                metadata.append(_ct_rate_metadata(name, row, grid, r, blank_z=k % 7 == 6))
        _save_labels(root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv", "VolumeName", labels)
        save_csv(path, CT_RATE_REPORT_COLUMNS, reports)
        save_csv(root / "metadata" / f"{long_name}_metadata.csv", CT_RATE_METADATA_COLUMNS, metadata)
        with atomic_path(root / "metadata" / f"no_chest_{split}.txt") as part:
            part.write_text("")
    return rows


def _make_scan(item: tuple[int, Scan], root: Path, cohort: Cohort, known: dict[str, Row]) -> Row:
    """Write the reconstructions of a scan that are not there, and return the columns of its report."""
    k, (folder, names, person, scan) = item
    paths = [root / folder / name for name in names]
    if names[0] in known and all(path.exists() for path in paths):
        return known[names[0]]
    patient = make_virtual_patient(person, cohort.shape, cohort.spacing, scan=scan)
    volumes = [(patient.ct, patient.affine), thick_reconstruction(patient, CT_RATE_THICK_RATIO)]
    for path, (volume, affine) in zip(paths, volumes, strict=False):
        if not path.exists():
            _save_nifti(path, volume, affine)
    return template_report(patient) | ({"ClinicalInformation_EN": NOT_GIVEN} if k % 5 == 4 else {})


def template_report(patient: VirtualPatient) -> dict[str, str]:
    """Return the report columns of CT-RATE (without VolumeName) that a template writes of a patient's findings."""
    seed = patient.seed * 100 + patient.scan
    return ct_report(patient.findings, patient.labels, patient.sex, patient.age, seed).ct_rate_columns()


def _valid_count(n: int) -> int:
    """A fifth of the cases is for validation, at least one of two or more."""
    return max(n // 5, int(n > 1))


def _people(cohort: Cohort) -> list[Row]:
    train = cohort.n - _valid_count(cohort.n)
    return [_person(seed, "train" if i < train else "valid") for i, seed in enumerate(cohort.seeds)]


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


def _ct_rate_scans(cohort: Cohort) -> Iterator[tuple[str, str, list[Scan]]]:
    """Yield split, its long name and its scans."""
    valid = _valid_count(cohort.n)
    person = cohort.seed - 1
    for split, long_name, size in (("train", "train", cohort.n - valid), ("valid", "validation", valid)):
        scans, number = [], 0
        for k in range(size):
            again = k % 6 == 5
            if not again:
                person, number = person + 1, number + 1
            name = f"{split}_{number}_{'b' if again else 'a'}"
            names = [f"{name}_{r}.nii.gz" for r in ((1, 2) if k % 4 == 3 else (1,))]
            scans.append((f"{split}_{number}/{name}", names, person, int(again)))
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
