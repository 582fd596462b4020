import json
import shutil
from pathlib import Path

import pytest

from common.data.curriculum.reader import read_curriculum, write_curriculum
from common.data.cxr.reader import read_xray
from common.io.bad_input import BadInput
from common.text.report_answers import parse_answer
from tests.data.cxr.mimic_tree import TRAIN, VAL, make_tree, read_rows, write_rows


@pytest.fixture(scope="module")
def written(made_once, tmp_path_factory):
    """A data set and its curriculum, side by side."""
    tree, _ = made_once("mimic_steps", make_tree)
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(tree / "mimic", root / "mimic")
    return root, write_curriculum(root / "mimic", root / "curriculum")


@pytest.fixture
def copy(written, tmp_path):
    """To spoil."""
    shutil.copytree(written[0], tmp_path / "data")
    return tmp_path / "data" / "curriculum"


def test_rows_of_a_split_and_stage(written):
    folder = written[0] / "curriculum"
    counts = written[1]["curriculum"]["counts"]
    for split in ("train", "val", "test"):
        rows = read_curriculum(folder, split)
        raw = read_rows(folder / f"curriculum_{split}.jsonl")
        assert [row | {"image": None} for row in rows] == [row | {"image": None} for row in raw]
        for row in rows:
            assert Path(row["image"]).is_absolute() and read_xray(row["image"]).pixels.ndim == 2
            assert parse_answer(row["conversations"][1]["value"], row["stage"]).impression == row["impression"]
        for stage in "ab":
            own = read_curriculum(folder, split, stage)
            assert own == [row for row in rows if row["stage"] == stage]
            assert len(own) == counts[split][f"stage_{stage}"]
    assert read_curriculum(folder, "train", "b", limit=3) == read_curriculum(folder, "train", "b")[:3]


def test_no_patient_is_in_two_splits(written):
    patients = [
        {row["patient"] for row in read_curriculum(written[0] / "curriculum", s)} for s in ("train", "val", "test")
    ]
    assert all(patients) and not patients[0] & patients[1] and not (patients[0] | patients[1]) & patients[2]


def test_both_folders_may_be_moved_together(copy):
    assert all(str(copy.parent / "mimic") in row["image"] for row in read_curriculum(copy, "val"))


def test_images_that_are_not_there_are_named_if_they_are_asked_for(copy):
    rows = read_curriculum(copy, "train")
    Path(rows[-1]["image"]).unlink()
    assert len(read_curriculum(copy, "train", limit=1)) == 1
    with pytest.raises(BadInput, match=f"{rows[-1]['study']}.*jpg: does not exist, expected the image of 's"):
        read_curriculum(copy, "train")


def spoil(folder, name, change):
    rows = read_rows(folder / name)
    write_rows(folder / name, change(rows))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda rows: [row for row in rows if row["stage"] == "a"], "has no row of stage b, expected one"),
     (lambda rows: [row for row in rows if row["ehr"] is None], "has no row of stage b with a record"),
     (lambda rows: [row | {"split": "val"} for row in rows], "is of split 'val', expected 'train'"),
     (lambda rows: [{k: v for k, v in row.items() if k != "ehr"} for row in rows], "has no 'ehr', expected id, image"),
     (lambda rows: [row | {"conversations": [row["conversations"][0], {"from": "gpt", "value": "{}"}]} for row in rows],
      "has an answer outside the format of its stage")],
)  # fmt: skip
def test_what_a_training_must_not_read(copy, change, reason):
    spoil(copy, TRAIN, change)
    with pytest.raises(BadInput) as problem:
        read_curriculum(copy, "train", "b")
    assert reason in str(problem.value) and str(copy / TRAIN) in str(problem.value)


def test_a_patient_who_is_in_another_split_as_well(copy):
    (first, *_) = read_rows(copy / TRAIN)
    spoil(copy, VAL, lambda rows: [*rows, first | {"split": "val"}])
    for split in ("train", "val"):
        with pytest.raises(BadInput, match=f"is of patient {first['patient']}, who is in .* and .*, expected one"):
            read_curriculum(copy, split)
    assert read_curriculum(copy, "test")


def test_damaged_or_missing_files(copy):
    text = (copy / TRAIN).read_text()
    (copy / TRAIN).write_text(text[:-40])
    n_rows = len(text.splitlines())
    with pytest.raises(BadInput, match=f"{TRAIN}: line {n_rows} is no JSON"):
        read_curriculum(copy, "train")
    (copy / TRAIN).write_text(text + "[1]\n")
    with pytest.raises(BadInput, match=f"line {n_rows + 1} is a list, expected an object"):
        read_curriculum(copy, "train")
    (copy / TRAIN).unlink()
    with pytest.raises(BadInput, match="does not exist, expected what prepare mimic_cxr --step curriculum writes"):
        read_curriculum(copy, "train")
    (copy / "steps.json").unlink()
    with pytest.raises(BadInput, match="steps.json: does not exist, expected it beside the files of the steps"):
        read_curriculum(copy, "val")


def test_unknown_words(written):
    folder = written[0] / "curriculum"
    for words in (("validate",), ("train", "c")):
        with pytest.raises(ValueError, match="split and stage are"):
            read_curriculum(folder, *words)
    assert json.loads((folder / "steps.json").read_text())["input"] == "../mimic"
