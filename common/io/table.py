"""The reader of CSV tables: row by row, packed or not; a row that cannot be read is named, and hides no other.

It is neither pandas nor the csv module alone. pandas renames a second column of the same name, fills a row that is too
short and does not know the line of one it cannot read; the csv module takes all that follows a quote which is never
closed for one cell. Here lines are cut first, and only a record with quotes is given to the csv module.

    iter_rows, read_rows   rows by column, for any table
    stream_rows            the wanted columns of the wanted rows, for tables of a hundred million rows (MIMIC-IV)
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from common.io.bad_input import BadInput

__all__ = [
    "DamagedTable", "TableCounts", "TableRow", "is_table", "iter_rows", "plain_id", "read_columns", "read_rows",
    "stream_rows",
]  # fmt: skip

csv.field_size_limit(sys.maxsize)  # a report may be longer than the 128 KiB that Python expects of a field

TableRow = tuple[int, dict[str, str]]
"""The line that a row ends on, and its cells by column."""

_BUFFER = 1 << 17
_MAX_LINES = 2000  # of one record whose quoted text holds line breaks; more means that a quote was never closed
_ID = re.compile(r"(\d+)\.0*")
_EXPONENT = re.compile(r"(\d)\.(\d+)E(\d{1,2})")  # as Java writes a double: all digits, no plus, no zero in front
_STARTS = {
    b"PK\x03\x04": "is a zip archive or an Excel workbook",
    b"\xff\xfe": "is UTF-16 text",
    b"\xfe\xff": "is UTF-16 text",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook",
}


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


@dataclass(frozen=True, slots=True)
class _Bad:
    """A record that is none: what is wrong with any such, for counts, and with this one, after `line N `."""

    kind: str
    reason: str


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, up to the very place where it is damaged."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@dataclass
class _Table:
    """An open table behind its header."""

    file: BinaryIO
    names: list[str]
    delimiter: bytes
    line: int  # the last one read; a selection moves it on for rows with quotes only
    spare: int  # blank names at the end of the header, under which no row may hold anything


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


def plain_id(text: str) -> str:
    """An id without what programs that took it for a number have added: `27959241.0` and `2.7959241E7` are `27959241`.

    Zeros in front stay, and so does whatever is no whole number.
    """
    if text.isdigit():
        return text
    text = text.strip()
    if match := _ID.fullmatch(text):
        return match[1]
    match = _EXPONENT.fullmatch(text)
    if match and 7 <= int(match[3]) <= 18 and len(match[2]) <= int(match[3]):
        return match[1] + match[2].ljust(int(match[3]), "0")
    return text


def read_columns(path: str | Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        BadInput: if it does not exist, is empty, is not UTF-8 or damaged there, or names a column twice.
    """
    with _opened(Path(path)) as table:
        return table.names


def read_rows(path: str | Path, columns: Sequence[str] = ()) -> Iterator[TableRow]:
    """Yield the rows of a table, with the line each ends on; the table is never held in memory.

    Args:
        path: UTF-8 with or without a byte order mark, cells parted by commas, semicolons or tabs as in its header,
            packed by gzip or not, whatever its name says.
        columns: which it must have.

    Raises:
        BadInput: as `read_columns`; if a column is missing, a row has not as many cells as the header or is not UTF-8.
    """
    for row in iter_rows(path, columns):
        if isinstance(row, BadInput):
            raise row
        yield row


def iter_rows(path: str | Path, columns: Sequence[str] = ()) -> Iterator[TableRow | BadInput]:
    """As `read_rows`, but what is wrong with a row comes in its place, so that one bad row does not hide the others.

    Raises:
        BadInput: as `read_columns`, and if a column is missing.
    """
    path = Path(path)
    with _opened(path) as table:
        _check_columns(path, table.names, columns)
        try:
            for cells in _records(table, [], TableCounts()):
                if isinstance(cells, _Bad):
                    yield BadInput(path, f"line {table.line} {cells.reason}")
                else:
                    yield table.line, dict(zip(table.names, cells, strict=True))
        except _DAMAGE as error:
            yield _damage(path, f"line {table.line}", error)


def stream_rows(
    path: str | Path,
    columns: Sequence[str],
    keep: Mapping[str, Collection[str]] | None = None,
    counts: TableCounts | None = None,
) -> Iterator[tuple[str, ...]]:
    """Yield the wanted columns of the wanted rows, in the order of the file.

    Rows are selected by the raw bytes of their id columns and only the selected ones are decoded: the time goes into
    the wanted rows, and the memory depends on the reader alone.

    Args:
        path: as of `read_rows`.
        columns: names of the columns to return; in those called `*_id` and `itemid` an id is a `plain_id`.
        keep: column -> the ids it may have; a row must satisfy all of them. None keeps every row.
        counts: counted into, as far as the caller has consumed the rows. A row whose id is none in the first column
            of `keep` is a bad one, since nobody knows whose it is.

    Yields:
        One text per column, blanks as "".

    Raises:
        BadInput: as `read_columns`, or if a column is missing.
        DamagedTable: if its compressed data end or break; the rows before were yielded.
    """
    path = Path(path)
    counts = TableCounts() if counts is None else counts
    with _opened(path) as table:
        _check_columns(path, table.names, [*columns, *(keep or {})])
        tests = sorted((table.names.index(name), _spellings(ids)) for name, ids in (keep or {}).items())
        wanted = [table.names.index(name) for name in columns]
        ids = [place for place, name in enumerate(columns) if name.endswith("_id") or name == "itemid"]
        try:
            for cells in _records(table, tests, counts):
                if isinstance(cells, _Bad):
                    counts.bad[cells.kind] += 1
                    continue
                counts.selected += 1
                found = [cells[i] for i in wanted]
                for place in ids:
                    if not found[place].isdigit():
                        found[place] = plain_id(found[place])
                yield tuple(found)
        except _DAMAGE as error:
            raise _damage(path, f"row {counts.rows}", error) from error


_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


def _damage(path: Path, where: str, error: Exception) -> DamagedTable:
    return DamagedTable(path, f"is a damaged gzip file after {where} ({error})")


def _spellings(ids: Collection[str]) -> frozenset[str]:
    """The ids, and how they look where a program took them for numbers (see `plain_id`)."""
    numbers = [text for text in ids if text.isascii() and text.isdigit()]
    long = [text for text in numbers if len(text) > 7 and text[0] != "0"]
    java = [f"{text[0]}.{text[1:].rstrip('0') or '0'}E{len(text) - 1}" for text in long]
    return frozenset([*ids, *(f"{text}.0" for text in numbers), *java])


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadInput(path, f"has no column {missing[0]!r}, expected it among {', '.join(names)}")


@contextmanager
def _opened(path: Path) -> Iterator[_Table]:
    """A table behind its header."""
    try:
        with path.open("rb") as raw:
            start = raw.peek(4)[:4]
            for mark, what in _STARTS.items():
                if start.startswith(mark):
                    raise BadInput(path, f"{what}, expected a CSV table as UTF-8 text")
            packed = start.startswith(b"\x1f\x8b")
            # gzip's own readline is Python code; a buffer around it cuts lines in C.
            file = io.BufferedReader(_Unpacked(gzip.open(raw)) if packed else raw, _BUFFER)
            try:
                table = _header(path, file)
            except _DAMAGE as error:
                raise _damage(path, "line 0", error) from error
            yield table
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected a CSV table") from error
    except IsADirectoryError as error:
        raise BadInput(path, "is a folder, expected a CSV table") from error
    except OSError as error:
        if isinstance(error, _DAMAGE):
            raise
        raise BadInput(path, f"cannot be read ({error.strerror}), expected a CSV table") from error


def _header(path: Path, file: BinaryIO) -> _Table:
    line, first = 0, b""
    for first in file:
        line += 1
        if b"\r" in first.rstrip(b"\r\n"):  # lines that end in a lone carriage return, as of an old Macintosh
            rest = first + file.read()
            file = io.BytesIO(rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
            first = file.readline()
        first = first.removeprefix(b"\xef\xbb\xbf") if line == 1 else first
        if first.strip(b"\r\n") and not re.fullmatch(rb"sep=.\r?\n", first):  # which Excel writes above a header
            break
    else:
        raise BadInput(path, "is empty, expected a table with a header")
    bare = re.sub(rb'"[^"]*"', b"", first)
    delimiter = max((b",", b";", b"\t"), key=bare.count)
    table = _Table(file, [], delimiter, line, 0)
    names = _quoted_record(first, table, deque()) if b'"' in first else _decoded(first, delimiter)
    if b"\0" in first:
        raise BadInput(path, "holds a zero byte in its header, expected text")
    if names is None:
        raise BadInput(path, f"has a header that cannot be read (line {table.line}), expected names of columns")
    if isinstance(names, _Bad):
        raise BadInput(path, f"{names.reason}, line {table.line}")
    while len(names) > 1 and not names[-1].strip():
        names.pop()
        table.spare += 1
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadInput(path, f"has the column {twice[0]!r} twice, expected each once")
    table.names = names
    return table


def _records(table: _Table, tests: list[tuple[int, frozenset[str]]], counts: TableCounts) -> Iterator[list[str] | _Bad]:
    """Yield the cells of the rows in which each tested column, by its index, has one of the ids, and what is no row."""
    (first, first_ids), *further = [(i, frozenset(map(str.encode, ids))) for i, ids in tests] or [(0, frozenset())]
    numbers, n_head = all(cell.isdigit() or b"." in cell for cell in first_ids), (further or [(first, None)])[-1][0] + 1
    no_id = _Bad(f"{table.names[first]} is not an id", f"has a {table.names[first]} that is not an id")
    file, delimiter, width = table.file, table.delimiter, len(table.names)
    pending: deque[bytes] = deque()
    rows = 0
    try:
        for rows, line in enumerate(_lines(file, pending), 1):
            if b'"' in line:
                counts.rows, table.line = rows, table.line + 1
                fields = _quoted_record(line, table, pending)
                if isinstance(fields, list):
                    fields = _checked(fields, table)
                if isinstance(fields, _Bad) or fields is None:
                    yield fields or _Bad("quoted text that cannot be read", "has quoted text that cannot be read")
                elif all(fields[i] in ids for i, ids in tests):
                    yield fields
                elif tests and numbers and not plain_id(fields[first]).isdigit():
                    yield no_id
                continue
            if not tests:
                table.line += 1
                if line.strip(b"\r\n"):
                    counts.rows = rows
                    yield _checked(_decoded(line, delimiter), table)
                continue
            head = line.split(delimiter, n_head)
            if len(head) <= n_head:
                head[-1] = head[-1].rstrip(b"\r\n")  # the last column is tested, or the row is too short
                if len(head) < n_head:
                    counts.rows = rows
                    yield _wrong_number(head, width)
                    continue
            if head[first] not in first_ids:
                # Rows of other patients are no fault; one whose id is none is nobody's.
                if (
                    not head[first].isdigit()
                    and numbers
                    and not plain_id(head[first].decode("utf-8", "replace")).isdigit()
                ):
                    counts.rows = rows
                    yield no_id
                continue
            for i, ids in further:
                if head[i] not in ids:
                    break
            else:
                counts.rows = rows
                yield _checked(_decoded(line, delimiter), table)
    finally:
        counts.rows = rows


def _checked(fields: list[str] | _Bad, table: _Table) -> list[str] | _Bad:
    """A row without quotes, if it has as many cells as the header has names."""
    if isinstance(fields, _Bad) or len(fields) == len(table.names) or _fits(fields, table):
        return fields
    return _wrong_number(fields, len(table.names))


def _fits(fields: list[str], table: _Table) -> bool:
    """Take off the cells below the blank names at the end of a header, if these are blank and nothing else is wrong."""
    more = fields[len(table.names) :]
    if not more or len(more) > table.spare or any(cell.strip() for cell in more):
        return False
    del fields[len(table.names) :]
    return True


def _wrong_number(fields: Sequence[object], width: int) -> _Bad:
    return _Bad("wrong number of fields", f"has {len(fields)} fields, expected {width}")


def _decoded(line: bytes, delimiter: bytes) -> list[str] | _Bad:
    """The cells of a line without quotes."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return _not_utf8(line, error)
    return _without_zeros(text, text.split(delimiter.decode()))


def _not_utf8(record: bytes, error: UnicodeDecodeError) -> _Bad:
    return _Bad("not UTF-8", f"is not UTF-8 text (byte 0x{record[error.start]:02X}, as of Latin-1 or Windows-1252)")


def _without_zeros(text: str, cells: list[str]) -> list[str] | _Bad:
    return _Bad("a zero byte", "holds a zero byte, expected text") if "\0" in text else cells


def _lines(file: BinaryIO, pending: deque[bytes]) -> Iterator[bytes]:
    """Lines of a file; what the consumer puts into ``pending`` comes before the next one."""
    for line in file:
        yield line
        while pending:
            yield pending.popleft()


def _quoted_record(line: bytes, table: _Table, pending: deque[bytes]) -> list[str] | _Bad | None:
    """Cells of a record whose first line is given; None, and the lines after it left unread, if it is none.

    A quote that is never closed so costs its own line and no other.
    """
    fields = _parsed(line, table)
    if _is_row(fields, table) or line.count(b'"') % 2 == 0:
        return fields
    lines = [line]
    closed = False
    while not closed and len(lines) < _MAX_LINES:
        more = pending.popleft() if pending else table.file.readline()
        if not more:
            break
        lines.append(more)
        closed = more.count(b'"') % 2 == 1
    whole = _parsed(b"".join(lines), table) if closed else None
    if _is_row(whole, table):
        table.line += len(lines) - 1
        return whole
    pending.extendleft(reversed(lines[1:]))
    return fields


def _is_row(fields: list[str] | _Bad | None, table: _Table) -> bool:
    """Whether cells are as many as the header has names; those of the header itself may be any number."""
    width = len(table.names)
    return isinstance(fields, list) and (not width or len(fields) in (width, width + table.spare))


def _parsed(record: bytes, table: _Table) -> list[str] | _Bad | None:
    """The cells of one record by the csv module, None if it is none or more than one."""
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(record, error)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=table.delimiter.decode(), strict=True))
    except csv.Error:
        return None
    return _without_zeros(text, rows[0]) if len(rows) == 1 else None
