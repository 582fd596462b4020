import csv
import hashlib
import json
import os
import tracemalloc

import pytest

from common.apps.run.bundle import UsageError
from common.apps.text.sections import SECTION_COLUMNS, write_sections
from common.cli.main import main
from common.io.bad_input import BadInput
from common.text.mimic_report import render_mimic

SECTIONS = {"indication": "Cough.", "comparison": "None.", "findings": "Clear lungs. " * 20, "impression": "Normal."}


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def spans(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "files" / "p10" / "p10000032"
    folder.mkdir(parents=True)
    (folder / "s50000001.txt").write_text(render_mimic(SECTIONS))
    (folder / "s50000002.txt").write_bytes("\ufeff COMPARISON:  ___\r\n \r\n Cœur normal.\r\n".encode())
    (folder / "s50000003.txt").write_bytes(b"IMPRESSION: caf\xe9")
    (folder / "s50000004.txt").write_text(" RADIATION DOSE: None.\n \n HISTORY: Pain.\n")
    return tmp_path / "files"


def test_a_tree(tree, tmp_path):
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.rglob("*.txt")}
    out = tmp_path / "new" / "sections.csv"
    result = write_sections(tree, out)
    assert (result["reports"], result["excluded"]) == (3, 1)
    rows = read(out)
    assert list(rows[0]) == ["study", *SECTION_COLUMNS, "other"]
    assert list(rows[0])[:5] == ["study", "impression", "findings", "last_paragraph", "comparison"]
    assert {name: text for name, text in rows[0].items() if text} == {"study": "s50000001"} | {
        name: text.strip() for name, text in SECTIONS.items()
    }
    assert (rows[1]["last_paragraph"], rows[1]["comparison"]) == ("Cœur normal.", "___")
    assert (rows[2]["history"], rows[2]["other"]) == ("Pain.", "radiation dose: None.")
    assert result["sections"]["comparison"] == 2 and result["sections"]["technique"] == 0
    for span in spans(tmp_path / "new" / "sections.spans.jsonl"):
        text = next(tree.rglob(f"{span['study']}.txt")).read_bytes().decode("utf-8-sig")
        assert list(span) == ["study", "name", "start", "end", "text"]
        assert text[span["start"] : span["end"]] == span["text"]
    (excluded,) = read(tmp_path / "new" / "sections.excluded.csv")
    assert excluded["path"].endswith("s50000003.txt") and excluded["reason"] == "is not UTF-8 text (byte 15)"
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.rglob("*.txt")} == before
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "sections.csv",
        "sections.excluded.csv",
        "sections.spans.jsonl",
    ]


def test_a_second_run_gives_the_same_bytes(tree, tmp_path):
    out = tmp_path / "o.csv"
    write_sections(tree, out)
    first = [path.read_bytes() for path in sorted(tmp_path.glob("o.*"))]
    write_sections(tree, out)
    assert [path.read_bytes() for path in sorted(tmp_path.glob("o.*"))] == first and len(first) == 3


def test_a_table(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('id,words\n"a,b","FINDINGS: Clear. IMPRESSION: ""Normal""."\n')
    write_sections(table, tmp_path / "o.csv", text_column="words")
    (row,) = read(tmp_path / "o.csv")
    assert (row["study"], row["findings"], row["impression"]) == ("a,b", "Clear.", '"Normal".')
    assert [span["column"] for span in spans(tmp_path / "o.spans.jsonl")] == ["words", "words"]


def test_nothing_usable(tmp_path):
    path = tmp_path / "r.txt"
    path.write_bytes(b"\xe9")
    with pytest.raises(BadInput, match="r.txt: is not UTF-8 text"):
        write_sections(path, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists() and len(read(tmp_path / "o.excluded.csv")) == 1
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(BadInput, match="holds no report"):
        write_sections(folder, tmp_path / "o.csv")
    for name in "ab":
        (folder / f"{name}.txt").touch()
    with pytest.raises(BadInput, match="holds no usable report, the first of 2 reasons: .*a.txt: is empty"):
        write_sections(folder, tmp_path / "o.csv")
    table = tmp_path / "t.csv"
    table.write_text("id,text\n")
    with pytest.raises(BadInput, match="has no rows"):
        write_sections(table, tmp_path / "o.csv")


def test_an_output_that_is_an_input(tree, tmp_path):
    report = next(tree.rglob("s50000001.txt"))
    for source, out in ((report, report), (tree, report), (report, tree)):
        with pytest.raises(UsageError, match="--out is"):
            write_sections(source, out)


def test_the_command(tree, tmp_path, capsys):
    assert main(["sections", str(tree), "--out", str(tmp_path / "o.csv")]) == 0
    assert "3 reports, 1 left out" in capsys.readouterr().out
    assert main(["sections", str(tmp_path / "none"), "--out", str(tmp_path / "o.csv")]) == 1
    assert "none: does not exist" in capsys.readouterr().err


def test_a_file_name_that_is_no_text(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/\xe9.txt", "w") as file:
        file.write("IMPRESSION: Normal.")
    write_sections(folder, tmp_path / "o.csv")
    assert b"\n\xe9,Normal." in (tmp_path / "o.csv").read_bytes()


def test_memory_does_not_grow_with_the_table(tmp_path):
    def peak(rows):
        table = tmp_path / "t.csv"
        with table.open("w") as file:
            file.write("id,text\n")
            file.writelines(f'{row},"FINDINGS: {"Clear lungs. " * 400}"\n' for row in range(rows))
        tracemalloc.start()
        write_sections(table, tmp_path / "o.csv")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(400) < peak(50) + 500_000  # 350 more reports of 5 KB are 1.8 MB
