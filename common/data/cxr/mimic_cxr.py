"""The MIMIC-CXR(-JPG) tree: images with their official split, view, study time, report and 14 labels.

    files/p10/p10000032/s50414267/DICOM_ID.jpg      subject, study, image
    files/p10/p10000032/s50414267.txt
    mimic-cxr-2.0.0-{metadata,split,chexpert,negbio}.csv or .csv.gz

The tables decide: the split is the official one, the view is ViewPosition, labels are found by their names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from common.data.cxr.listing import LABEL_VALUES, XrayRow, of_one_split
from common.data.ehr.mimic_iv import parse_study_time
from common.data.ehr.mimic_tables import find_table, parse_id
from common.data.folder_files import other_kind, walk_files
from common.io.bad_input import BadInput
from common.io.table import TableCounts, stream_rows
from common.text.cxr_labeller import CHEXPERT_LABELS

__all__ = ["LABELLERS", "find_mimic_cxr", "mimic_table", "read_mimic_labels", "study_times"]

LABELLERS = ("chexpert", "negbio")
SPLITS = {"train": "train", "validate": "val", "test": "test"}
"""Word of the official table -> split here."""
SUFFIXES = (".jpg", ".png", ".dcm")
_METADATA = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")


def find_mimic_cxr(
    root: str | os.PathLike[str],
    labeller: str = "chexpert",
    reports: str | os.PathLike[str] | None = None,
    other: Counter[str] | None = None,
    absent: bool = False,
) -> tuple[list[XrayRow], list[BadInput]]:
    """List the images of MIMIC-CXR(-JPG) without opening them.

    Args:
        root: the folder with ``files`` and the tables.
        labeller: whose labels: "chexpert" or "negbio".
        reports: the folder with the ``files`` of the reports, if they are not beside the images.
        other: files below ``files`` that are neither images nor reports are counted into it.
        absent: list images that are not there as well, as .jpg, to fetch them.

    Returns:
        The usable images in the order of the metadata table, and a problem for every file or row that is not usable:
        rows without image, images without row, repeated ids, unknown values, patients in two splits. A case is named by
        its DICOM id, a study by "s" and its id as in mimic_cxr_sectioned.csv. The time of a study is the earliest that
        the table has for it, also in rows whose image cannot be used. The further columns: `report`, the file of the
        study's text, "" if it is not there; and `time`.

    Raises:
        BadInput: if a table is missing or cannot be read.
        ValueError: for an unknown labeller.
    """
    if labeller not in LABELLERS:
        raise ValueError(f"labeller is {labeller!r}, expected {' or '.join(LABELLERS)}.")
    root = Path(root)
    problems: list[BadInput] = []
    split_of = _read_splits(mimic_table(root, "split"), problems)
    labels_of = read_mimic_labels(mimic_table(root, labeller), problems)
    files, others = root / "files", Counter() if other is None else other
    present = {} if absent and not files.is_dir() else _files(files, problems, others)
    report_root = Path(root if reports is None else reports)
    metadata = mimic_table(root, "metadata")
    rows = list(_rows(metadata, _METADATA, problems))
    repeated = {case for case, n in Counter(row[0] for row in rows).items() if n > 1}
    times, no_time = _study_times(rows)
    images, listed = [], set()
    for case, subject, study, view, _, _ in rows:
        listed.add(case)
        if case in repeated:
            problems.append(BadInput(metadata, f"has image {case} more than once, expected each id once"))
            continue
        if parse_id(subject) is None or parse_id(study) is None:
            problems.append(
                BadInput(metadata, f"image {case} has subject {subject!r}, study {study!r}, expected digits")
            )
            continue
        folder = Path("files", f"p{subject[:2]}", f"p{subject}", f"s{study}")
        try:
            path = root / folder / f"{case}.jpg"
            path = path if absent and case not in present else _image_path(root / folder, case, present)
            if case not in split_of:
                raise BadInput(path, "has no usable row in the table of splits")
            if study not in labels_of:
                raise BadInput(path, f"has no usable row of its study s{study} in the table of {labeller}")
            if case in no_time:
                raise BadInput(metadata, f"image {case}: {no_time[case]}")
        except BadInput as problem:
            problems.append(problem)
            continue
        report = report_root / folder.with_suffix(".txt")
        more = {"report": str(report) if report.is_file() else "", "time": times[study].isoformat()}
        images.append(
            XrayRow(case, subject, split_of[case], path, f"s{study}", view, labels_of[study], more, times[study])
        )
    for case, path in present.items():
        if case not in listed:
            problems.append(BadInput(path, "has no row in the metadata table"))
    return of_one_split(images, problems), problems


def mimic_table(root: Path, name: str) -> Path:
    """The path of a table, such as "metadata".

    Raises:
        BadInput: if it is not there.
    """
    path = find_table(root, f"mimic-cxr-2.0.0-{name}")
    if path is None:
        raise BadInput(root, f"has no mimic-cxr-2.0.0-{name}.csv or .csv.gz, expected the tables of MIMIC-CXR-JPG")
    return path


def _rows(path: Path, columns: tuple[str, ...], problems: list[BadInput]) -> Iterator[tuple[str, ...]]:
    """Rows of a table; how many cannot be read becomes a problem."""
    counts = TableCounts()
    yield from stream_rows(path, columns, counts=counts)
    problems += [BadInput(path, f"has {n} rows that cannot be read: {why}") for why, n in counts.bad.items()]


def _read_splits(path: Path, problems: list[BadInput]) -> dict[str, str]:
    """DICOM id -> split."""
    split_of: dict[str, str] = {}
    for case, word in _rows(path, ("dicom_id", "split"), problems):
        split = SPLITS.get(word)
        if split is None:
            problems.append(BadInput(path, f"image {case} is in {word!r}, expected {', '.join(SPLITS)}"))
        elif split_of.setdefault(case, split) != split:
            problems.append(
                BadInput(path, f"image {case} is in {split_of[case]!r} and in {split!r}, expected one split")
            )
            split_of[case] = ""
    return {case: split for case, split in split_of.items() if split}


def read_mimic_labels(path: Path, problems: list[BadInput]) -> dict[str, dict[str, float | None]]:
    """Study id -> the 14 labels, of a table of chexpert or negbio; rows that are not usable become problems."""
    found: dict[str, dict[str, float | None]] = {}
    refused = set()
    for study, *cells in _rows(path, ("study_id", *CHEXPERT_LABELS), problems):
        row = dict(zip(CHEXPERT_LABELS, cells, strict=True))
        wrong = [(name, value) for name, value in row.items() if value not in LABEL_VALUES]
        if wrong:
            name, value = wrong[0]
            problems.append(BadInput(path, f"study {study} has {name} {value!r}, expected 1.0, 0.0, -1.0 or blank"))
            refused.add(study)
            continue
        labels = {name: LABEL_VALUES[value] for name, value in row.items()}
        if found.setdefault(study, labels) != labels:
            problems.append(BadInput(path, f"study {study} has two rows that differ, expected one"))
            refused.add(study)
    return {study: labels for study, labels in found.items() if study not in refused}


def _files(folder: Path, problems: list[BadInput], other: Counter[str]) -> dict[str, Path]:
    """Name without suffix -> image, of all images below a folder; other files than these and reports are counted."""
    found: dict[str, Path] = {}
    for path in walk_files(folder, problems, other):
        stem, suffix = os.path.splitext(path.name)
        if suffix in SUFFIXES:
            if found.setdefault(stem, path) != path:
                problems.append(BadInput(path, f"is a second file of image {stem}, beside {found[stem]}"))
        elif suffix != ".txt" or not stem.startswith("s"):
            other[other_kind(path)] += 1
    return found


def _image_path(folder: Path, case: str, present: Mapping[str, Path]) -> Path:
    path = present.get(case)
    if path is None:
        raise BadInput(folder / f"{case}.jpg", "does not exist, but has a row in the metadata table")
    if path.parent != folder:
        raise BadInput(path, f"lies elsewhere than its row in the metadata table says, expected it in {folder.name}")
    return path


def study_times(root: str | os.PathLike[str]) -> dict[str, datetime]:
    """Study id -> the earliest time that the metadata table has for it.

    Raises:
        BadInput: if the table is missing or cannot be read.
    """
    return _study_times(list(stream_rows(mimic_table(Path(root), "metadata"), _METADATA)))[0]


def _study_times(rows: Iterable[tuple[str, ...]]) -> tuple[dict[str, datetime], dict[str, str]]:
    """Study id -> its earliest time (what was written later is not known before it), image -> why it has no time."""
    times: dict[str, datetime] = {}
    no_time: dict[str, str] = {}
    for case, _, study, _, date, clock in rows:
        try:
            time = parse_study_time(date, clock)
            times[study] = min(time, times.get(study, time))
        except ValueError as error:
            no_time[case] = str(error)
    return times, no_time
