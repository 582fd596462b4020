"""What the layouts of labelled X-rays have in common: their images, notes and clinical values, as `prepare` takes them.

Images stay where they are. Beside the manifest lie notes.csv (study, note) and clinical.csv (study and the columns of
`CLINICAL_COLUMNS`).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from common.data.cxr.reader import check_xray
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.ehr.mimic_tables import parse_number
from common.data.folder_files import file_kind, other_kind, walk_files
from common.data.listing import Listing
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.io.table import iter_rows
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.plain_text import has_text, is_english

__all__ = [
    "LABEL_VALUES", "XRAY_KINDS", "XRAY_SUFFIXES", "CXRListing", "XrayRow", "count_unnamed", "find_cxr_table",
    "image_of_row",
    "known_number", "known_word", "named_files", "of_one_split", "table_rows", "write_study_tables",
]  # fmt: skip

XRAY_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
XRAY_KINDS = ("jpeg", "png", "dicom")
"""What is read as an X-ray by its content, see `common.data.folder_files.file_kind`."""
LABEL_VALUES = {"": None, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0, "1": 1.0, "0": 0.0, "-1": -1.0}
"""What a cell of a table of labels says: 1.0 positive, 0.0 negative, -1.0 uncertain, None not mentioned."""


@dataclass(frozen=True)
class XrayRow:
    """One image with its labels, see `common.data.listing.Input`.

    Attributes:
        case: unique name.
        patient: whose it is.
        split: "train", "val" or "test"; "" where the data set does not say, so that patients are split later.
        path: the image.
        study: notes and clinical values belong to it.
        view: "PA", "AP", "LATERAL" or another word of the data set; "" if it is not stated.
        labels: name -> one of the values of `LABEL_VALUES`.
        more: further columns of the manifest.
        time: of the study; None where the data set does not say.
    """

    case: str
    patient: str
    split: str
    path: Path
    study: str
    view: str
    labels: Mapping[str, float | None]
    more: Mapping[str, str] = field(default_factory=dict)
    time: datetime | None = None

    identity = None

    @property
    def files(self) -> list[Path]:
        """The image alone."""
        return [self.path]

    @property
    def group(self) -> str:
        """The file: no two images stand for the same scan."""
        return str(self.path)

    @property
    def names(self) -> tuple[str | Path, ...]:
        """Case, study and file, by any of which an exclusion list may name it."""
        return self.case, self.study, self.path

    @property
    def columns(self) -> dict[str, Any]:
        """Study, view, the further columns and the labels."""
        return {"study": self.study, "view": self.view, **self.more, **self.labels}

    def check(self, out: Path, thorough: bool) -> dict[str, Any]:
        """Look at header and end of the image, or decode it."""
        check_xray(self.path, thorough)
        return {"row": {}}


@dataclass
class CXRListing(Listing):
    """A data set of X-rays (`XrayRow`) as its tables tell it, see `common.data.listing.Listing`.

    Attributes:
        labels: names of the label columns.
        notes: study -> note of the emergency department.
        clinical: study -> variables of `CLINICAL_COLUMNS` that are known.
    """

    labels: Sequence[str] = ()
    notes: dict[str, str] = field(default_factory=dict)
    clinical: dict[str, dict[str, float]] = field(default_factory=dict)

    one = "image"
    listable = "case, study or image"
    libraries = ("numpy", "pillow", "pydicom", "PyYAML")
    chunk = 256
    fractions = (0.7, 0.1, 0.2)
    tables = ("notes.csv", "clinical.csv")

    def read_labels(self, report: str) -> dict[str, float | None]:
        """The labels of CheXpert that a report states; one that is not in English has none, and is counted."""
        if not has_text(report) or is_english(report):
            return label_cxr(report)
        left_out = self.facts.setdefault("left_out", {}).setdefault("reports", Counter())
        left_out["not in English, all labels blank"] += 1
        return dict.fromkeys(CHEXPERT_LABELS)

    @property
    def columns(self) -> list[str]:
        """Columns of the manifest: those of every X-ray layout, the further ones of this data set, the labels."""
        more = self.rows[0].more if self.rows else ()
        return ["case", "patient", "split", "image", "study", "view", *more, *self.labels]

    def conclude(self, out: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
        """Write notes and values; the hash is that of all tables and of the sizes of the images."""
        texts = write_study_tables(out, self, (row["study"] for row in rows))
        # Where the folder lies does not change the data.
        places = {"image", "report"} & set(self.columns)
        plain = csv_text(self.columns, [{**row} | {name: Path(row[name]).name for name in places} for row in rows])
        sizes = "".join(f"{row['case']} {os.stat(row['image']).st_size}\n" for row in rows)
        studies = {row["study"] for row in rows}
        counts = {"studies": len(studies), "notes": sum(bool(self.notes.get(study)) for study in studies)}
        counts["views"] = dict(sorted(Counter(row["view"] or "not stated" for row in rows).items()))
        return counts, hashlib.sha256("\0".join((plain, sizes, *texts)).encode()).hexdigest()


def write_study_tables(out: Path, listing: CXRListing, studies: Iterable[str]) -> tuple[str, str]:
    """Write notes.csv and clinical.csv of some studies and return their text.

    Every layout has all columns; a study of which nothing is known has a row of blanks.
    """
    studies = list(dict.fromkeys(studies))
    notes = csv_text(["study", "note"], [{"study": s, "note": listing.notes.get(s, "")} for s in studies])
    values = [
        {"study": s} | {name: f"{value:.6g}" for name, value in listing.clinical.get(s, {}).items()} for s in studies
    ]
    clinical = csv_text(["study", *CLINICAL_COLUMNS], values)
    write_text(out / "notes.csv", notes)
    write_text(out / "clinical.csv", clinical)
    return notes, clinical


def find_cxr_table(source: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """The one table of these names in a folder, or the file itself.

    Raises:
        BadInput: if there is none, or more than one.
    """
    source = Path(os.path.abspath(source))
    if source.is_file():
        return source
    found = [source / name for name in names if (source / name).is_file()]
    if len(found) != 1:
        many = f"has {found[0].name} and {found[1].name}" if found else "has no table"
        raise BadInput(source, f"{many}, expected one of {', '.join(names)}")
    return found[0]


def table_rows(
    path: Path, columns: Sequence[str], problems: list[BadInput], optional: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Yield the rows of a table as column -> text without blanks around it; optional columns it lacks are "".

    A row that cannot be read becomes one of the `problems`.

    Raises:
        BadInput: if the table is missing, empty, or lacks one of `columns`.
    """
    for row in iter_rows(path, columns):
        if isinstance(row, BadInput):
            problems.append(row)
        else:
            yield {name: row[1].get(name, "").strip() for name in (*columns, *optional)}


def known_number(text: str, counts: Counter[str], name: str) -> float | None:
    """Read a number; a blank or "?" is unknown, any other text is counted as "NAME is no number"."""
    if text in ("", "?"):
        return None
    value = parse_number(text)
    if value is None:
        counts[f"{name} is no number"] += 1
    return value


def known_word(text: str, known: Iterable[str], counts: Counter[str], name: str) -> str | None:
    """A text that is one of the known words, else None; one that is neither blank nor "?" is counted with its name."""
    known = tuple(known)
    if text in known:
        return text
    if text not in ("", "?"):
        counts[f"{name} {text!r} is none of {', '.join(known)}"] += 1
    return None


def of_one_split(rows: Sequence[XrayRow], problems: list[BadInput]) -> list[XrayRow]:
    """The images without those of patients who are in two splits, which become problems."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.patient, set()).add(row.split)
    for row in rows:
        if len(splits[row.patient]) > 1:
            names = " and ".join(sorted(splits[row.patient]))
            problems.append(BadInput(row.path, f"is of patient {row.patient}, who is in {names}, expected one split"))
    return [row for row in rows if len(splits[row.patient]) == 1]


def named_files(root: Path, listing: CXRListing, read: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """Name of an X-ray -> where files of that name lie below a folder, sorted; by ending, without one by content.

    Args:
        root: the folder.
        listing: other files are counted into its `other`, what is no file becomes one of its `problems`.
        read: tables and lists that the layout reads, which are no other files.
    """
    found: dict[str, list[Path]] = {}
    read = {Path(path) for path in read}
    for path in walk_files(root, listing.problems, listing.other):
        if path.suffix.lower() in XRAY_SUFFIXES or (other_kind(path) == "without ending" and _is_xray(path)):
            found.setdefault(path.name, []).append(path)
        elif path not in read:
            listing.other[other_kind(path)] += 1
    return found


def _is_xray(path: Path) -> bool:
    try:
        return file_kind(path) in XRAY_KINDS
    except BadInput:
        return False  # counted, and refused if a row names it


def count_unnamed(listing: CXRListing, files: Mapping[str, Sequence[Path]], named: Container[Path]) -> None:
    """Count the X-rays among `named_files` that no row names as other files."""
    for paths in files.values():
        listing.other.update(other_kind(path) for path in paths if path not in named)


def image_of_row(root: Path, name: str, folders: Iterable[str], files: Mapping[str, list[Path]]) -> Path:
    """The image that a row of a table names: in the first of some folders that has it, else the only one of that name.

    Args:
        root: the folder that the image lies in or below.
        name: of the file, or its path.
        folders: below the root, "" for the root itself.
        files: of the root, see `named_files`.

    Raises:
        BadInput: if there is none of that name, or more.
    """
    for folder in folders:
        path = root / folder / name
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path
    path = root / name
    paths = files.get(path.name, [])
    if len(paths) != 1:
        why = "exists more than once below it, expected one file" if paths else "does not exist, but has a row"
        raise BadInput(path, why)
    return paths[0]
