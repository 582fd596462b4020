import gzip
from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.table import iter_rows, read_columns, read_rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_with_their_lines(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", '\ufeffid,text\r\n000123,"two\nlines, quoted"\r\n\r\n4,é\r\n')
    assert read_columns(table) == ["id", "text"]
    rows = [(3, {"id": "000123", "text": "two\nlines, quoted"}), (5, {"id": "4", "text": "é"})]
    assert list(read_rows(table, ["text"])) == list(iter_rows(table, ["text"])) == rows


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("id;text\n1;a, b\n", ["id", "text"]),
        ('id;"text, of the report, whole"\n1;a, b\n', ["id", "text, of the report, whole"]),
        ('"a;b;c",text\n1,"a, b"\n', ["a;b;c", "text"]),
        ("text\na\n", ["text"]),
    ],
)
def test_commas_or_semicolons_as_in_the_header(tmp_path: Path, content: str, columns: list[str]) -> None:
    table = write(tmp_path / "t.csv", content)
    assert read_columns(table) == columns
    assert [list(row.values()) for _, row in read_rows(table)] == [["1", "a, b"] if len(columns) == 2 else ["a"]]


@pytest.mark.parametrize("length", [300_000, 1_000_000])
def test_a_long_field(tmp_path: Path, length: int) -> None:
    table = write(tmp_path / "t.csv", "text\n" + "a" * length + "\n")
    assert [len(row["text"]) for _, row in read_rows(table)] == [length]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv"])
def test_packed_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    content = b"id,text\n" + b"".join(b"%d,some text\n" % i for i in range(5000))
    packed = gzip.compress(content)
    assert len(list(read_rows(write(tmp_path / name, packed)))) == 5000
    assert len(list(read_rows(write(tmp_path / name, content)))) == 5000
    *rows, last = iter_rows(write(tmp_path / "cut.csv.gz", packed[: len(packed) // 2]))
    assert rows and not any(isinstance(row, BadInput) for row in rows)
    assert isinstance(last, BadInput) and "damaged gzip file after line" in last.reason
    with pytest.raises(BadInput, match="damaged gzip file after line 0"):
        read_columns(write(tmp_path / "no.csv.gz", packed[:12]))


def test_bad_rows_do_not_hide_good_ones(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", b"id,text\n1,a\n2\n3,\xe9\n4,a,b\n5,c\n")
    rows = list(iter_rows(table))
    assert [row[1]["id"] for row in rows if not isinstance(row, BadInput)] == ["1", "5"]
    reasons = [row.reason for row in rows if isinstance(row, BadInput)]
    assert reasons == ["line 3 has 1 fields, expected 2", "line 4 is not UTF-8 text", "line 5 has 3 fields, expected 2"]


def test_an_open_quote_ends_the_table(tmp_path: Path) -> None:
    first, last = iter_rows(write(tmp_path / "t.csv", 'id,text\n1,a\n2,"open\n3,b\n'))
    assert first == (2, {"id": "1", "text": "a"})
    assert isinstance(last, BadInput) and "no CSV table after line 2" in last.reason


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (b"\x00\x01text\n", "holds a zero byte"),
        ("id,id\n", "has the column 'id' twice"),
        (b"id,\xe9\n", r"is not UTF-8 text \(line 1\)"),
        ("id,text\n".encode("utf-16"), r"is not UTF-8 text \(line 1\)"),
        ("id,other\n1,a\n", "has no column 'text', expected it among id, other"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, content: str | bytes, says: str) -> None:
    table = write(tmp_path / "t.csv", content)
    for read in (read_rows, iter_rows):
        with pytest.raises(BadInput, match=says):
            list(read(table, ["text"]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,text\n1\n", "line 2 has 1 fields, expected 2"),
        ("id,text\n1,a,b\n", "line 2 has 3 fields, expected 2"),
        (b"id,text\n1,\xe9\n", "line 2 is not UTF-8"),
        ('id,text\n1,"open\n', "is no CSV table"),
    ],
)
def test_a_damaged_row_is_refused(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        list(read_rows(write(tmp_path / "t.csv", content), ["text"]))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_columns(tmp_path / "missing.csv")
    with pytest.raises(BadInput, match="is a folder"):
        read_columns(tmp_path)
