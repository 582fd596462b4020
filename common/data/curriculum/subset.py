"""The steps from MIMIC-CXR to image, impression, labels and record of each study, see `steps`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.curriculum.physionet import fetch_images, fetch_tables
from common.data.cxr.cases import FRONTAL
from common.data.cxr.listing import LABEL_VALUES, XrayRow
from common.data.cxr.mimic_cxr import find_mimic_cxr, mimic_table, read_mimic_labels, study_times
from common.data.cxr.mimic_study import find_ehr
from common.data.cxr.reader import check_xray
from common.data.ehr.mimic_iv import TABLES, Study, read_contexts
from common.data.ehr.mimic_tables import find_table
from common.data.ehr.record import ehr_record
from common.data.folder_files import walk_files
from common.data.splits import SPLITS
from common.io.bad_input import BadInput, read_text
from common.io.output_folder import csv_text
from common.io.table import read_rows
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.sections import report_sections

__all__ = ["StepResult", "chexpert", "ehr", "impressions", "json_lines", "manifest", "read_json_lines", "subset"]

SELECTED, IMPRESSIONS, LABELS, PHASE_A, RECORDS = (
    "selected_images.csv", "impressions.csv", "chexpert.csv", "phase_a.jsonl", "ehr.jsonl",
)  # fmt: skip
_COLUMNS = ("dicom_id", "subject_id", "study_id", "split", "path")


@dataclass(frozen=True)
class StepResult:
    """What a step made.

    Attributes:
        files: name -> text.
        counts: for steps.json.
        excluded: (path or study, reason) of what is left out.
    """

    files: dict[str, str]
    counts: dict[str, Any]
    excluded: list[tuple[str, str]] = field(default_factory=list)


def subset(source: Path, out: Path, n_images: int, seed: int, labeller: str, download: bool) -> StepResult:
    """Choose one frontal X-ray of each study, patient by patient in an order that the seed decides, up to `n_images`.

    A patient whose studies no longer fit is left out, and a later one who fits may follow: patients stay whole, in the
    split that is theirs. Of an image that is there, header and end are looked at.
    """
    if download:
        fetch_tables(source, labeller)
    rows, problems = find_mimic_cxr(source, labeller, absent=True)
    excluded = [(_below(source, problem.path), problem.reason) for problem in problems]
    studies = _frontal(source, rows, download, excluded)
    of_patient: dict[str, list[XrayRow]] = {}
    for row in studies.values():
        of_patient.setdefault(row.patient, []).append(row)
    chosen: list[XrayRow] = []
    for patient in sorted(of_patient, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest()):
        own = of_patient[patient]
        if len(chosen) + len(own) <= n_images:
            chosen += own if download else _readable(source, own, excluded)
    if download:
        fetch_images(source, chosen)
        chosen = _readable(source, chosen, excluded)
    if not chosen:
        first = f"; the first left out: {excluded[0][0]} {excluded[0][1]}" if excluded else ""
        raise BadInput(source, f"has no patient with at most {n_images} usable frontal X-rays, expected one{first}")
    chosen.sort(key=lambda row: (row.patient, row.time, row.study))
    values = ((row.case, row.patient, row.study[1:], row.split, _below(source, row.path)) for row in chosen)
    table = [dict(zip(_COLUMNS, of_row, strict=True)) for of_row in values]
    counts = _counts(table) | {"wanted": n_images, "not_chosen": len(studies) - len(chosen)}
    counts["views"] = dict(sorted(Counter(row.view for row in chosen).items()))
    counts["mb"] = _megabytes(row.path for row in chosen)
    return StepResult({SELECTED: csv_text(_COLUMNS, table)}, counts, excluded)


def _frontal(
    source: Path, rows: Sequence[XrayRow], download: bool, excluded: list[tuple[str, str]]
) -> dict[str, XrayRow]:
    """Study -> its first frontal X-ray that is there, or may be fetched; what is wrong with a study is `excluded`."""
    of_study: dict[str, list[XrayRow]] = {}
    for row in rows:
        of_study.setdefault(row.study, []).append(row)
    found = {}
    for study, own in of_study.items():
        patients = sorted({row.patient for row in own})
        frontal = [row for row in own if row.view.upper() in FRONTAL]
        here = next((row for row in frontal if download or row.path.is_file()), None)
        if len(patients) > 1:
            excluded.append((study, f"is of patients {' and '.join(patients)}, expected one"))
        elif not frontal:
            excluded.append((study, f"has no frontal view, expected {' or '.join(FRONTAL)}"))
        elif here is None:
            excluded.append((study, f"has no image, expected {_below(source, frontal[0].path)}"))
        else:
            found[study] = here
    return found


def _readable(source: Path, rows: Sequence[XrayRow], excluded: list[tuple[str, str]]) -> list[XrayRow]:
    """The X-rays that are images; the others are `excluded`."""
    kept = []
    for row in rows:
        try:
            check_xray(row.path)
            kept.append(row)
        except BadInput as problem:
            excluded.append((row.study, f"{_below(source, row.path)} {problem.reason}"))
    return kept


def subset_reads(source: Path, out: Path, labeller: str, **_: Any) -> list[Path]:
    """Tables, and what lies below `files`."""
    tables = [find_table(source, f"mimic-cxr-2.0.0-{name}") for name in ("metadata", "split", labeller)]
    files = walk_files(source / "files", [], Counter()) if (source / "files").is_dir() else ()
    return [*filter(None, tables), *files]


def impressions(source: Path, out: Path) -> StepResult:
    """Read the impression of each report, by the section parser."""
    found, excluded = [], []
    for row, path in _reports(source, out):
        try:
            text = report_sections(read_text(path, "a report")).get("impression", "")
            if not text:
                raise BadInput(path, "has no impression")
        except BadInput as problem:
            excluded.append((row["study"], f"{_below(source, path)} {problem.reason}"))
            continue
        found.append({"study": row["study"], "impression": text})
    if not found:
        first = f"expected some; the first: {excluded[0][0]} {excluded[0][1]}"
        raise BadInput(source / "files", f"has no report with an impression of {len(excluded)} studies, {first}")
    words = sum(len(row["impression"].split()) for row in found) / len(found)
    counts = {"studies": len(found), "without": len(excluded), "words": round(words, 1)}
    return StepResult({IMPRESSIONS: csv_text(("study", "impression"), found)}, counts, excluded)


def impressions_reads(source: Path, out: Path) -> list[Path]:
    """The reports."""
    return [path for _, path in _reports(source, out)]


def chexpert(source: Path, out: Path, labeller: str) -> StepResult:
    """Take the 14 labels of each study: 1.0 positive, 0.0 negative, -1.0 uncertain, blank not mentioned."""
    table = mimic_table(source, labeller)
    labels = read_mimic_labels(table, [])
    found, excluded = [], []
    for row in _selected(out):
        study = row["study"]
        if study[1:] in labels:
            found.append({"study": study} | labels[study[1:]])
        else:
            excluded.append((study, f"has no usable row in {table.name}"))
    counts: dict[str, Any] = {"studies": len(found), "without": len(excluded)}
    words = {1.0: "positive", 0.0: "negative", -1.0: "uncertain", None: "not_mentioned"}
    counts["labels"] = {
        name: {word: sum(row[name] == value for row in found) for value, word in words.items()}
        for name in CHEXPERT_LABELS
    }
    return StepResult({LABELS: csv_text(("study", *CHEXPERT_LABELS), found)}, counts, excluded)


def chexpert_reads(source: Path, out: Path, labeller: str) -> list[Path]:
    """The table of labels."""
    return [mimic_table(source, labeller)]


def manifest(source: Path, out: Path) -> StepResult:
    """Join image, impression and the labels that are mentioned."""
    texts = {row["study"]: row["impression"] for _, row in read_rows(out / IMPRESSIONS, ("study", "impression"))}
    labels = {row["study"]: row for _, row in read_rows(out / LABELS, ("study", *CHEXPERT_LABELS))}
    rows = []
    for row in _selected(out):
        study = row["study"]
        if study in texts and study in labels:
            values = {name: LABEL_VALUES[labels[study][name]] for name in CHEXPERT_LABELS}
            known = {name: value for name, value in values.items() if value is not None}
            rows.append(
                {"study": study, "patient": row["subject_id"], "split": row["split"], "image": row["path"]}
                | {"impression": texts[study], "labels": known}
            )
    if not rows:
        raise BadInput(out / LABELS, "has no study that has an impression as well, expected one at least")
    counts = {"rows": len(rows)} | _counts([{"split": r["split"], "subject_id": r["patient"]} for r in rows])
    return StepResult({PHASE_A: json_lines(rows)}, counts)


def ehr(source: Path, out: Path, ehr: Sequence[str] | None) -> StepResult:
    """Gather what was known of each patient when the X-ray was taken, from MIMIC-IV and MIMIC-IV-ED."""
    roots, times = _ehr_roots(source, ehr), study_times(source)
    rows = {row["study"]: row for row in _selected(out)}
    studies = [Study(int(r["subject_id"]), int(study[1:]), times[study[1:]]) for study, r in rows.items()]
    read = read_contexts(roots["hosp"], roots.get("ed"), studies)
    records = [
        {"study": f"s{number}", "patient": str(context.subject_id)} | ehr_record(context, read.targets.get(number))
        for number, context in read.contexts.items()
    ]
    if not records:
        raise BadInput(roots["hosp"], f"has no patient of {len(studies)} studies, expected those of the X-rays")
    report = read.report
    counts = {
        "studies": len(records), "in_emergency_stay": report.in_emergency_stay, "in_admission": report.in_admission,
        "without_stay": report.without_stay, "with_icd": report.with_target, "without_patient": len(report.excluded),
        "vitals": sum(len(record["vitals"]) for record in records), "labs": sum(len(r["labs"]) for r in records),
        "abnormal_labs": sum(lab["flag"] != "" for record in records for lab in record["labs"]),
        "o2_device": sum(record["o2_device"] is not None for record in records),
        "chronic_conditions": sum(bool(record["chronic_conditions"]) for record in records),
        "icd": dict(sorted(Counter(name for record in records for name in record["icd"] or ()).items())),
        "not_used": {"after_study": sum(report.after_study.values()), "repeated": sum(report.repeated.values()),
                     "out_of_bounds": sum(report.out_of_bounds.values()),
                     "unknown_unit": sum(report.unknown_unit.values()),
                     "not_a_number": sum(report.not_a_number.values())},
        "left_out": report.left_out(), "missing_tables": report.missing_tables,
        "mb": _megabytes(ehr_reads(source, out, ehr)),
    }  # fmt: skip
    excluded = [(f"s{study}", reason) for study, reason in report.excluded]
    excluded += [(problem.path.name, problem.reason) for problem in report.problems]
    return StepResult({RECORDS: json_lines(records)}, counts, excluded)


def ehr_reads(source: Path, out: Path, ehr: Sequence[str] | None) -> list[Path]:
    """The tables of both data sets, and that of the times."""
    roots = _ehr_roots(source, ehr)
    found = (find_table(roots.get("ed" if name.startswith("ed/") else "hosp"), name) for name in TABLES)
    return [mimic_table(source, "metadata"), *filter(None, found)]


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of such a file.

    Raises:
        BadInput: naming the first line that is no JSON object.
    """
    rows = []
    for number, line in enumerate(read_text(path, "a file of JSON lines").split("\n"), 1):
        if line:
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise BadInput(path, f"line {number} is no JSON ({error})") from error
            if not isinstance(rows[-1], dict):
                raise BadInput(path, f"line {number} is a {type(rows[-1]).__name__}, expected an object")
    return rows


def _selected(out: Path) -> list[dict[str, str]]:
    """Rows of the subset, with `study` as all other files name it."""
    return [row | {"study": f"s{row['study_id']}"} for _, row in read_rows(out / SELECTED, _COLUMNS)]


def _reports(source: Path, out: Path) -> list[tuple[dict[str, str], Path]]:
    """Rows of the subset, each with its report, which lies beside the folder of its study."""
    return [(row, (source / row["path"]).parent.with_suffix(".txt")) for row in _selected(out)]


def _ehr_roots(source: Path, ehr: Sequence[str] | None) -> dict[str, Path]:
    roots = find_ehr(source, ehr)
    if "hosp" not in roots:
        raise BadInput(source, "has no MIMIC-IV in it or beside it, expected its folder, or the name of one by --ehr")
    return roots


def _counts(rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
    counts = {"images": len(rows), "patients": len({row["subject_id"] for row in rows})}
    return counts | {split: sum(row["split"] == split for row in rows) for split in SPLITS}


def _megabytes(paths: Iterable[Path]) -> float:
    return round(sum(path.stat().st_size for path in paths) / 1e6, 2)


def _below(source: Path, path: Path) -> str:
    return str(path.relative_to(source)) if path.is_relative_to(source) else str(path)
