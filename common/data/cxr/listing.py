"""What the layouts of labelled X-rays have in common before their images are looked at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data.ehr.mimic_tables import parse_number
from common.io.bad_input import BadInput
from common.io.table import iter_rows

__all__ = ["CXRListing", "XrayRow", "find_cxr_table", "known_number", "named_files", "table_rows"]


@dataclass(frozen=True)
class XrayRow:
    """One image with its labels.

    Attributes:
        case: unique name.
        patient: whose it is.
        split: "train", "val" or "test"; "" where the data set does not say, so that patients are split later.
        image: the file.
        study: notes and clinical values belong to it.
        view: "PA", "AP", "LATERAL" or another word of the data set; "" if it is not stated.
        labels: name -> 1.0, 0.0, -1.0 (uncertain) or None (not mentioned).
        more: further columns of the manifest.
    """

    case: str
    patient: str
    split: str
    image: Path
    study: str
    view: str
    labels: Mapping[str, float | None]
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass
class CXRListing:
    """A data set of X-rays as its tables tell it.

    Attributes:
        rows: images in the order of the tables.
        labels: names of the label columns.
        notes: study -> note of the emergency department.
        clinical: study -> variables of `CLINICAL_COLUMNS` that are known.
        problems: rows and files that are not usable.
        left_out: (path, reason) of what was left out on purpose, which is no fault.
        facts: counts for prepare.json.
    """

    rows: list[XrayRow]
    labels: Sequence[str]
    notes: dict[str, str]
    clinical: dict[str, dict[str, float]]
    problems: list[BadInput]
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


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


def named_files(root: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """File name -> where files of that name lie below a folder, sorted; hidden ones are passed over."""
    found: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                found.setdefault(name, []).append(Path(parent, name))
    return found
