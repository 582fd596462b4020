import gzip
from pathlib import Path

import pytest

from common.io.bad_input import BadInput
from common.io.table import TableCounts, iter_rows, plain_id, read_columns, read_rows, stream_rows


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
    assert reasons == [
        "line 3 has 1 fields, expected 2",
        "line 4 is not UTF-8 text (byte 0xE9, as of Latin-1 or Windows-1252)",
        "line 5 has 3 fields, expected 2",
    ]


def test_an_open_quote_costs_its_row_alone(tmp_path: Path) -> None:
    lines = ["1,a", '2,"open', "3,b", '4,"two', 'lines"', '5,12" tube', '6,"x" y']
    rows = list(iter_rows(write(tmp_path / "t.csv", "id,text\n" + "\n".join(lines) + "\n")))
    assert [row for row in rows if not isinstance(row, BadInput)] == [
        (2, {"id": "1", "text": "a"}),
        (4, {"id": "3", "text": "b"}),
        (6, {"id": "4", "text": "two\nlines"}),
        (7, {"id": "5", "text": '12" tube'}),
    ]
    bad = [row.reason for row in rows if isinstance(row, BadInput)]
    assert bad == [f"line {line} has quoted text that cannot be read" for line in (3, 8)]


@pytest.mark.parametrize(
    "content",
    [
        "id\ttext\n1\ta, b\n",
        "sep=;\nid;text\n1;a, b\n",
        "\n\nid;text\n\n1;a, b\n",
        "id;text;;\n1;a, b;;\n",
        'id,text\r1,"a, b"\r',
        'id,text\r\n1,"a, b"\r\n',
        '"id","text"\n"1","a, b"',
    ],
)
def test_tables_as_other_programs_write_them(tmp_path: Path, content: str) -> None:
    table = write(tmp_path / "t.csv", content)
    assert [row for _, row in read_rows(table)] == [{"id": "1", "text": "a, b"}]


def test_a_zero_byte_and_a_cell_beyond_the_header_cost_a_row(tmp_path: Path) -> None:
    rows = list(iter_rows(write(tmp_path / "t.csv", b"id,text,\n1,a\0b,\n2,b,c\n3,c,\n4,d\n")))
    assert [row[1]["id"] for row in rows if not isinstance(row, BadInput)] == ["3", "4"]
    reasons = [row.reason for row in rows if isinstance(row, BadInput)]
    assert reasons == ["line 2 holds a zero byte, expected text", "line 3 has 3 fields, expected 2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("27959241.0", "27959241"),
        ("27959241.", "27959241"),
        ("2.7959241E7", "27959241"),  # as Java and Spark write a double
        ("2.795924E7", "27959240"),
        ("2.79592E+07", "2.79592E+07"),  # as a spreadsheet shows it: digits are lost
        ("000123", "000123"),
        ("000123.0", "000123"),
        ("1.5", "1.5"),
        ("s50414267", "s50414267"),
        ("1.2.840.1", "1.2.840.1"),
        ("", ""),
    ],
)
def test_ids_that_a_program_took_for_numbers(text: str, expected: str) -> None:
    assert plain_id(text) == expected


def test_the_wanted_rows_whatever_their_ids_look_like(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "stay_id;n\n27959241;1\n27959241.0;2\n2.7959241E7;3\n2795924;4\nnone;5\n;6\n")
    counts = TableCounts()
    rows = list(stream_rows(path, ("stay_id", "n"), {"stay_id": {"27959241"}}, counts))
    assert rows == [("27959241", n) for n in "123"]
    assert (counts.rows, counts.selected, counts.bad) == (6, 3, {"stay_id is not an id": 2})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (b"\x00\x01text\n", "holds a zero byte"),
        ("id,id\n", "has the column 'id' twice"),
        (b"id,\xe9\n", r"is not UTF-8 text \(byte 0xE9, as of Latin-1 or Windows-1252\), line 1"),
        ("id,text\n".encode("utf-16"), "is UTF-16 text, expected a CSV table as UTF-8 text"),
        (b"PK\x03\x04....", "is a zip archive or an Excel workbook"),
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
        ('id,text\n1,"open\n', "line 2 has quoted text that cannot be read"),
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
