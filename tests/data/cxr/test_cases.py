from pathlib import Path

import numpy as np
import pytest

from common.data.cxr.cases import read_cxr_cases
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text

LABELS = ("Edema", "Fracture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        ("a", "1", "train", "a.png", "s1", "PA", "1.0", "-1.0"),
        ("b", "1", "train", "b.png", "s1", "LATERAL", "1.0", "-1.0"),
        ("c", "2", "train", "", "s2", "AP", "", "0.0"),
        ("d", "3", "val", "d.png", "s3", "", "0.0", "1.0"),
        ("e", "4", "train", "e.png", "s4", "AP", "0.0", ""),
    ]
    names = ["case", "patient", "split", "image", "study", "view", *LABELS]
    write(tmp_path, names, [dict(zip(names, row, strict=True)) for row in rows])
    notes = [{"study": "s1", "note": "Cough,\nfever."}, {"study": "s2", "note": ""}, {"study": "s4", "note": " "}]
    (tmp_path / "notes.csv").write_text(csv_text(["study", "note"], notes))
    values = [{"study": "s1", "age": 60, "o2sat": 91.5}, {"study": "s2"}]
    (tmp_path / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], values))
    return tmp_path


def write(folder: Path, names: list[str], rows: list[dict]) -> None:
    (folder / "manifest.csv").write_text(csv_text(names, rows))


def test_cases_of_a_split(folder: Path) -> None:
    cases = read_cxr_cases(folder, "train", LABELS)
    assert [case["case"] for case in cases] == ["a", "c", "e"]  # frontal only
    first, second, third = cases
    assert (first["patient"], first["study"], first["image"]) == ("1", "s1", str(folder / "a.png"))
    assert first["note"] == "Cough,\nfever." and second["note"] is None and third["note"] is None
    assert first["clinical"].dtype == np.float32 and first["clinical"].shape == (30,)
    known = {n: v for n, v in zip(CLINICAL_COLUMNS, first["clinical"], strict=True) if not np.isnan(v)}
    assert known == {"age": 60, "o2sat": 91.5}
    assert second["clinical"] is None and third["clinical"] is None and second["image"] is None
    assert first["label"].dtype == np.float32


def test_a_patient_is_a_number_and_no_identifier(folder: Path) -> None:
    """The same in every split and view, so that predictions of several data sets can be grouped by it."""
    manifest = folder / "manifest.csv"
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    for row in rows[1:]:
        row[1] = f"1000003{row[1]}"
    manifest.write_text("\n".join(",".join(row) for row in rows) + "\n")
    everything = {case["case"]: case["patient"] for case in read_cxr_cases(folder, None, LABELS, views=None)}
    assert everything == {"a": "1", "b": "1", "c": "2", "d": "3", "e": "4"}
    for split, views in (("train", None), ("train", ("AP",)), ("val", None)):
        for case in read_cxr_cases(folder, split, LABELS, views):
            assert case["patient"] == everything[case["case"]]
            assert "10000" not in str({key: value for key, value in case.items() if key != "image"})


@pytest.mark.parametrize(
    ("policy", "not_mentioned", "expected"),
    [
        ("ignore", "zeros", [[1, np.nan], [0, 0], [0, 0]]),
        ("zeros", "zeros", [[1, 0], [0, 0], [0, 0]]),
        ("ones", "ignore", [[1, 1], [np.nan, 0], [0, np.nan]]),
    ],
)
def test_policies(folder: Path, policy: str, not_mentioned: str, expected: list) -> None:
    cases = read_cxr_cases(folder, "train", LABELS, policy=policy, not_mentioned=not_mentioned)
    np.testing.assert_array_equal([case["label"] for case in cases], expected)


def test_smoothed_labels_are_the_same_every_time(folder: Path) -> None:
    both = [read_cxr_cases(folder, "train", LABELS, policy="lsr", views=None) for _ in range(2)]
    drawn = [case["label"][1] for case in both[0]][:2]
    assert all(0.55 <= value <= 0.85 for value in drawn) and drawn[0] != drawn[1]
    np.testing.assert_array_equal([c["label"] for c in both[0]], [c["label"] for c in both[1]])


def test_labels_are_by_name_and_views_and_limit_by_choice(folder: Path) -> None:
    turned = read_cxr_cases(folder, "train", LABELS[::-1])
    straight = read_cxr_cases(folder, "train", LABELS)
    np.testing.assert_array_equal([c["label"][::-1] for c in turned], [c["label"] for c in straight])
    assert [c["case"] for c in read_cxr_cases(folder, None, LABELS, views=None)] == list("abcde")
    assert [c["case"] for c in read_cxr_cases(folder, "train", LABELS, views=("LATERAL",))] == ["b"]
    assert [c["case"] for c in read_cxr_cases(folder / "manifest.csv", "train", LABELS, limit=2)] == ["a", "c"]


def test_what_is_wrong_is_named(folder: Path) -> None:
    with pytest.raises(BadInput, match="has no row with split val and a view PA or AP"):
        read_cxr_cases(folder, "val", LABELS)
    with pytest.raises(BadInput, match="has no column 'Pneumonia'"):
        read_cxr_cases(folder, "train", ("Pneumonia",))
    with pytest.raises(ValueError, match="policy is 'one'"):
        read_cxr_cases(folder, "train", LABELS, policy="one")
    (folder / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], [{"study": "s1", "age": "old"}]))
    with pytest.raises(BadInput, match="line 2 has age 'old', expected a number or a blank"):
        read_cxr_cases(folder, "train", LABELS)
    (folder / "clinical.csv").write_text("study,age\ns1,60\n")
    with pytest.raises(BadInput, match="has no column 'sex', expected the clinical columns of this version"):
        read_cxr_cases(folder, "train", LABELS)
    (folder / "clinical.csv").unlink()
    with pytest.raises(BadInput, match=r"clinical.csv: does not exist"):
        read_cxr_cases(folder, "train", LABELS)
    (folder / "notes.csv").write_text("study,note\ns1,a\ns1,b\n")
    with pytest.raises(BadInput, match="two notes of study 's1'"):
        read_cxr_cases(folder, "train", LABELS)


def test_two_rows_of_values_of_one_study_are_refused(folder: Path) -> None:
    """A bug: the last one won."""
    rows = [{"study": "s1", "age": 60}, {"study": "s2"}, {"study": "s1", "age": 60}, {"study": "s1"}]
    (folder / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], rows))
    assert read_cxr_cases(folder, "train", LABELS)[0]["clinical"][0] == 60  # as with notes, the same again is no harm
    (folder / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], [*rows, {"study": "s1", "age": 80}]))
    with pytest.raises(BadInput, match="line 6 is about study 's1' again, with other values"):
        read_cxr_cases(folder, "train", LABELS)


def test_values_that_no_body_has_are_refused(folder: Path) -> None:
    """A bug: an age of 4000 was read, which predict refuses."""
    (folder / "clinical.csv").write_text(csv_text(["study", *CLINICAL_COLUMNS], [{"study": "s1", "age": 4000}]))
    with pytest.raises(BadInput, match="clinical.csv: line 2 has age '4000', which no body has"):
        read_cxr_cases(folder, "train", LABELS)


def test_an_unknown_label_value_is_named(folder: Path) -> None:
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("PA,1.0,-1.0", "PA,2.0,-1.0"))
    with pytest.raises(BadInput, match="row 'a' has Edema '2.0', expected 1.0, 0.0, -1.0 or blank"):
        read_cxr_cases(folder, "train", LABELS)
