"""The reader of CSV tables: row by row, packed or not, and refused in a sentence that names the line of the damage.

It is the csv module and not pandas, which renames a second column of the same name, fills a row that is too short,
takes the first cell of rows that are too long for an index, and does not know the line of a row it cannot read.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from common.io.bad_input import BadInput

__all__ = ["TableRow", "is_table", "iter_rows", "read_columns", "read_rows"]

csv.field_size_limit(sys.maxsize)  # a report may be longer than the 128 KiB that Python expects of a field

TableRow = tuple[int, dict[str, str]]
"""The line that a row ends on, and its cells by column."""


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def read_columns(path: str | Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        BadInput: if it does not exist, is empty, is not UTF-8 or damaged there, or names a column twice.
    """
    with closing(_lines(Path(path))) as lines:
        return _columns(Path(path), lines)


def read_rows(path: str | Path, columns: Sequence[str] = ()) -> Iterator[TableRow]:
    """Yield the rows of a table, with the line each ends on; the table is never held in memory.

    Args:
        path: UTF-8 with or without a byte order mark, cells parted by commas or by semicolons as in its header, packed
            by gzip or not.
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
    lines = _lines(path)
    names = _columns(path, lines)
    missing = [name for name in columns if name not in names]
    if missing:
        raise BadInput(path, f"has no column {missing[0]!r}, expected it among {', '.join(names)}")
    try:
        for line, cells in lines:
            if _undecoded(cells):
                yield BadInput(path, f"line {line} is not UTF-8 text")
            elif len(cells) != len(names):
                yield BadInput(path, f"line {line} has {len(cells)} fields, expected {len(names)}")
            else:
                yield line, dict(zip(names, cells, strict=True))
    except BadInput as error:
        yield error


def _columns(path: Path, lines: Iterator[tuple[int, list[str]]]) -> list[str]:
    for line, names in lines:
        if _undecoded(names):
            raise BadInput(path, f"is not UTF-8 text (line {line})")
        if any("\0" in name for name in names):
            raise BadInput(path, "holds a zero byte in its header, expected text")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise BadInput(path, f"has the column {twice[0]!r} twice, expected each once")
        return names
    raise BadInput(path, "is empty, expected a table with a header")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that has any, with the line it ends on."""
    line = 0
    try:
        with path.open("rb") as file:
            binary = gzip.open(file) if file.peek(2).startswith(b"\x1f\x8b") else file
            # Bytes that are no text survive decoding as surrogates, so that one bad row does not hide the others.
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
            header = text.readline()
            bare = re.sub('"[^"]*"', "", header)
            delimiter = ";" if bare.count(";") > bare.count(",") else ","
            reader = csv.reader(itertools.chain([header], text), delimiter=delimiter, strict=True)
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, cells
    except FileNotFoundError as error:
        raise BadInput(path, "does not exist, expected a CSV table") from error
    except IsADirectoryError as error:
        raise BadInput(path, "is a folder, expected a CSV table") from error
    except csv.Error as error:
        raise BadInput(path, f"is no CSV table after line {line} ({error}), its other rows cannot be read") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(path, f"is a damaged gzip file after line {line} ({error})") from error
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror}), expected a CSV table") from error


def _undecoded(cells: Sequence[str]) -> bool:
    text = "".join(cells)
    return not text.isascii() and any("\udc80" <= sign <= "\udcff" for sign in text)
