import numpy as np
import pytest

from common.data.prediction_table import (
    align_predictions,
    find_predictions,
    read_predictions,
    read_truth,
    write_predictions,
    write_truth,
)
from common.io.bad_input import BadInput

LABELS = ("Edema", "Pleural Effusion")


def test_float32_comes_back_bit_for_bit_and_ids_stay_text(tmp_path):
    values = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    values[0] = (0, 1)
    cases = [f"{i:06d}" for i in range(50)]
    path = write_predictions(tmp_path / "new" / "all_test.csv", cases, ["007"] * 50, LABELS, values)
    table = read_predictions(path)
    assert table.cases == tuple(cases) and set(table.patients) == {"007"} and table.labels == LABELS
    assert np.array_equal(table.values.astype(np.float32), values)
    assert [file.name for file in path.parent.iterdir()] == ["all_test.csv"]


def test_without_patients_every_case_is_one(tmp_path):
    path = write_predictions(tmp_path / "predictions.csv", ["a", "b"], None, LABELS, np.full((2, 2), 0.5))
    assert path.read_text() == "case,Edema,Pleural Effusion\na,0.5,0.5\nb,0.5,0.5\n"
    assert read_predictions(path).patients == ("a", "b")


def test_truth_has_blanks(tmp_path):
    values = np.array([[1, np.nan], [0, 1]])
    path = write_truth(tmp_path / "labels_test.csv", ["a", "b"], ["p", "p"], LABELS, values)
    assert path.read_text() == "case,patient,Edema,Pleural Effusion\na,p,1,\nb,p,0,1\n"
    assert np.array_equal(read_truth(path).values, values, equal_nan=True)
    with pytest.raises(BadInput, match=r"line 2 \('a'\) has Pleural Effusion = '', expected a probability"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("cases", "patients", "labels", "values", "words"),
    [
        (["a", "a"], None, LABELS, np.zeros((2, 2)), "case 'a' is blank or occurs twice"),
        (["a", " "], None, LABELS, np.zeros((2, 2)), "case ' ' is blank"),
        (["a", "b"], None, ("Edema", "case"), np.zeros((2, 2)), "label 'case' is blank or occurs twice"),
        (["a", "b"], ["p"], LABELS, np.zeros((2, 2)), "1 patients"),
        (["a", "b"], None, LABELS, np.zeros((2, 3)), "shape .2, 3. do not fit"),
        (["a", "b"], None, LABELS, np.array([[0, 0], [0, 1.5]]), "Pleural Effusion of 'b' is 1.5, expected a prob"),
        (["a", "b"], None, LABELS, np.array([[0, np.nan], [0, 1]]), "Pleural Effusion of 'a' is nan"),
    ],
)
def test_what_is_no_prediction_is_not_written(tmp_path, cases, patients, labels, values, words):
    path = tmp_path / "all_test.csv"
    with pytest.raises(ValueError, match=words):
        write_predictions(path, cases, patients, labels, values)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,patient\na,p\n", "has no label"),
        ("name,Edema\na,1\n", "no column 'case'"),
        ("case,Edema\n", "has no rows"),
        ("case,Edema\na,0.1\na,0.2\n", "line 3 has the case 'a' again, expected each once"),
        ("case,patient,Edema\na,,0.1\n", "line 2 .'a'. has no patient"),
        ("case,Edema\na,high\n", "Edema = 'high', expected a probability"),
        ("case,Edema\na,nan\n", "Edema = 'nan'"),
        ("case,Edema\na,-1\n", "Edema = '-1'"),
    ],
)
def test_a_damaged_table_is_refused_in_a_sentence(tmp_path, text, words):
    path = tmp_path / "all_test.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=words) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


def test_truth_is_one_zero_or_nothing(tmp_path):
    path = tmp_path / "labels_test.csv"
    path.write_text("case,Edema\na,-1\n")
    with pytest.raises(BadInput, match="Edema = '-1', expected 1, 0 or nothing"):
        read_truth(path)
    with pytest.raises(ValueError, match="expected 1, 0 or NaN"):
        write_truth(path, ["a"], None, ["Edema"], np.array([[-1.0]]))


def test_rows_and_columns_are_matched_by_name(tmp_path):
    truth = read_truth(write_truth(tmp_path / "labels_test.csv", ["a", "b"], ["p", "q"], LABELS, np.eye(2)))
    values = np.array([[0.4, 0.3], [0.2, 0.1]])
    path = write_predictions(tmp_path / "all_test.csv", ["b", "a"], ["q", "p"], LABELS[::-1], values)
    assert np.array_equal(align_predictions(read_predictions(path), truth), [[0.1, 0.2], [0.3, 0.4]])


def test_other_cases_labels_or_patients_are_one_sentence(tmp_path):
    truth = read_truth(write_truth(tmp_path / "labels_test.csv", ["a", "b"], ["p", "q"], LABELS, np.eye(2)))

    def sentence(cases, patients, labels):
        path = write_predictions(tmp_path / "all_test.csv", cases, patients, labels, np.full((2, len(labels)), 0.5))
        with pytest.raises(BadInput) as error:
            align_predictions(read_predictions(path), truth)
        return str(error.value)

    assert "lacks 1 cases such as 'b' and adds 1 cases such as 'c', expected the cases of" in sentence(
        ["a", "c"], ["p", "q"], LABELS
    )
    assert "lacks 1 labels such as 'Pleural Effusion', expected the labels of" in sentence(
        ["a", "b"], ["p", "q"], LABELS[:1]
    )
    assert "gives case 'b' to another patient" in sentence(["a", "b"], ["p", "p"], LABELS)


def test_a_folder_names_models_and_splits(tmp_path):
    for name in ("all_test", "vision_text_test", "all_val", "labels_test", "labels_val"):
        (tmp_path / f"{name}.csv").write_text("")
    assert list(find_predictions(tmp_path, "test")) == ["all", "vision_text"]
    assert list(find_predictions(tmp_path, "val")) == ["all"]
    with pytest.raises(BadInput, match="expected files named MODEL_train.csv"):
        find_predictions(tmp_path, "train")
