from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.cxr.inputs import xray_cases
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text

LABELS = ("Edema", "Fracture")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return path


def table(path: Path, *rows: dict) -> Path:
    path.write_text(csv_text(list(rows[0]), rows))
    return path


def known(case: dict) -> dict[str, float]:
    return {n: float(v) for n, v in zip(CLINICAL_COLUMNS, case["clinical"], strict=True) if not np.isnan(v)}


def test_one_image_with_and_without_note_and_values(tmp_path):
    path = picture(tmp_path / "a.b.PNG")
    (case,) = xray_cases(path, LABELS)
    assert (case["case"], case["image"], case["note"], case["clinical"]) == ("a.b", str(path), None, None)
    assert np.isnan(case["label"]).tolist() == [True, True]
    values = table(tmp_path / "v.csv", {"case": "a.b", "age": 61, "o2sat": 93.5, "pain": ""})
    (case,) = xray_cases(path, LABELS, note="Cough.", clinical=values)
    assert case["note"] == "Cough." and known(case) == {"age": 61, "o2sat": 93.5}
    (tmp_path / "note.txt").write_text("Fever,\nsince Monday.")
    assert xray_cases(path, LABELS, note=str(tmp_path / "note.txt"))[0]["note"] == "Fever,\nsince Monday."


@pytest.mark.parametrize("note", ["", "  \n"])
def test_a_blank_note_is_none(tmp_path, note):
    """A bug: it counted as a note that says nothing."""
    assert xray_cases(picture(tmp_path / "a.png"), LABELS, note=note)[0]["note"] is None


def test_a_note_may_be_longer_than_a_file_name(tmp_path):
    """A bug: asking whether a long note names a file failed with "File name too long"."""
    note = "Chief complaint: dyspnea. " * 400
    assert xray_cases(picture(tmp_path / "a.png"), LABELS, note=note)[0]["note"] == note


def test_a_case_without_image(tmp_path):
    """A bug: a text or CSV file alone was read as an X-ray, and left out as none."""
    (tmp_path / "p1.txt").write_text("Cough.")
    values = table(tmp_path / "v.csv", {"case": "p1", "age": 61}, {"case": "p2", "age": ""})
    (case,) = xray_cases(tmp_path / "p1.txt", LABELS)
    assert (case["case"], case["image"], case["note"], case["clinical"]) == ("p1", None, "Cough.", None)
    only = table(tmp_path / "only.csv", {"case": "p1", "age": 61})
    (case,) = xray_cases(tmp_path / "p1.txt", LABELS, clinical=only)
    assert case["note"] == "Cough." and known(case) == {"age": 61}
    first, second = xray_cases(values, LABELS)
    assert (first["case"], first["image"], first["note"]) == ("p1", None, None) and known(first) == {"age": 61}
    assert second["case"] == "p2" and second["clinical"] is None
    (case,) = xray_cases(only, LABELS, note="Cough.")
    assert (case["case"], case["note"]) == ("p1", "Cough.")
    with pytest.raises(BadInput, match="is given beside --note, expected one of the two"):
        xray_cases(tmp_path / "p1.txt", LABELS, note="Fever.")
    with pytest.raises(BadInput, match="is given beside --clinical"):
        xray_cases(values, LABELS, clinical=values)
    with pytest.raises(BadInput, match="holds 2 cases for one note"):
        xray_cases(values, LABELS, note="Fever.")


def test_a_folder(tmp_path):
    for name in ("b.jpg", "in/a.png", "c.JPEG"):
        picture(tmp_path / "x" / name)
    (tmp_path / "x" / "readme.txt").write_text("")
    cases = xray_cases(tmp_path / "x", LABELS)
    assert sorted(case["case"] for case in cases) == ["a", "b", "c"]
    with pytest.raises(BadInput, match="holds 3 cases for one note, expected one"):
        xray_cases(tmp_path / "x", LABELS, note="Cough.")
    picture(tmp_path / "x" / "a.jpg")
    assert sorted(case["case"] for case in xray_cases(tmp_path / "x", LABELS)) == ["a", "b", "c", "in_a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no X-ray, expected PNG, JPEG or DICOM images"):
        xray_cases(tmp_path / "empty", LABELS)
    with pytest.raises(BadInput, match="does not exist, expected an X-ray or a folder of them"):
        xray_cases(tmp_path / "none", LABELS)


def test_a_prepared_folder(tmp_path):
    row = {"case": "a", "patient": "1", "split": "test", "image": "a.png", "study": "s", "view": "AP", "Edema": "1.0",
           "Fracture": "-1.0"}  # fmt: skip
    table(tmp_path / "manifest.csv", row, {**row, "case": "b", "split": "train"}, {**row, "case": "c", "view": "LL"})
    table(tmp_path / "notes.csv", {"study": "s", "note": "Cough."})
    table(tmp_path / "clinical.csv", {"study": "s"} | dict.fromkeys(CLINICAL_COLUMNS, "") | {"age": "61"})
    assert [case["case"] for case in xray_cases(tmp_path, LABELS)] == ["a", "b"]
    (case,) = xray_cases(tmp_path, LABELS, split="test")
    assert case["note"] == "Cough." and case["label"][0] == 1 and np.isnan(case["label"][1])


def prepared(folder: Path, *views: str) -> Path:
    """One image of each view, `0.png` and so on, without Fracture."""
    rows = [
        {"case": str(i), "patient": str(i), "split": ("test", "val")[i // 4], "image": f"{i}.png", "study": str(i),
         "view": view, "Edema": "1.0"}
        for i, view in enumerate(views)
    ]  # fmt: skip
    table(folder / "manifest.csv", *rows)
    table(folder / "notes.csv", {"study": "0", "note": "Cough."})
    table(folder / "clinical.csv", {"study": "0"} | dict.fromkeys(CLINICAL_COLUMNS, ""))
    return folder


def test_a_prepared_folder_has_its_own_notes_and_values(tmp_path):
    """A bug: a note and values beside it were not used, not even looked for."""
    folder = prepared(tmp_path, "PA")
    for given in ({"note": "Fever."}, {"clinical": tmp_path / "none.csv"}):
        with pytest.raises(BadInput, match="has notes.csv and clinical.csv, expected no --note and no --clinical"):
            xray_cases(folder, LABELS, **given)


def test_labels_that_a_prepared_folder_lacks_are_unknown(tmp_path):
    (case,) = xray_cases(prepared(tmp_path, "PA"), ("Fracture", "Edema"))
    np.testing.assert_array_equal(case["label"], np.array([np.nan, 1], np.float32))


def test_images_of_other_views_are_listed(tmp_path):
    """A bug: nothing said that laterals, and images without a view, were not predicted."""
    folder = prepared(tmp_path, "PA", "LATERAL", "", "ap", "LL")
    assert [case["case"] for case in xray_cases(folder, LABELS)] == ["0", "3"]
    found = [(Path(row["path"]).name, row["reason"]) for row in xray_cases(folder, LABELS).excluded]
    said = "expected PA or AP (--views)"
    assert found == [
        ("1", f"has the view 'LATERAL', {said}"), ("2", f"has the view '', {said}"),
        ("4", f"has the view 'LL', {said}"),
    ]  # fmt: skip
    assert [row["path"] for row in xray_cases(folder, LABELS, split="test").excluded] == ["1", "2"]
    assert xray_cases(folder, LABELS, views=None).excluded == []
    assert xray_cases(picture(tmp_path / "x" / "a.png"), LABELS).excluded == []
    assert [case["case"] for case in xray_cases(folder, LABELS, views=["LL"])] == ["4"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"case": "a", "age": "old"}], "line 2 has age 'old', expected a number"),
        ([{"case": "a", "o2sat": "930"}], "line 2 has o2sat '930', which no body has"),
        ([{"case": "b", "age": "60"}], "line 2 is about 'b', expected one of a"),
        ([{"case": "a", "height": "180"}], "has the column 'height', expected case and some of age"),
        ([{"case": "a", "age": "60"}, {"case": "a", "age": "61"}], "has two rows in v.csv, the second in line 3"),
        ([{"age": "60"}], "has no column 'case'"),
    ],
)
def test_bad_values_are_named(tmp_path, rows, said):
    with pytest.raises(BadInput, match=said):
        xray_cases(picture(tmp_path / "a.png"), LABELS, clinical=table(tmp_path / "v.csv", *rows))


def test_a_note_that_is_no_text_and_a_table_without_rows_are_named(tmp_path):
    (tmp_path / "n.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="n.txt: is not UTF-8 text"):
        xray_cases(tmp_path / "n.txt", LABELS)
    (tmp_path / "v.csv").write_text("case,age\n")
    with pytest.raises(BadInput, match="v.csv: holds no row, expected one for each case"):
        xray_cases(tmp_path / "v.csv", LABELS)


def test_text_beside_an_xray_that_is_not_utf8_is_named(tmp_path):
    image = picture(tmp_path / "a.png")
    (tmp_path / "n.txt").write_bytes("Ren\u00e9 coughs".encode("latin-1"))
    with pytest.raises(BadInput, match=r"n\.txt: is not UTF-8 text \(byte 3\)\.$"):
        xray_cases(image, LABELS, note=str(tmp_path / "n.txt"))
    (tmp_path / "v.csv").write_bytes(b"case,age\na,6\xe9\n")
    with pytest.raises(BadInput, match=r"v\.csv: line 2 is not UTF-8 text \(byte 0xE9"):
        xray_cases(image, LABELS, clinical=tmp_path / "v.csv")


def test_a_note_that_is_empty_or_not_there_is_refused(tmp_path):
    """A bug: an empty file was classified as a case without any input, and a mistyped file name was the note itself."""
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(BadInput, match="empty.txt: is empty, expected a note"):
        xray_cases(tmp_path / "empty.txt", ["Edema"])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BadInput, match="missing.txt: does not exist, expected the file of a note"):
        xray_cases(tmp_path / "a.png", ["Edema"], note=str(tmp_path / "missing.txt"))
