"""The CT-RATE tree: scans, their 18 labels and reports, and volumes in HU whichever folder they come from.

    dataset/{train,valid}[_fixed]/train_1/train_1_a/train_1_a_1.nii.gz      patient, scan, reconstruction
    dataset/multi_abnormality_labels/{train,valid}_predicted_labels.csv
    dataset/radiology_text_reports/{train,validation}_reports.csv
    dataset/metadata/{train,validation}_metadata.csv, no_chest_{train,valid}.txt

The `_fixed` folders hold HU and a right geometry. The plain folders hold stored values, and their HU (slope, intercept)
and geometry (spacing, position, orientation) are in the metadata table. Labels and reports belong to the scan.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from common.data.ct.nifti import load_nifti
from common.data.ct.volume import CTVolume, case_name, checked_spacing, is_nifti, rescale, validate_hu
from common.io.bad_input import BadInput, read_text
from common.io.table import iter_rows
from common.text.ct_labels import CT_RATE_LABELS
from common.text.plain_text import has_text

CT_RATE_REPORT = ("ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN")
FOLDERS = {"train": ("train", "train"), "valid": ("val", "validation")}
"""Folder -> its split here, and the word that its report and metadata tables are named by."""

_NAME = re.compile(r"((train|valid)_\d+)_([a-z]+)_(\d+)")


@dataclass(frozen=True)
class CTRateImage:
    """One reconstruction of a scan.

    Attributes:
        path: the .nii.gz file.
        case: `train_1_a_1`.
        scan: `train_1_a`, the unit of labels and reports.
        patient: `train_1`.
        split: "train" or "val", from the folder.
        fixed: whether it lies in a `_fixed` folder, which already holds HU.
        labels: name -> 0 or 1, all 18.
        report: section -> text, None where the table says "Not given." or has no row.
        metadata: the row of the metadata table, None if it has none.
    """

    path: Path
    case: str
    scan: str
    patient: str
    split: str
    fixed: bool
    labels: dict[str, int] = field(default_factory=dict)
    report: dict[str, str | None] = field(default_factory=dict)
    metadata: dict[str, str] | None = None


def list_ct_rate(root: str | os.PathLike[str]) -> tuple[list[CTRateImage], list[BadInput]]:
    """List the images of a tree with the rows that belong to them, without opening a volume.

    Args:
        root: the folder `dataset`, or the one that holds it.

    Returns:
        Images ordered by scan, then reconstruction, the `_fixed` copy before the plain one; and everything that cannot
        be used: misnamed or misplaced images, scans on a no_chest list, images without labels, rows without an image.

    Raises:
        BadInput: if there is no image folder, or a table is missing, lacks a column or is not UTF-8.
    """
    root = Path(root)
    root = root / "dataset" if (root / "dataset").is_dir() else root
    images: list[CTRateImage] = []
    problems: list[BadInput] = []
    folders = [name for name in FOLDERS if (root / name).is_dir() or (root / f"{name}_fixed").is_dir()]
    if not folders:
        raise BadInput(root, "is not a CT-RATE tree, expected a folder train, train_fixed, valid or valid_fixed in it")
    for name in folders:
        found, refused = _list_folder(root, name)
        images += found
        problems += refused
    return sorted(images, key=_order), problems


def read_ct_rate(image: CTRateImage) -> CTVolume:
    """Read one image in HU.

    A `_fixed` image is HU as it is. A plain one is rescaled by its metadata row, unless its own NIfTI header holds the
    same slope and intercept and so has done it. Its geometry is that of the row where header and row disagree.

    Args:
        image: from `list_ct_rate`.

    Returns:
        The volume, case and patient from its name.

    Raises:
        BadInput: if the file is damaged, the row it needs is missing, or the result is not HU.
    """
    values, affine = load_nifti(image.path)
    if not image.fixed:
        row = image.metadata
        if row is None:
            raise BadInput(image.path, "has no row in the metadata table, expected its rescale slope and intercept")
        slope, intercept = (_number(image.path, row, name) for name in ("RescaleSlope", "RescaleIntercept"))
        stored = nib.load(image.path).dataobj
        if (stored.slope, stored.inter) != (slope, intercept):
            values = rescale(values, slope, intercept)
        affine = _plain_affine(image.path, row, affine)
    try:
        hu = validate_hu(image.path, values)
    except BadInput as error:
        folder = "a _fixed folder, used as it is" if image.fixed else "a plain folder, rescaled by the metadata table"
        raise BadInput(image.path, f"{error.reason.rstrip('.')} ({folder})") from error
    return CTVolume(hu, affine, image.case, image.patient, image.path)


def _order(image: CTRateImage) -> tuple[str, int, str, int, bool]:
    prefix, patient, scan, reconstruction = image.case.split("_")
    return prefix, int(patient), scan, int(reconstruction), not image.fixed


def _list_folder(root: Path, name: str) -> tuple[list[CTRateImage], list[BadInput]]:
    split, word = FOLDERS[name]
    labels_csv = root / "multi_abnormality_labels" / f"{name}_predicted_labels.csv"
    reports_csv = root / "radiology_text_reports" / f"{word}_reports.csv"
    metadata_csv = root / "metadata" / f"{word}_metadata.csv"
    labels, problems = _read_labels(labels_csv)
    # Reports may be absent: a scan without one gets a template later. Metadata only matter for plain folders.
    reports = _by_scan(_read_table(reports_csv, CT_RATE_REPORT, problems)) if reports_csv.is_file() else {}
    rows = _read_table(metadata_csv, (), problems) if metadata_csv.is_file() else []
    metadata = {case_name(row["VolumeName"]): row for row in rows}
    no_chest = _read_no_chest(root / "metadata" / f"no_chest_{name}.txt")

    images = []
    seen = set()
    for folder, fixed in ((root / f"{name}_fixed", True), (root / name, False)):
        for path in sorted(file for file in folder.rglob("*") if is_nifti(file)):
            case = case_name(path)
            seen.add(case)
            match = _NAME.fullmatch(case)
            scan = case.rpartition("_")[0]
            if not match or match[2] != name or (path.parent.name, path.parent.parent.name) != (scan, match[1]):
                problems.append(
                    BadInput(path, f"is not where CT-RATE has it, expected {name}_N/{name}_N_a/{name}_N_a_1.nii.gz")
                )
            elif case in no_chest:
                problems.append(BadInput(path, f"shows no chest according to no_chest_{name}.txt"))
            elif scan not in labels:
                problems.append(BadInput(path, f"has no usable row in {labels_csv.name}"))
            else:
                text = {column: _text(reports.get(scan, {}).get(column)) for column in CT_RATE_REPORT}
                images.append(
                    CTRateImage(path, case, scan, match[1], split, fixed, labels[scan], text, metadata.get(case))
                )
    for row in _read_table(labels_csv, (), []):
        if case_name(row["VolumeName"]) not in seen:
            problems.append(BadInput(labels_csv, f"row {row['VolumeName']!r} has no image in the tree"))
    return images, problems


def _read_table(path: Path, columns: tuple[str, ...], problems: list[BadInput]) -> list[dict[str, str]]:
    """The rows of a table; those that cannot be read are problems."""
    rows = list(iter_rows(path, ("VolumeName", *columns)))
    problems += [row for row in rows if isinstance(row, BadInput)]
    return [row[1] for row in rows if not isinstance(row, BadInput)]


def _read_labels(path: Path) -> tuple[dict[str, dict[str, int]], list[BadInput]]:
    """Labels by scan; the rows of its reconstructions must agree."""
    labels: dict[str, dict[str, int]] = {}
    contradictory = set()
    seen = set()
    problems: list[BadInput] = []
    for row in _read_table(path, CT_RATE_LABELS, problems):
        case = case_name(row["VolumeName"])
        scan = case.rpartition("_")[0]
        if case in seen:
            problems.append(BadInput(path, f"row {row['VolumeName']!r} occurs twice, the first is used if both agree"))
        seen.add(case)
        unknown = [f"{name} = {row[name]!r}" for name in CT_RATE_LABELS if row[name] not in ("0", "1", "0.0", "1.0")]
        if unknown:
            problems.append(BadInput(path, f"row {row['VolumeName']!r} has {unknown[0]}, expected 0 or 1"))
            contradictory.add(scan)
            continue
        values = {name: int(float(row[name])) for name in CT_RATE_LABELS}
        if labels.setdefault(scan, values) != values:
            problems.append(BadInput(path, f"row {row['VolumeName']!r} contradicts another row of scan {scan}"))
            contradictory.add(scan)
    return {scan: values for scan, values in labels.items() if scan not in contradictory}, problems


def _by_scan(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """The first row of every scan, preferring one that has findings."""
    reports: dict[str, dict[str, str]] = {}
    for row in rows:
        scan = case_name(row["VolumeName"]).rpartition("_")[0]
        if scan not in reports or (_text(reports[scan]["Findings_EN"]) is None and _text(row["Findings_EN"])):
            reports[scan] = row
    return reports


def _text(value: str | None) -> str | None:
    """Report text, None where the table only says that there is none."""
    text = (value or "").strip()
    return text if has_text(text) else None


def _read_no_chest(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    lines = map(str.strip, read_text(path, "a list of scans").splitlines())
    return {case_name(line) for line in lines if line}


def _number(path: Path, row: dict[str, str], name: str) -> float:
    try:
        value = float(row.get(name) or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise BadInput(path, f"has {name} {row.get(name)!r} in the metadata table, expected a number")
    return value


def _vector(path: Path, row: dict[str, str], name: str, length: int) -> np.ndarray | None:
    """A list written as text, `"[0.68, 0.68]"`; None when blank."""
    text = (row.get(name) or "").strip()
    if not text:
        return None
    try:
        vector = np.asarray(ast.literal_eval(text), dtype=np.float64)
    except (ValueError, SyntaxError, TypeError):
        vector = np.empty(0)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise BadInput(path, f"has {name} {text!r} in the metadata table, expected a list of {length} numbers")
    return vector


def _plain_affine(path: Path, row: dict[str, str], affine: np.ndarray) -> np.ndarray:
    """The header's affine if its spacing is that of the metadata row within 1 %, else one built from the row."""
    found = np.linalg.norm(affine[:3, :3], axis=0)
    in_plane = _vector(path, row, "XYSpacing", 2)
    if in_plane is None:
        raise BadInput(path, "has no XYSpacing in the metadata table, expected two numbers in mm")
    same_in_plane = np.allclose(found[:2], in_plane, rtol=0.01)
    if not (row.get("ZSpacing") or "").strip():
        if same_in_plane:
            return affine
        raise BadInput(
            path,
            "has no ZSpacing in the metadata table, and its slice spacing is unknown because its header, "
            f"{found[0]:g} x {found[1]:g} mm in plane, contradicts XYSpacing {in_plane.tolist()}",
        )
    spacing = np.array([*in_plane, _number(path, row, "ZSpacing")])
    if (spacing <= 0).any():
        raise BadInput(path, f"has spacing {spacing.tolist()} in the metadata table, expected positive mm")
    checked_spacing(path, spacing)
    if same_in_plane and np.isclose(found[2], spacing[2], rtol=0.01):
        return affine
    orientation = _vector(path, row, "ImageOrientationPatient", 6)
    origin = _vector(path, row, "ImagePositionPatient", 3)
    if orientation is None or origin is None:
        raise BadInput(path, "has no ImageOrientationPatient or ImagePositionPatient in the metadata table")
    rows, columns = orientation.reshape(2, 3)
    to_lps = np.eye(4)
    to_lps[:3, :3] = np.stack([rows, columns, np.cross(rows, columns)], axis=1) * spacing
    to_lps[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_lps
