"""A CSV table that somebody else wrote, read row by row and refused in a sentence where it is damaged."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.io.bad_input import BadInput

__all__ = ["read_columns", "read_rows"]

csv.field_size_limit(sys.maxsize)  # a report may be longer than the 128 KiB that Python expects of a field


def read_columns(path: str | Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        BadInput: if it does not exist, is empty, is not UTF-8 or names a column twice.
    """
    for _, row in _rows(Path(path)):
        if any("\0" in name for name in row):
            raise BadInput(path, "holds a zero byte in its header, expected text")
        twice = [name for name in row if row.count(name) > 1]
        if twice:
            raise BadInput(path, f"has the column {twice[0]!r} twice, expected each once")
        return row
    raise BadInput(path, "is empty, expected a table with a header")


def read_rows(path: str | Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table, with the line each ends on; the table is never held in memory.

    Args:
        path: the CSV file, UTF-8 with or without a byte order mark.
        columns: which it must have.

    Raises:
        BadInput: as `read_columns`; also if a column is missing or a row has not as many fields as the header.
    """
    names = read_columns(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadInput(path, f"has no column {missing[0]!r}, expected it among {', '.join(names)}")
    for line, row in _rows(Path(path)):
        if line and row:
            if len(row) != len(names):
                raise BadInput(path, f"line {line} has {len(row)} fields, expected {len(names)}")
            yield line, dict(zip(names, row, strict=True))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with their line, that of the header being 0."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for number, row in enumerate(reader):
                yield number and reader.line_num, row
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected a CSV table") from error
    except IsADirectoryError as error:
        raise BadInput(path, "is a folder, expected a CSV table") from error
    except UnicodeDecodeError as error:
        raise BadInput(path, f"is not UTF-8 text ({error.reason})") from error
    except csv.Error as error:
        raise BadInput(path, f"is no CSV table (line {reader.line_num}: {error})") from error
