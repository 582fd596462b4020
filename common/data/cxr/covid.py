"""covid-chestxray-dataset: X-rays of case reports, with age, sex, a few signs and notes; is it COVID-19 or not?

    metadata.csv, images/*            as published (github.com/ieee8023/covid-chestxray-dataset)
    covid_cdc_metadata.csv, image     a cut of it, with the path of each image in the column `image`

The task is COVID-19 (also with ARDS) against every other named finding. `todo` and unknown findings are left out, as
are CT slices. Survival, intensive care, intubation, oxygen and extubation came after the image, and `offset` counts
days from symptoms, admission or diagnosis, which of them is not said: none of these is read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from common.data.cxr.listing import (
    CXRListing,
    XrayRow,
    count_unnamed,
    find_cxr_table,
    image_of_row,
    known_number,
    known_word,
    named_files,
    table_rows,
)
from common.data.ehr.clinical_vector import clinical_row, plausible
from common.io.bad_input import BadInput
from common.text.notes.case_note import presentation
from common.text.notes.ed_note import ed_note
from common.text.redaction import redact

__all__ = ["COVID_LABEL", "COVID_TABLES", "find_covid"]

COVID_LABEL = "COVID-19"
COVID_TABLES = ("metadata.csv", "covid_cdc_metadata.csv")
_COLUMNS = ("patientid", "sex", "age", "finding", "view", "filename", "clinical_notes")
_OPTIONAL = (
    "modality", "image", "temperature", "pO2_saturation", "leukocyte_count", "neutrophil_count", "lymphocyte_count",
    "url", "folder",
)  # fmt: skip
_VIEWS = {"PA": "PA", "L": "LATERAL", "LL": "LATERAL", "": "", "?": ""}
_UNLABELLED = ("", "?", "todo", "unknown")
_FINDINGS = frozenset(
    "COVID-19 ARDS SARS MERS-CoV Pneumonia Viral Bacterial Fungal Lipoid Aspiration Tuberculosis Influenza H1N1 "
    "Varicella Herpes Pneumocystis Aspergillosis Streptococcus Staphylococcus MRSA Klebsiella Legionella "
    "Chlamydophila E.Coli Nocardia Mycoplasma".split()
) | {"No Finding", "Mycoplasma Bacterial Pneumonia", "Swine-Origin Influenza A (H1N1) Viral Pneumonia"}
"""What the published table has; a word that is none of these may be a spelling of COVID-19, and is no negative."""
_CHARTED = {"age": "age", "temperature": "temperature", "o2sat": "pO2_saturation", "wbc": "leukocyte_count"}
_CELLS = {"neutrophils": "neutrophil_count", "lymphocytes": "lymphocyte_count"}  # K/uL, as `CLINICAL_COLUMNS`
_PRESSURE_SOURCE = "covid-19-image-repository"
"""Part of the url of rows whose pO2_saturation is a partial pressure in mmHg, as that repository charts it."""


def find_covid(source: str | os.PathLike[str]) -> CXRListing:
    """List the images of the data set, without opening them.

    A patient is a `patientid`; two ids that share an image are one patient, and of the rows of an image the first is
    kept. Notes hold what was known before the image (`common.text.notes.case_note`), without terms of the findings.

    Args:
        source: the folder with one of `COVID_TABLES`, or the table itself.

    Raises:
        BadInput: if there is no table, or it lacks a column.
    """
    table = find_cxr_table(source, COVID_TABLES)
    root = table.parent
    listing = CXRListing(labels=(COVID_LABEL,))
    files = named_files(root, listing, [table])
    counts: Counter[str] = Counter()
    named: set[Path] = set()
    first: dict[Path, tuple[str, str]] = {}
    same: dict[str, str] = {}  # patient -> another id of the same patient, see _patient
    rows = []
    for row in table_rows(table, _COLUMNS, listing.problems, _OPTIONAL):
        try:
            path = _image(root, row, files)
        except BadInput as problem:
            if row["finding"].lower() in _UNLABELLED:
                listing.left_out.append((problem.path, f"has the finding {row['finding']!r}, which is no label"))
            else:
                listing.problems.append(problem)
            continue
        named.add(path)
        reason = _reason(row)
        if reason:
            listing.left_out.append((path, reason))
            continue
        unknown = [part for part in _parts(row["finding"]) if part not in _FINDINGS]
        if unknown:
            listing.problems.append(BadInput(path, f"has the finding {unknown[0]!r}, which the data set does not know"))
            continue
        patient, label = row["patientid"], float(COVID_LABEL in _parts(row["finding"]))
        if not patient:
            listing.problems.append(BadInput(path, "has no patientid, expected one because the split is by patient"))
            continue
        if path in first:
            known, value = first[path]
            if label != value:
                listing.problems.append(BadInput(path, f"has rows with and without {COVID_LABEL}, expected one answer"))
                rows = [(p, r) for p, r in rows if p != path]
            else:
                listing.left_out.append((path, f"has a second row (patient {patient}), the first is kept"))
            same[_patient(patient, same)] = _patient(known, same)
            continue
        first[path] = patient, label
        rows.append((path, row))
    stems = Counter(path.stem for path, _ in rows)
    for path, row in rows:
        case = path.stem if stems[path.stem] == 1 else path.name
        context = _context(row, counts)
        told = presentation(row["clinical_notes"], listing.labels)
        note = redact(ed_note(context | {"presentation": told}), listing.labels)
        view = _view(row["view"], counts)
        labels = {COVID_LABEL: first[path][1]}
        listing.rows.append(XrayRow(case, _patient(row["patientid"], same), "", path, case, view, labels))
        listing.notes[case] = note
        listing.clinical[case] = clinical_row(context) | _values(row, _CELLS, counts)
    count_unnamed(listing, files, named)
    listing.facts = {"table": table.name, "not_used": dict(sorted(counts.items()))}
    return listing


def _image(root: Path, row: dict[str, str], files: dict[str, list[Path]]) -> Path:
    """The file of a row: the column `image`, else the folder that the row names, else the only file of that name."""
    name = row["image"] or row["filename"]
    if not name:
        raise BadInput(root, f"has a row of patient {row['patientid']!r} without filename")
    return image_of_row(root, name, [part for part in ("", row["folder"], "images") if part or row["image"]], files)


def _reason(row: dict[str, str]) -> str | None:
    """The reason for which a row is left out on purpose, None if it is not."""
    if row["finding"].lower() in _UNLABELLED:
        return f"has the finding {row['finding']!r}, which is no label"
    if row["modality"].lower() not in ("", "x-ray", "xray"):
        return f"is {row['modality']}, expected an X-ray"
    return None


def _parts(finding: str) -> list[str]:
    """The findings of a cell: "COVID-19, ARDS", "Pneumonia/Viral/COVID-19"."""
    return [part.strip() for part in re.split("[,/]", finding)]


def _view(text: str, counts: Counter[str]) -> str:
    """As `ViewPosition` of MIMIC-CXR; "AP Supine", "AP semi erect" are AP; a word that is none of these is counted."""
    word = "AP" if text.upper().startswith("AP") else text.upper()
    if word not in _VIEWS and word != "AP":
        counts[f"view {text!r} is unknown"] += 1
    return _VIEWS.get(word, word)


def _patient(name: str, same: dict[str, str]) -> str:
    while same.get(name, name) != name:
        name = same[name]
    return name


def _context(row: dict[str, str], counts: Counter[str]) -> dict:
    if _PRESSURE_SOURCE in row["url"]:
        if known_number(row["pO2_saturation"], counts, "pO2_saturation") is not None:
            counts["pO2_saturation is a pressure"] += 1
        row = row | {"pO2_saturation": ""}
    known = _values(row, _CHARTED, counts)
    return {
        "age": int(known["age"]) if "age" in known else None,
        "sex": known_word(row["sex"], ("F", "M"), counts, "sex"),
        "vitals": {name: known[name] for name in ("temperature", "o2sat") if name in known},
        "labs": {"White Blood Cells": known["wbc"]} if "wbc" in known else {},
    }


def _values(row: dict[str, str], columns: dict[str, str], counts: Counter[str]) -> dict[str, float]:
    """Variable -> its number, of those whose column holds one that a body can have; others are counted."""
    found = {}
    for name, column in columns.items():
        value = known_number(row[column], counts, column)
        if value is not None and plausible(name, value):
            found[name] = value
        elif value is not None:
            counts[f"{name} out of bounds"] += 1
    return found
