"""Tables of MIMIC-IV as PhysioNet ships them (csv or csv.gz): where they are, and what stands in their cells."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from common.io.bad_input import BadInput
from common.io.table import TableCounts, plain_id


class UniqueRows:
    """Rows of a table whose ids occur once: one of equal rows is kept, of contradictory ones none.

    Attributes:
        rows: id -> row, anything with ``==``.

    Args:
        counts: repeated rows are counted into.
    """

    def __init__(self, counts: TableCounts) -> None:
        self.rows: dict[int, Any] = {}
        self._conflicts: set[int] = set()
        self._counts = counts

    def add(self, key: int, row: object) -> None:
        """Add a row of an id."""
        bad = self._counts.bad
        if key in self._conflicts:
            bad["id occurs again with other values, none is used"] += 1
        elif key not in self.rows:
            self.rows[key] = row
        elif self.rows[key] == row:
            bad["repeated row, used once"] += 1
        else:
            del self.rows[key]
            self._conflicts.add(key)
            bad["id occurs again with other values, none is used"] += 2


def find_table(root: str | os.PathLike[str] | None, name: str) -> Path | None:
    """Find a table in a MIMIC folder.

    Args:
        root: the folder that holds ``hosp``, ``icu`` or ``ed``; None if there is none.
        name: e.g. ``"hosp/labevents"``.

    Returns:
        The path of NAME.csv or NAME.csv.gz, None if there is neither.

    Raises:
        BadInput: if there are both.
    """
    if root is None:
        return None
    found = [path for path in (Path(root) / f"{name}.csv", Path(root) / f"{name}.csv.gz") if path.is_file()]
    if len(found) == 2:
        raise BadInput(found[0], f"stands beside {found[1].name}, expected one of the two")
    return found[0] if found else None


def parse_time(text: str) -> datetime | None:
    """Read ``2180-05-06 22:23:00``, also with a fraction of zeros or as UTC, as databases write it; else None."""
    if len(text) != 19 or text[10] != " ":
        plain = text.removesuffix(" UTC").partition(".")
        if not text or len(plain[0]) != 19 or plain[0][10] != " " or plain[2].strip("0"):
            return None
        text = plain[0]
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def parse_number(text: str) -> float | None:
    """Read a finite decimal number; None if the text is anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") and "_" not in text else None


def parse_id(text: str) -> int | None:
    """Read an id, digits only or a number that stands for them (`plain_id`); None if the text is anything else."""
    text = plain_id(text)
    return int(text) if text.isascii() and text.isdigit() else None
