"""The CTs of a folder or of the tree of CT-RATE, as `prepare` takes them.

NIfTI images are referenced where they lie, and may hold padding below -1024 that `read_ct` clips. NRRD, MetaImage and
DICOM are converted once, and so are images of plain CT-RATE folders. Patients come from `patients.csv` beside
the inputs or the case name for image files, from PatientID for DICOM, from the name for CT-RATE.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.ct.ct_rate import CT_RATE_LABELS, CT_RATE_REPORT, CTRateImage, list_ct_rate, read_ct_rate
from common.data.ct.reader import input_files, read_ct
from common.data.ct.volume import case_name, case_names, find_ct, is_image, is_nifti, write_nifti
from common.data.folder_files import other_kind
from common.data.listing import Listing
from common.io.bad_input import BadInput
from common.io.output_folder import content_hash
from common.io.table import iter_rows, plain_id

__all__ = ["MANIFEST_COLUMNS", "CTInput", "CTListing", "list_folder", "list_scans"]

MANIFEST_COLUMNS = (
    "case", "patient", "split", "image",
    "spacing_x", "spacing_y", "spacing_z", "shape_x", "shape_y", "shape_z", "sha256",
)  # fmt: skip


@dataclass(frozen=True)
class CTInput:
    """One CT, see `common.data.listing.Input`; `rate` says what CT-RATE has of it, None for other data."""

    path: Path
    case: str
    group: str
    patient: str | None = None
    rate: CTRateImage | None = None

    @property
    def split(self) -> str:
        """The split that the folder of CT-RATE says, "" for other data."""
        return self.rate.split if self.rate else ""

    @property
    def files(self) -> list[Path]:
        """The image, with the data file that its header names, or the files of the series."""
        return input_files(self.path)

    @property
    def names(self) -> tuple[str | Path, ...]:
        """Case and file, by either of which an exclusion list may name it."""
        return self.case, self.path

    @property
    def columns(self) -> dict[str, Any]:
        """Scan, the 18 labels and the four texts of the report from CT-RATE, nothing for other data."""
        return {} if self.rate is None else {"scan": self.rate.scan, **self.rate.labels, **self.rate.report}

    @property
    def identity(self) -> Any:
        """What its HU and geometry depend on beside the file."""
        return None if self.rate is None else [self.rate.fixed, self.rate.metadata]

    def check(self, out: Path, thorough: bool) -> dict[str, Any]:
        """Read the volume, and convert it to NIfTI in HU if it is not yet that; it is always read wholly."""
        volume = read_ct(self.path) if self.rate is None else read_ct_rate(self.rate)
        patient = self.patient or volume.patient
        if not patient:
            raise BadInput(self.path, "has no PatientID in any slice, expected one because the split is by patient")
        image = self.path
        if not is_nifti(self.path) or (self.rate is not None and not self.rate.fixed):
            image = out / "images" / f"{self.case}.nii.gz"
            write_nifti(image, volume.hu, volume.affine)
        geometry = [*(round(size, 6) for size in volume.spacing), *volume.hu.shape]
        row = dict(zip(MANIFEST_COLUMNS[4:10], geometry, strict=True))
        row |= {"patient": patient, "sha256": content_hash(image)}
        if image == self.path:
            return {"row": row}
        return {"row": row, "image": image.relative_to(out).as_posix(), "bytes": image.stat().st_size}


@dataclass
class CTListing(Listing):
    """CTs (`CTInput`), see `common.data.listing.Listing`; `more` are columns beside `MANIFEST_COLUMNS`."""

    more: Sequence[str] = ()

    one = listable = "case"
    short = staticmethod(case_name)
    libraries = (
        "numpy", "nibabel", "pydicom", "SimpleITK",
        "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "python-gdcm", "pyjpegls",
    )  # fmt: skip

    @property
    def columns(self) -> list[str]:
        """`MANIFEST_COLUMNS` and `more`."""
        return [*MANIFEST_COLUMNS, *self.more]

    def conclude(self, out: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
        """Count the cases of CT-RATE without a report; the hash is that of cases and files."""
        hashes = "".join(f"{case} {digest}\n" for case, digest in sorted((row["case"], row["sha256"]) for row in rows))
        without = sum(not any(row[name] for name in CT_RATE_REPORT) for row in rows) if self.more else 0
        counts = {"without_report": without} if self.more else {}
        return counts, hashlib.sha256(hashes.encode()).hexdigest()


def list_folder(source: str | os.PathLike[str], kinds: Sequence[str]) -> CTListing:
    """List the CTs at or below a path.

    Args:
        source: a folder, or a single input.
        kinds: some of "nifti", "itk" and "dicom", see `find_ct`.

    Raises:
        BadInput: if patients.csv is damaged.
    """
    source, listing = Path(source), CTListing()
    paths = find_ct(source, kinds, listing.problems, listing.other)
    patients_csv = (source if source.is_dir() else source.parent) / "patients.csv"
    patients = _read_patients(patients_csv, listing.problems) if patients_csv.is_file() else None
    if patients is not None and source.is_dir():
        listing.other[other_kind(patients_csv)] -= 1
    names = case_names(paths, source)
    for path, unique in zip(paths, names, strict=True):
        name, patient = case_name(path), None
        if patients is not None and is_image(path):
            patient = patients.get(unique, patients.get(name))
            if patient is None:
                listing.problems.append(BadInput(path, f"has no row for case {name!r} in {patients_csv.name}"))
                continue
        elif is_image(path) and unique != name:
            # The same name in another folder is another patient; with another ending it is the same one.
            patient = "_".join([*path.relative_to(source).parts[:-1], name])
        listing.rows.append(CTInput(path, unique, str(path), patient))
    for case in sorted(set(patients or {}) - {case_name(path) for path in paths} - set(names)):
        listing.problems.append(BadInput(patients_csv, f"row {case!r} has no image in the input"))
    return listing


def list_scans(source: str | os.PathLike[str]) -> CTListing:
    """List the images of a CT-RATE tree; those of a scan, and the plain copy of a `_fixed` one, are a group.

    Raises:
        BadInput: as `common.data.ct.ct_rate.list_ct_rate`.
    """
    images, problems = list_ct_rate(source)
    listing = CTListing(more=("scan", *CT_RATE_LABELS, *CT_RATE_REPORT))
    listing.rows = [CTInput(image.path, image.case, image.scan, image.patient, image) for image in images]
    for problem in problems:
        # Being on the no_chest list of the data set is a choice of its makers, not a fault of the file.
        if "shows no chest" in problem.reason:
            listing.left_out.append((problem.path, problem.reason))
        else:
            listing.problems.append(problem)
    return listing


def _read_patients(path: Path, problems: list[BadInput]) -> dict[str, str]:
    """Case -> patient; rows that cannot be used are problems, and so are all rows of a case with two patients."""
    patients: dict[str, str] = {}
    torn = set()
    for row in iter_rows(path, ("case", "patient")):
        if isinstance(row, BadInput):
            problems.append(row)
            continue
        line, cells = row
        case, patient = case_name(cells["case"].strip()), plain_id(cells["patient"])
        if not case or not patient:
            problems.append(BadInput(path, f"line {line} lacks a case or a patient"))
        elif patients.setdefault(case, patient) != patient:
            problems.append(BadInput(path, f"line {line} gives case {case!r} a second patient"))
            torn.add(case)
    return {case: patient for case, patient in patients.items() if case not in torn}
