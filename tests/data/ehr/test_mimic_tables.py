import csv
import gzip
import io
import random

import pytest

from common.data.ehr.mimic_tables import find_table, parse_id, parse_number, parse_time
from common.io.bad_input import BadInput
from common.io.table import DamagedTable, TableCounts, stream_rows
from tests.data.ehr.mimic_rows import DEMO


def write(path, text):
    raw = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def read(path, columns=("a", "b"), keep=None):
    counts = TableCounts()
    return list(stream_rows(path, columns, keep, counts)), counts


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_are_found_by_name_and_rows_by_id(tmp_path, name, end):
    path = write(tmp_path / name, end.join(["c,b,a", "1,2,3", "4,5,6", "7,8,9", "1,0,33"]))
    assert read(path)[0] == [("3", "2"), ("6", "5"), ("9", "8"), ("33", "0")]
    rows, counts = read(path, ("b",), {"a": {"3", "9"}, "c": {"1"}})
    assert rows == [("2",)]
    assert (counts.rows, counts.selected, counts.bad) == (4, 1, {})


def test_ids_are_compared_as_a_whole(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\n10,1\n1,2\n100,3\n")
    assert read(path, ("b",), {"a": {"10"}})[0] == [("1",)]


def test_quoted_text_may_hold_commas_quotes_and_line_breaks(tmp_path):
    records = [["1", 'say "no", then'], ["2", "two\nlines"], ["3", "plain"], ["2", '"'], ['9,"', "x"]]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b"], *records])
    path = write(tmp_path / "t.csv", text.getvalue())
    assert read(path)[0] == [tuple(record) for record in records]
    assert read(path, keep={"a": {"2", '9,"'}})[0] == [("2", "two\nlines"), ("2", '"'), ('9,"', "x")]


def test_a_quote_that_never_closes_costs_one_row(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\n1,x\n" + '2,"open\n' + "".join(f"{i},y\n" for i in range(3, 400)))
    rows, counts = read(path)
    assert len(rows) == 398 and ("3", "y") in rows and ("399", "y") in rows
    assert counts.bad == {"quoted text that cannot be read": 1}


def test_two_stray_quotes_do_not_swallow_the_rows_between_them(tmp_path):
    path = write(tmp_path / "t.csv", 'a,b\n1,5"6\n2,"y\n3,y\n4,"z\n5,y\n')
    rows, counts = read(path)
    assert rows == [("1", '5"6'), ("3", "y"), ("5", "y")]
    assert counts.rows == 5 and sum(counts.bad.values()) == 2


def test_rows_with_missing_or_further_fields_are_counted(tmp_path):
    path = write(tmp_path / "t.csv", "a,b,c\n1,2,3\n1,2\n1,2,3,4\n1\n\n9,9,9\n")
    rows, counts = read(path)
    assert rows == [("1", "2"), ("9", "9")]
    assert counts.bad == {"wrong number of fields": 3}, "a blank line is no row"
    rows, counts = read(path, keep={"c": {"3"}})
    assert rows == [("1", "2")]


def test_a_selected_row_that_is_not_utf8_is_counted_and_others_do_not_matter(tmp_path):
    path = write(tmp_path / "t.csv", b"a,b\n1,x\n2,\xff\xfe\n3,\xc2\xb0F\n2,y\n")
    rows, counts = read(path, keep={"a": {"2", "3"}})
    assert rows == [("3", "°F"), ("2", "y")]
    assert counts.bad == {"not UTF-8": 1}
    assert read(path, keep={"a": {"1"}})[1].bad == {}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert read(write(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\n1,2\n"))[0] == [("1", "2")]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.csv", "", "is empty, expected a table with a header"),
        ("t.csv.gz", "", "is empty, expected a table with a header"),
        ("t.csv", "x,b\n1,2\n", "has no column 'a', expected it among x, b"),
        ("t.csv", "a,b,a\n1,2,3\n", "has the column 'a' twice"),
        ("t.csv", b"a,\xff\n1,2\n", "is not UTF-8 text"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, name, text, sentence):
    path = write(tmp_path / name, text)
    with pytest.raises(BadInput, match=sentence) as error:
        read(path)
    assert error.value.path == path
    assert not isinstance(error.value, DamagedTable)


def test_a_missing_table_and_one_that_is_there_twice_are_named(tmp_path):
    assert find_table(tmp_path, "hosp/patients") is None
    assert find_table(None, "hosp/patients") is None
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "none.csv")
    (tmp_path / "hosp").mkdir()
    write(tmp_path / "hosp" / "patients.csv", "a\n")
    assert find_table(tmp_path, "hosp/patients").name == "patients.csv"
    write(tmp_path / "hosp" / "patients.csv.gz", "a\n")
    with pytest.raises(BadInput, match="stands beside patients.csv.gz"):
        find_table(tmp_path, "hosp/patients")


def test_the_rows_before_a_truncation_are_given_out(tmp_path):
    rows = "".join(f"{i},{random.Random(i).random()}\n" for i in range(200_000))
    whole = gzip.compress(("a,b\n" + rows).encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    counts, seen = TableCounts(), 0
    with pytest.raises(DamagedTable, match="is a damaged gzip file after row") as error:
        for seen, row in enumerate(stream_rows(path, ("a",), counts=counts), 1):
            assert row == (str(seen - 1),)
    assert 80_000 < seen < 120_000
    assert str(seen) in str(error.value)


def test_a_table_is_packed_or_not_by_its_content(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"a,b\n1,2\n")
    assert read(path)[0] == [("1", "2")]


def test_flipped_bytes_are_named(tmp_path):
    raw = bytearray(gzip.compress(("a,b\n" + "".join(f"{i},{i * 7919}\n" for i in range(50_000))).encode()))
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(raw)
    with pytest.raises(DamagedTable):
        read(path)


@pytest.mark.skipif(not DEMO.is_dir(), reason="the MIMIC-IV demo is not there")
@pytest.mark.parametrize("keep", [None, {"itemid": {"50971", "51301"}}, {"comments": {""}}, {"subject_id": {"5"}}])
def test_equal_to_the_csv_module_on_a_real_table(keep):
    path = DEMO / "hosp" / "labevents.csv.gz"
    columns = ("comments", "subject_id", "itemid", "value")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        expected = [
            tuple(row[name] for name in columns)
            for row in csv.DictReader(file)
            if all(row[name] in ids for name, ids in (keep or {}).items())
        ]
    rows, counts = read(path, columns, keep)
    assert rows == expected
    assert counts.rows == 107_727 and counts.selected == len(expected) and not counts.bad


@pytest.mark.parametrize(
    "text", ["", "2150-03-05", "2150-03-05T12:00:00", "2150-13-05 12:00:00", "2150-02-30 12:00:00", "noon",
             "2150-03-05 25:00:00", "05/03/2150 12:00:00", "2150-03-05 12:00:00Z", "215O-03-05 12:00:00"],
)  # fmt: skip
def test_what_is_no_time_is_none(text):
    assert parse_time(text) is None


def test_times_days_numbers_and_ids():
    assert parse_time("2150-03-05 12:00:01").second == 1
    assert parse_time("2150-03-05 12:00:01.000000") == parse_time("2150-03-05 12:00:01 UTC")
    assert parse_time("2150-03-05 12:00:01.000000") == parse_time("2150-03-05 12:00:01")
    assert [parse_number(t) for t in ("1.5", " 7 ", "-2", "1e3", "", "x", "nan", "inf", "1_0")] == [
        1.5, 7, -2, 1000, None, None, None, None, None,
    ]  # fmt: skip
    assert [parse_id(t) for t in ("20000001", "20000001.0", "", "1.5", "-1", "²", "a")] == [20000001] * 2 + [None] * 5
