from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.cxr.nih import NIH_LABELS, find_nih
from common.io.bad_input import BadInput

DATA = Path(__file__).parents[3].parent / "shared" / "data"
HEADER = (DATA / "layouts" / "nih_Data_Entry_2017_v2020.header.csv") if DATA.is_dir() else None


def write(root: Path, rows: list[tuple], name: str = "Data_Entry_2017_v2020.csv") -> Path:
    """Rows of image, findings, patient, age, sex, view; images in two folders as on the NIH's site."""
    columns = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    lines = [columns]
    for i, (image, findings, patient, age, sex, view) in enumerate(rows):
        lines.append(f"{image},{findings},0,{patient},{age},{sex},{view},2048,2500,0.171,0.171")
        folder = root / f"images_00{1 + i % 2}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / image).exists():
            Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(folder / image)
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def test_labels_are_by_name(tmp_path: Path) -> None:
    rows = [
        ("00000001_000.png", "Cardiomegaly|Emphysema", "1", "57", "M", "PA"),
        ("00000001_001.png", "No Finding", "1", "58", "M", "AP"),
    ]
    listing = find_nih(write(tmp_path, rows))
    first, second = listing.rows
    assert {name for name, value in first.labels.items() if value} == {"Cardiomegaly", "Emphysema"}
    assert {name for name, value in second.labels.items() if value} == {"No Finding"}
    assert listing.labels == (*NIH_LABELS, "No Finding") and (first.case, first.view) == ("00000001_000", "PA")
    assert first.patient == "1" and first.path.parent.parent.name == "images_001"
    assert listing.clinical["00000001_000"] == {"age": 57, "sex": 1}
    assert listing.notes["00000001_001"] == "58-year-old man."


@pytest.mark.parametrize(
    ("text", "age"),
    [("077", 77), ("60Y", 60), ("060Y", 60), ("018M", 1), ("012D", 0), ("0141", None), ("411", None), ("", None),
     ("old", None), ("-5", None)],
)  # fmt: skip
def test_ages(tmp_path: Path, text: str, age: int | None) -> None:
    listing = find_nih(write(tmp_path, [("1_000.png", "Mass", "1", text, "F", "PA")]))
    assert listing.clinical["1_000"].get("age") == age
    assert bool(listing.facts["not_used"]) == (age is None)


def test_official_lists_decide_the_test_patients(tmp_path: Path) -> None:
    rows = [(f"{p}_{i}.png", "Nodule", p, "40", "F", "PA") for p in ("1", "2", "3") for i in range(2)]
    write(tmp_path, rows)
    (tmp_path / "train_val_list.txt").write_text("1_0.png\n1_1.png\n3_0.png\n")
    (tmp_path / "test_list.txt").write_text("2_0.png\r\n3_1.png\r\n")
    listing = find_nih(tmp_path)
    assert {row.case: row.split for row in listing.rows} == {"1_0": "", "1_1": "", "2_0": "test"}
    assert {p.path.name: p.reason for p in listing.problems} == {
        "2_1.png": "is in neither list of the official split",
        "3_0.png": "is of patient 3, who is in both official lists",
        "3_1.png": "is of patient 3, who is in both official lists",
    }
    (tmp_path / "test_list.txt").unlink()
    listing = find_nih(tmp_path)
    assert len(listing.rows) == 6 and "stands alone" in listing.problems[0].reason


def test_bad_rows_and_files_are_named(tmp_path: Path) -> None:
    rows = [
        ("1_0.png", "Nodule", "1", "40", "F", "PA"),
        ("1_1.png", "Node", "1", "40", "F", "PA"),
        ("1_2.png", "No Finding|Mass", "1", "40", "F", "PA"),
        ("1_0.png", "Mass", "1", "40", "F", "PA"),
        ("1_4.png", "Mass", "p1", "40", "F", "PA"),
    ]
    write(tmp_path, rows[:3] + rows[4:])
    with (tmp_path / "Data_Entry_2017_v2020.csv").open("a") as file:
        file.write("1_0.png,Mass,0,1,40,F,PA,1,1,1,1\n1_9.png,Mass,0,1,40,F,PA,1,1,1,1\n")
    Image.new("L", (64, 64)).save(tmp_path / "images_001" / "images" / "no_row.png")
    listing = find_nih(tmp_path)
    assert [row.case for row in listing.rows] == ["1_0"]
    reasons = {(p.path.name, p.reason.split(",")[0]) for p in listing.problems}
    assert reasons == {
        ("1_1.png", "has the finding 'Node'"), ("1_2.png", "has the findings 'No Finding|Mass'"),
        ("1_0.png", "has a second row of case '1_0'"), ("1_4.png", "has Patient ID 'p1'"),
        ("1_9.png", "does not exist"), ("no_row.png", "has no row in Data_Entry_2017_v2020.csv"),
    }  # fmt: skip


def test_tables(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no table, expected one of Data_Entry_2017_v2020.csv"):
        find_nih(tmp_path)
    rows = [("1_0.png", "Nodule", "1", "40", "F", "PA")]
    write(tmp_path, rows, "Data_Entry_2017.csv")
    assert len(find_nih(tmp_path / "Data_Entry_2017.csv").rows) == 1
    write(tmp_path, rows)
    with pytest.raises(BadInput, match="has Data_Entry_2017_v2020.csv and Data_Entry_2017.csv"):
        find_nih(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """A bug: in the official lists such a name was taken for another one."""
    write(tmp_path, [("1_0.png", "Nodule", "1", "40", "F", "PA")])
    (tmp_path / "train_val_list.txt").write_bytes(b"1_0.png\n2_\xe9.png\n")
    (tmp_path / "test_list.txt").write_text("3_0.png\n")
    with pytest.raises(BadInput, match=r"train_val_list\.txt: is not UTF-8 text \(byte 10\)\.$"):
        find_nih(tmp_path)
    (tmp_path / "train_val_list.txt").write_text("1_0.png\n")
    entries = tmp_path / "Data_Entry_2017_v2020.csv"
    entries.write_bytes(entries.read_bytes().replace(b"Nodule", b"Nodul\xe9"))
    (problem,) = find_nih(tmp_path).problems
    assert str(problem) == f"{entries}: line 2 is not UTF-8 text (byte 0xE9, as of Latin-1 or Windows-1252)."


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the sample X-rays beside the repository")
def test_the_real_sample() -> None:
    listing = find_nih(DATA / "cxr")
    assert len(listing.rows) == 160 and not listing.problems
    assert len({row.patient for row in listing.rows}) == 131
    assert sum(row.labels["Pneumonia"] for row in listing.rows) == 125
    assert HEADER is not None and HEADER.read_text().startswith("Image Index,Finding Labels")
