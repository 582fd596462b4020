"""Reports cut into sections, from whatever they come in: text files, the tree of MIMIC-CXR, Open-i, tables.

One report is in memory at a time, and what cannot be read comes out in its place as what is wrong with it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.cxr.open_i import REPORTS_CSV, OpenIReport, is_open_i, iter_open_i
from common.data.folder_files import check_regular, other_kind
from common.io.bad_input import BadInput, read_text
from common.io.table import is_table, iter_rows, read_columns
from common.text.plain_text import has_text
from common.text.section_headers import SPELLINGS
from common.text.sections import CONCLUSION_ORDER, Section, split_sections

TEXT_COLUMNS = ("text", "report", "reports", "report_text", "note_text", "radiology_report")
"""Columns that hold a whole report in tables of an unknown layout."""

STUDY_COLUMNS = (
    "study", "study_id", "note_id", "VolumeName", "uid", "id", "case", "report_id", "image_id", "AccessionNo",
    "filename", "path", "Path",
)  # fmt: skip
"""Columns that name a report, in the order in which they are looked for; without one it is the number of its row."""

SECTION_NAMES = {*CONCLUSION_ORDER, *SPELLINGS} - {"date", "comment", "signature"}
"""Columns that hold a section each, in tables of an unknown layout that have findings or an impression."""

CT_RATE_REPORTS = "radiology_text_reports"
"""The folder of CT-RATE that holds its report tables."""

_CT_RATE_COLUMNS = {
    "ClinicalInformation_EN": "history",
    "Technique_EN": "technique",
    "Findings_EN": "findings",
    "Impressions_EN": "impression",
}
_MIMIC_STUDY = re.compile(r"s\d{8}")
_NO_REPORT = re.compile(r"(?:licen[cs]e|readme|sha256sums|md5sums|records|changelog|index)\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class SectionedReport:
    """A report and its sections.

    Attributes:
        study: what names it: the file without ending, or the id in its row.
        path: the file it is in.
        sections: whose places are those in `texts`.
        columns: of the table, one per section, where a section is a cell; None where the report is one text.
    """

    study: str
    path: Path
    sections: tuple[Section, ...]
    columns: tuple[str, ...] | None = None


def iter_reports(
    path: str | os.PathLike[str], text_column: str | None = None, other: Counter[str] | None = None
) -> Iterator[SectionedReport | BadInput]:
    """Yield the reports of a file or folder, cut into sections.

    Args:
        path: a text file with one report; a folder of .txt reports, such as `files` of MIMIC-CXR; the .xml reports of
            Open-i; a table (.csv or .csv.gz) of Open-i, of CT-RATE, with a column per section, or with the report in
            one column; a folder that holds the tables of Open-i or CT-RATE.
        text_column: of a table: the column that holds the report. None looks for `TEXT_COLUMNS`.
        other: files of a folder of reports that are none are counted into it by kind.

    Raises:
        BadInput: if there is no report to be found, or a table cannot be read at all.
    """
    path = Path(path)
    if path.is_dir():
        found = _of_folder(path, Counter() if other is None else other)
    elif not path.exists():
        raise BadInput(path, "does not exist, expected a report, a table or a folder of reports")
    elif is_table(path):
        found = _of_table(path, text_column)
        text_column = None
    elif path.suffix.lower() == ".xml":
        found = _of_open_i(path)
    else:
        found = iter([_read_text(path, path.stem)])
    if text_column is not None:
        raise BadInput(path, f"is no table, so that it has no column {text_column!r}")
    seen: set[str] = set()
    for report in found:
        if isinstance(report, SectionedReport):
            if report.study in seen:
                yield BadInput(report.path, f"is a second report of study {report.study!r}, expected each once")
                continue
            seen.add(report.study)
        yield report


def _of_folder(folder: Path, other: Counter[str]) -> Iterator[SectionedReport | BadInput]:
    endings = {Path(name).suffix.lower() for _, _, names in os.walk(folder) for name in names}
    tables = [
        *folder.glob(f"{CT_RATE_REPORTS}/*_reports.csv"),
        *folder.glob(f"dataset/{CT_RATE_REPORTS}/*_reports.csv"),
    ]
    if (folder / REPORTS_CSV).is_file():
        yield from _of_open_i(folder / REPORTS_CSV)
        for file in sorted(folder.rglob("*.txt")):
            yield BadInput(file, f"stands beside {REPORTS_CSV}, which was read instead")
    elif tables:
        for table in sorted(tables):
            try:
                yield from _of_table(table, None)
            except BadInput as error:
                yield error
    elif {".txt", ".xml"} <= endings:
        raise BadInput(folder, "holds .txt and .xml reports, expected one kind")
    elif ".txt" in endings:
        yield from _of_text_tree(folder, other)
    elif ".xml" in endings:
        yield from _of_open_i(folder)
    else:
        raise BadInput(folder, f"holds no report, expected .txt or .xml files, {REPORTS_CSV} or {CT_RATE_REPORTS}")


def _of_text_tree(folder: Path, other: Counter[str]) -> Iterator[SectionedReport | BadInput]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            if file.suffix.lower() != ".txt":
                other[other_kind(file)] += 1  # the images and tables beside the reports
                continue
            if name.startswith(".") or _NO_REPORT.fullmatch(name):
                yield BadInput(file, "is no report by its name")
            else:
                below = file.relative_to(folder).with_suffix("").as_posix()
                yield _read_text(file, file.stem if _MIMIC_STUDY.fullmatch(file.stem) else below)


def _read_text(path: Path, study: str) -> SectionedReport | BadInput:
    try:
        check_regular(path)
        text = read_text(path, "a report")
    except BadInput as error:
        return error
    if "\0" in text:
        return BadInput(path, f"holds a NUL character (byte {path.read_bytes().index(0)}), expected text")
    if not text.strip():
        return BadInput(path, "is empty, expected a report")
    return SectionedReport(study, path, tuple(split_sections(text)))


def _of_open_i(path: Path) -> Iterator[SectionedReport | BadInput]:
    for report in iter_open_i(path):
        if isinstance(report, OpenIReport):
            in_table = is_table(report.path)
            yield _of_cells(report.uid, report.path, report.sections, {"examination": "image"} if in_table else {})
        else:
            yield report


def _of_table(path: Path, text_column: str | None) -> Iterator[SectionedReport | BadInput]:
    columns = read_columns(path)
    if text_column is None and is_open_i(columns):
        return _of_open_i(path)
    study = next((name for name in STUDY_COLUMNS if name in columns), None)
    if text_column is None and "Findings_EN" in columns:
        return _rows(path, study, {name: section for name, section in _CT_RATE_COLUMNS.items() if name in columns})
    if text_column is None and {"findings", "impression"} & {name.lower() for name in columns}:
        return _rows(path, study, {name: name.lower() for name in columns if name.lower() in SECTION_NAMES})
    if text_column is None:
        found = [name for name in columns if name.lower() in TEXT_COLUMNS]
        if len(found) != 1:
            raise BadInput(path, f"has no column known to hold reports, expected --text_column of {', '.join(columns)}")
        text_column = found[0]
    if text_column not in columns:
        raise BadInput(path, f"has no column {text_column!r}, expected one of {', '.join(columns)}")
    return _rows(path, study, {text_column: None})


def _rows(
    path: Path, study_column: str | None, section_of: Mapping[str, str | None]
) -> Iterator[SectionedReport | BadInput]:
    """The reports of a table whose columns are sections, or whose one column is the report (its section is None)."""
    for number, row in enumerate(iter_rows(path), 1):
        if isinstance(row, BadInput):
            yield row
            continue
        line, cells = row
        study = str(number) if study_column is None else cells[study_column].strip().removesuffix(".nii.gz")
        texts = {name: cells[name] for name in section_of if has_text(cells[name])}
        if not study:
            yield BadInput(path, f"line {line} has no {study_column}, expected the name of the report")
        elif not texts:
            yield BadInput(path, f"line {line} ({study!r}) has no text in {', '.join(section_of)}, expected a report")
        elif None in section_of.values():
            column, text = next(iter(texts.items()))
            sections = tuple(split_sections(text))
            yield SectionedReport(study, path, sections, (column,) * len(sections))
        else:
            named = {str(section_of[name]): text for name, text in texts.items()}
            yield _of_cells(study, path, named, {str(section_of[name]): name for name in texts})


def _of_cells(study: str, path: Path, texts: Mapping[str, str], column_of: Mapping[str, str]) -> SectionedReport:
    sections = tuple(Section(name, text, 0, len(text)) for name, text in texts.items())
    return SectionedReport(study, path, sections, tuple(column_of.get(name, name) for name in texts))
