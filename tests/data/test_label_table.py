import numpy as np
import pytest

from common.data.label_table import case_id, find_id_column, find_label_columns, read_label_values
from common.io.bad_input import BadInput


@pytest.mark.parametrize(
    ("columns", "given", "expected"),
    [
        (["VolumeName", "Lung nodule"], None, "VolumeName"),
        (["subject_id", "study_id", "Edema"], None, "study_id"),
        (["Edema", "case", "id"], None, "case"),
        (["case", "name", "Edema"], "name", "name"),
        (["case", "Edema"], "name", "case"),
        (["image_id", "Edema"], None, "image_id"),
    ],
)
def test_id_column(columns, given, expected):
    assert find_id_column("table.csv", columns, given) == expected


def test_a_table_without_an_id_is_refused():
    with pytest.raises(BadInput, match="patient_name, case, id"):
        find_id_column("table.csv", ["Edema"], "patient_name")


def test_label_columns_are_findings_or_else_what_is_no_id():
    mimic = ["subject_id", "study_id", "text", "Edema", "No Finding"]
    assert find_label_columns(mimic, "study_id") == ["Edema", "No Finding"]
    assert find_label_columns(["uid", "split", "Scoliosis", "Gallstones"], "uid") == ["Scoliosis", "Gallstones"]


@pytest.mark.parametrize(
    ("text", "expected"), [(" 000123 ", "000123"), ("1.2.840.nii.gz", "1.2.840"), ("a.b", "a.b"), ("x.nii", "x")]
)
def test_ids_stay_strings_and_keep_inner_dots(text, expected):
    assert case_id(text) == expected


def test_values_and_texts(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,note,Edema,Fracture,patient\n007,long,1.0,,p1\n008,,-1,0.25,p2\n", encoding="utf-8-sig")
    values, patients = read_label_values(path, "id", ["Fracture", "Edema"], "both", text_column="patient")
    assert list(values) == ["007", "008"] and patients == {"007": "p1", "008": "p2"}
    assert np.array_equal(values["007"], [np.nan, 1], equal_nan=True) and values["008"].tolist() == [0.25, -1]
    with pytest.raises(BadInput, match=r"line 3 \('008'\) has Fracture = '0.25'"):
        read_label_values(path, "id", ["Fracture"])
    with pytest.raises(BadInput, match="has no note"):
        read_label_values(path, "id", ["Edema"], text_column="note")
