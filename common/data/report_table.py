"""Tables of reports, .csv or .csv.gz, row by row: a damaged row comes out as what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.io.bad_input import BadInput

csv.field_size_limit(sys.maxsize)  # a report may be longer than the 128 KiB that Python expects of a field

TableRow = tuple[int, dict[str, str]]
"""The line that a row ends on, and its cells by column."""


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def report_columns(path: str | os.PathLike[str]) -> list[str]:
    """Return the column names of a table.

    Raises:
        BadInput: if it does not exist, is empty, not UTF-8 or damaged there, or names a column twice.
    """
    path = Path(path)
    for row in _lines(path):
        if isinstance(row, BadInput):
            raise row
        names = row[1]
        if _undecoded(names):
            raise BadInput(path, "is not UTF-8 text (line 1)")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise BadInput(path, f"has the column {twice[0]!r} twice, expected each once")
        return names
    raise BadInput(path, "is empty, expected a table with a header")


def report_rows(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[TableRow | BadInput]:
    """Yield the rows of a table, and in the place of each that cannot be read what is wrong with it.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: which it must have.

    Raises:
        BadInput: as `report_columns`, and if a column is missing.
    """
    path = Path(path)
    names = report_columns(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadInput(path, f"has no column {missing[0]!r}, expected it among {', '.join(names)}")
    lines = _lines(path)
    next(lines)
    for row in lines:
        if isinstance(row, BadInput):
            yield row
            continue
        line, cells = row
        if not cells:
            continue  # an empty line between rows is none
        if len(cells) != len(names):
            yield BadInput(path, f"line {line} has {len(cells)} fields, expected {len(names)}")
        elif _undecoded(cells):
            yield BadInput(path, f"line {line} is not UTF-8 text")
        else:
            yield line, dict(zip(names, cells, strict=True))


def _lines(path: Path) -> Iterator[tuple[int, list[str]] | BadInput]:
    """Rows with their line; damage after which nothing can be read is the last item."""
    line = 0
    with _opened(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                line = reader.line_num
                yield line, row
        except csv.Error as error:
            yield BadInput(path, f"is no CSV table after line {line} ({error}), its other rows cannot be read")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield BadInput(path, f"is a damaged gzip file after line {line} ({error})")


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    try:
        binary = gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected a CSV table") from error
    except OSError as error:
        raise BadInput(path, f"cannot be opened ({error.strerror}), expected a CSV table") from error
    # Bytes that are no text survive decoding as surrogates, so that one bad row does not hide the others.
    with io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield file


def _undecoded(cells: Sequence[str]) -> bool:
    text = "".join(cells)
    return not text.isascii() and any("\udc80" <= sign <= "\udcff" for sign in text)
