"""Tables of MIMIC-IV as PhysioNet ships them (csv or csv.gz), read as a stream: a table is never held in memory.

Rows are selected by the raw bytes of their id columns and only the selected ones are decoded: the time goes into the
wanted rows, and the memory depends on the reader alone (labevents has more than 100 million rows).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from common.io.bad_input import BadInput

_BUFFER = 1 << 17
_MAX_LINES = 100  # of one record whose quoted text holds line breaks; more means that a quote was never closed


class DamagedTable(BadInput):
    """A table that ends in the middle or whose compression is broken; the rows before the damage were given out."""


@dataclass
class TableCounts:
    """What happened to the rows of one table.

    Attributes:
        rows: rows read, the header not counted.
        selected: rows that the selection kept.
        bad: reason -> rows that could not be read.
    """

    rows: int = 0
    selected: int = 0
    bad: Counter[str] = field(default_factory=Counter)


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


def stream_rows(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    keep: Mapping[str, Collection[str]] | None = None,
    counts: TableCounts | None = None,
) -> Iterator[tuple[str, ...]]:
    """Yield the wanted columns of the wanted rows, in the order of the file.

    Args:
        path: .csv or .csv.gz, UTF-8, with a header.
        columns: names of the columns to return.
        keep: column -> the ids it may have; a row must satisfy all of them. None keeps every row.
        counts: counted into, as far as the caller has consumed the rows.

    Yields:
        One text per column, blanks as "".

    Raises:
        BadInput: if the file is missing, empty, not UTF-8 or lacks a column.
        DamagedTable: if its compressed data end or break; the rows before were yielded.
    """
    path = Path(path)
    counts = TableCounts() if counts is None else counts
    try:
        with _open(path) as file:
            header = _header(path, file.readline(), [*columns, *(keep or {})])
            tests = sorted((header.index(name), frozenset(ids)) for name, ids in (keep or {}).items())
            wanted = [header.index(name) for name in columns]
            for fields in _selected(file, tests, len(header), counts):
                counts.selected += 1
                yield tuple([fields[i] for i in wanted])
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected a table of MIMIC-IV") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedTable(path, f"is a damaged gzip file after row {counts.rows} ({error})") from error


def parse_time(text: str) -> datetime | None:
    """Read ``2180-05-06 22:23:00``; None if the text is anything else."""
    if len(text) != 19 or text[10] != " ":
        return None
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
    """Read an id, digits only; None if the text is anything else."""
    return int(text) if text.isascii() and text.isdigit() else None


def _open(path: Path) -> BinaryIO:
    # gzip's own readline is Python code; a buffer around it cuts lines in C.
    return io.BufferedReader(gzip.open(path), _BUFFER) if path.suffix == ".gz" else path.open("rb", _BUFFER)


def _header(path: Path, line: bytes, needed: Sequence[str]) -> list[str]:
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(path, f"is not UTF-8 text (byte {error.start} of the header)") from error
    if not text:
        raise BadInput(path, "is empty, expected a header and rows")
    header = next(csv.reader([text]))
    for name in needed:
        if header.count(name) != 1:
            many = "has no column" if name not in header else "has twice the column"
            raise BadInput(path, f"{many} {name!r}, expected {', '.join(dict.fromkeys(needed))}")
    return header


def _selected(
    file: BinaryIO, tests: list[tuple[int, frozenset[str]]], width: int, counts: TableCounts
) -> Iterator[list[str]]:
    """Yield the fields of the rows in which each tested column, by its index, has one of the ids."""
    raw_tests = [(i, frozenset(value.encode() for value in ids)) for i, ids in tests]
    n_head = tests[-1][0] + 1 if tests else 0
    pending: deque[bytes] = deque()
    for line in _lines(file, pending):
        counts.rows += 1
        if b'"' in line:
            fields = _quoted_record(line, file, pending, width)
            if fields is None:
                counts.bad["quoted text that cannot be read"] += 1
            elif all(fields[i] in ids for i, ids in tests):
                yield fields
            continue
        head = line.split(b",", n_head)
        if len(head) <= n_head:
            head[-1] = head[-1].rstrip(b"\r\n")  # the last column is tested, or the row is too short
        if len(head) < n_head:
            counts.bad["wrong number of fields"] += 1
            continue
        for i, ids in raw_tests:
            if head[i] not in ids:
                break
        else:
            try:
                fields = line.decode("utf-8").rstrip("\r\n").split(",")
            except UnicodeDecodeError:
                counts.bad["not UTF-8"] += 1
                continue
            if len(fields) == width:
                yield fields
            else:
                counts.bad["wrong number of fields"] += 1


def _lines(file: BinaryIO, pending: deque[bytes]) -> Iterator[bytes]:
    """Lines of a file; what the consumer puts into ``pending`` comes before the next one."""
    for line in file:
        yield line
        while pending:
            yield pending.popleft()


def _quoted_record(line: bytes, file: BinaryIO, pending: deque[bytes], width: int) -> list[str] | None:
    """Fields of a record whose first line is given; None, and the lines after it left unread, if it is none."""
    fields = _parse(line, width)
    if fields is not None or line.count(b'"') % 2 == 0:
        return fields
    lines = [line]
    closed = False
    while not closed and len(lines) < _MAX_LINES:
        more = pending.popleft() if pending else file.readline()
        if not more:
            break
        lines.append(more)
        closed = more.count(b'"') % 2 == 1
    fields = _parse(b"".join(lines), width) if closed else None
    if fields is None:
        pending.extendleft(reversed(lines[1:]))
    return fields


def _parse(record: bytes, width: int) -> list[str] | None:
    try:
        records = list(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None
    return records[0] if len(records) == 1 and len(records[0]) == width else None
