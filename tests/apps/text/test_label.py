import csv
import json
from pathlib import Path

import pytest

from common.apps.run.bundle import UsageError
from common.apps.text.label import label_table
from common.io.bad_input import BadInput
from common.text.ct_labels import CT_RATE_LABELS
from common.text.cxr_labeller import CHEXPERT_LABELS

TABLE = """id,findings,impression,Edema
000123,No effusion.,Possible edema.,from the source
"a,b","Heart
is enlarged.",,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "reports.csv"
    path.write_text(TABLE)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_cxr(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "labels.csv"
    result = label_table("cxr", table, ["findings", "impression"], out)
    first, second = rows_of(out)
    assert list(first) == ["id", "findings", "impression", "input_Edema", *CHEXPERT_LABELS]
    assert (first["id"], first["input_Edema"], second["id"]) == ("000123", "from the source", "a,b")
    assert (first["Edema"], first["Pleural Effusion"], first["Cardiomegaly"], first["No Finding"]) == (
        "-1.0",
        "0.0",
        "",
        "",
    )
    assert second["Cardiomegaly"] == "1.0" and second["findings"] == "Heart\nis enlarged."
    assert result["rows"] == 2 and result["spans"] is None
    assert result["counts"]["Edema"] == {"": 1, "-1.0": 1}
    assert table.read_text() == TABLE and [p.name for p in out.parent.iterdir()] == ["labels.csv"]


def test_explained(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    result = label_table("cxr", table, ["findings", "impression"], out, explain=True)
    assert result["spans"] == str(tmp_path / "labels.spans.jsonl")
    spans = [json.loads(line) for line in Path(result["spans"]).read_text().splitlines()]
    rows = rows_of(out)
    for span in spans:
        assert rows[span["row"] - 1][span["column"]][span["start"] : span["end"]] == span["text"]
    assert {(s["row"], s["column"], s["label"], s["value"]) for s in spans} == {
        (1, "findings", "Pleural Effusion", 0.0),
        (1, "impression", "Edema", -1.0),
        (2, "findings", "Cardiomegaly", 1.0),
    }
    assert all(span["rule"] for span in spans)


def test_ct(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("VolumeName,report_text\ntrain_1_a_1,Bilateral pleural effusion is observed.\n")
    label_table("ct", table, ["report_text"], tmp_path / "o.csv")
    (row,) = rows_of(tmp_path / "o.csv")
    assert list(row) == ["VolumeName", "report_text", *CT_RATE_LABELS]
    assert row["Pleural effusion"] == "1" and {row[label] for label in CT_RATE_LABELS} == {"0", "1"}


def test_an_empty_table_gives_an_empty_one(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text\n")
    assert label_table("cxr", table, ["text"], tmp_path / "o.csv")["rows"] == 0
    assert rows_of(tmp_path / "o.csv") == []


def test_wrong_use(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="label 'ctt' is unknown, expected cxr or ct"):
        label_table("ctt", table, ["findings"], tmp_path / "o.csv")
    with pytest.raises(UsageError, match="which is the input"):
        label_table("cxr", table, ["findings"], table)
    with pytest.raises(UsageError, match="--text_columns is empty"):
        label_table("cxr", table, [], tmp_path / "o.csv")
    with pytest.raises(BadInput, match="has no column 'finding'"):
        label_table("cxr", table, ["finding"], tmp_path / "o.csv")
    both = tmp_path / "both.csv"
    both.write_text("text,Edema,input_Edema\na,1,2\n")
    with pytest.raises(BadInput, match="has the columns 'Edema' and 'input_Edema'"):
        label_table("cxr", both, ["text"], tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()


def test_a_damaged_row_is_named_and_the_others_are_labelled(tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "o.csv"
    table.write_text("id,text\n1,No effusion.\n2\n3,Clear.\n")
    result = label_table("cxr", table, ["text"], out)
    assert (result["rows"], result["excluded"]) == (2, 1)
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["id", "1", "3"]
    assert Path(result["excluded_file"]).read_text() == f'path,reason\n{table},"line 3 has 1 fields, expected 2"\n'
    table.write_text("id,text\n1,No effusion.\n")
    assert label_table("cxr", table, ["text"], out)["excluded_file"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "t.csv"]


def test_a_table_without_a_usable_row_leaves_nothing_behind(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,text\n2\n")
    with pytest.raises(BadInput, match="line 2 has 1 fields"):
        label_table("cxr", table, ["text"], tmp_path / "o.csv", explain=True)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
