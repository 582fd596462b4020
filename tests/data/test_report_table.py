import gzip

import pytest

from common.data.report_table import report_columns, report_rows
from common.io.bad_input import BadInput


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_with_their_lines(tmp_path):
    table = write(tmp_path / "t.csv", '\ufeffid,text\r\n000123,"two\nlines"\r\n\r\n4,\u00e9\r\n')
    assert report_columns(table) == ["id", "text"]
    assert list(report_rows(table, ["text"])) == [
        (3, {"id": "000123", "text": "two\nlines"}),
        (5, {"id": "4", "text": "\u00e9"}),
    ]


def test_bad_rows_do_not_hide_good_ones(tmp_path):
    table = write(tmp_path / "t.csv", b"id,text\n1,a\n2\n3,\xe9\n4,a,b\n5,c\n")
    rows = list(report_rows(table))
    assert [row[1]["id"] for row in rows if not isinstance(row, BadInput)] == ["1", "5"]
    reasons = [row.reason for row in rows if isinstance(row, BadInput)]
    assert reasons == ["line 3 has 1 fields, expected 2", "line 4 is not UTF-8 text", "line 5 has 3 fields, expected 2"]


def test_a_field_of_a_megabyte(tmp_path):
    table = write(tmp_path / "t.csv", "text\n" + "a" * 1_000_000 + "\n")
    assert [len(row[1]["text"]) for row in report_rows(table)] == [1_000_000]


def test_packed(tmp_path):
    packed = gzip.compress(b"id,text\n" + b"".join(b"%d,some text\n" % i for i in range(5000)))
    assert len(list(report_rows(write(tmp_path / "t.csv.gz", packed)))) == 5000
    *rows, last = report_rows(write(tmp_path / "cut.csv.gz", packed[: len(packed) // 2]))
    assert rows and not any(isinstance(row, BadInput) for row in rows)
    assert isinstance(last, BadInput) and "damaged gzip file after line" in last.reason
    with pytest.raises(BadInput, match="damaged gzip file"):
        report_columns(write(tmp_path / "no.csv.gz", b"id,text\n"))


def test_an_open_quote_ends_the_table(tmp_path):
    first, last = report_rows(write(tmp_path / "t.csv", 'id,text\n1,a\n2,"open\n3,b\n'))
    assert first == (2, {"id": "1", "text": "a"}) and "no CSV table after line 2" in last.reason


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("id,id\n", "has the column 'id' twice"),
        (b"id,\xe9\n", "is not UTF-8 text"),
        ("id,other\n1,a\n", "has no column 'text', expected it among id, other"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, content, says):
    with pytest.raises(BadInput, match=says):
        list(report_rows(write(tmp_path / "t.csv", content), ["text"]))


def test_no_table(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        report_columns(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="cannot be opened"):
        report_columns(tmp_path)
