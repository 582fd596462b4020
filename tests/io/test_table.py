from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.table import read_columns, read_rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_with_their_lines(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", '\ufeffid,text\r\n000123,"two\nlines, quoted"\r\n\r\n4,é\r\n')
    assert read_columns(table) == ["id", "text"]
    rows = [(3, {"id": "000123", "text": "two\nlines, quoted"}), (5, {"id": "4", "text": "é"})]
    assert list(read_rows(table, ["text"])) == rows


def test_a_long_field(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "text\n" + "a" * 300_000 + "\n")
    assert [len(row["text"]) for _, row in read_rows(table)] == [300_000]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        (b"\x00\x01text\n", "holds a zero byte"),
        ("id,id\n", "has the column 'id' twice"),
        ("id,text\n1\n", "line 2 has 1 fields, expected 2"),
        ("id,text\n1,a,b\n", "line 2 has 3 fields, expected 2"),
        (b"id,text\n1,\xe9\n", "is not UTF-8"),
        ('id,text\n1,"open\n', "is no CSV table"),
        ("id,other\n1,a\n", "has no column 'text', expected it among id, other"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        list(read_rows(write(tmp_path / "t.csv", content), ["text"]))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_columns(tmp_path / "missing.csv")
    with pytest.raises(BadInput, match="is a folder"):
        read_columns(tmp_path)
