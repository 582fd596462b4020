"""NIH ChestX-ray14: X-rays with 14 findings read from their reports, age, sex and view.

    Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv), images_*/images/*.png, train_val_list.txt, test_list.txt
    nih_metadata.csv          a cut of it, with the path of each image in the column `image`

With the two official lists test patients are those of the list and the others are split; without them all are.
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
    known_word,
    named_files,
    table_rows,
)
from common.data.ehr.clinical_vector import clinical_row, plausible
from common.io.bad_input import BadInput, read_text
from common.io.table import plain_id
from common.text.notes.ed_note import ed_note

__all__ = ["NIH_LABELS", "NIH_TABLES", "find_nih"]

NIH_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
"""The 14 findings; the manifest also has "No Finding", which is their absence."""
NIH_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "nih_metadata.csv")
TEST_SPLIT = "test"
_LISTS = {"train_val_list.txt": "", "test_list.txt": TEST_SPLIT}
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
_AGE = re.compile(r"(\d{1,4})([YMWD]?)")
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


def find_nih(source: str | os.PathLike[str]) -> CXRListing:
    """List the images, without opening them.

    Ages are years ("077", "58") or have a unit ("060Y", "018M", "012D"); impossible ones (such as "411") are left
    blank and counted.

    Args:
        source: the folder with one of `NIH_TABLES`, or the table itself.

    Raises:
        BadInput: if there is no table, or it lacks a column.
    """
    table = find_cxr_table(source, NIH_TABLES)
    root = table.parent
    listing = CXRListing(labels=(*NIH_LABELS, "No Finding"))
    files = named_files(root, listing, [table, *(root / name for name in _LISTS)])
    split_of = _official(root, listing.problems)
    counts: Counter[str] = Counter()
    seen: dict[str, Path] = {}
    listed: set[Path] = set()
    for row in table_rows(table, _COLUMNS, listing.problems, ("image",)):
        try:
            path = image_of_row(root, row["image"] or row["Image Index"], [""] if row["image"] else [], files)
            listed.add(path)
            case = Path(row["Image Index"]).stem
            if case in seen:
                raise BadInput(path, f"has a second row of case {case!r}, the first is kept")
            seen[case] = path
            if not plain_id(row["Patient ID"]).isdigit():
                raise BadInput(path, f"has Patient ID {row['Patient ID']!r}, expected digits")
            labels = _labels(path, row["Finding Labels"])
            split = _split(path, row["Image Index"], split_of)
        except BadInput as problem:
            listing.problems.append(problem)
            continue
        sex = known_word(row["Patient Gender"], ("F", "M"), counts, "sex")
        context = {"age": _age(row["Patient Age"], counts), "sex": sex}
        patient, view = plain_id(row["Patient ID"]), row["View Position"].upper()
        known_word(view, ("PA", "AP"), counts, "view")
        listing.rows.append(XrayRow(case, patient, split, path, case, view, labels))
        listing.notes[case] = ed_note(context)
        listing.clinical[case] = clinical_row(context)
    _check_official(listing)
    folders = {path.parent for path in listed}
    for path in sorted(path for paths in files.values() for path in paths if path not in listed):
        if path.parent in folders:
            listing.problems.append(BadInput(path, f"has no row in {table.name}"))
            listed.add(path)
    count_unnamed(listing, files, listed)
    listing.facts = {"table": table.name, "official_test": bool(split_of), "not_used": dict(sorted(counts.items()))}
    return listing


def _labels(path: Path, text: str) -> dict[str, float]:
    names = set(text.split("|"))
    unknown = sorted(names - {*NIH_LABELS, "No Finding"})
    if unknown:
        raise BadInput(path, f"has the finding {unknown[0]!r}, expected some of {', '.join(NIH_LABELS)}, No Finding")
    if "No Finding" in names and len(names) > 1:
        raise BadInput(path, f"has the findings {text!r}, expected No Finding alone or others")
    return {name: float(name in names) for name in (*NIH_LABELS, "No Finding")}


def _age(text: str, counts: Counter[str]) -> int | None:
    match = _AGE.fullmatch(text.upper())
    if not match:
        counts["age is blank" if not text else "age is no number"] += 1
        return None
    years = int(match[1]) / _PER_YEAR[match[2]]
    if not plausible("age", years):
        counts["age out of bounds"] += 1
        return None
    return int(years)


def _official(root: Path, problems: list[BadInput]) -> dict[str, str]:
    """Image name -> "test" or "" (train or val), of the two lists; nothing if neither is there."""
    present = [root / name for name in _LISTS if (root / name).is_file()]
    if len(present) == 1:
        problems.append(BadInput(present[0], "stands alone, expected both lists of the official split; not used"))
    if len(present) != len(_LISTS):
        return {}
    split_of: dict[str, str] = {}
    for path in present:
        for name in read_text(path, "a list of images").split():
            if split_of.setdefault(name, _LISTS[path.name]) != _LISTS[path.name]:
                problems.append(BadInput(path, f"lists {name}, which the other list has too"))
    return split_of


def _split(path: Path, name: str, split_of: dict[str, str]) -> str:
    if split_of and name not in split_of:
        raise BadInput(path, "is in neither list of the official split")
    return split_of.get(name, "")


def _check_official(listing: CXRListing) -> None:
    """Leave out patients whom the official lists have on both sides."""
    test = {row.patient for row in listing.rows if row.split == TEST_SPLIT}
    torn = test & {row.patient for row in listing.rows if not row.split}
    for row in listing.rows:
        if row.patient in torn:
            listing.problems.append(BadInput(row.path, f"is of patient {row.patient}, who is in both official lists"))
    listing.rows = [row for row in listing.rows if row.patient not in torn]
