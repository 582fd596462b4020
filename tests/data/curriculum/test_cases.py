import json

import pytest
import torch

from common.apps.run.prepare import prepare_virtual
from common.data.curriculum.cases import (
    CurriculumStage,
    answer_dataset,
    curriculum_cases,
    curriculum_images,
    curriculum_splits,
    text_curriculum,
)
from common.data.curriculum.inputs import curriculum_to_score, read_records, with_records
from common.data.cxr.inputs import xray_cases
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.report_answers import parse_answer

OPTIONS = {"n_images": 100, "seed": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of virtual patients, and a run with their curriculum."""
    folder, out = tmp_path_factory.mktemp("patients"), tmp_path_factory.mktemp("run")
    prepare_virtual(folder, "mimic_cxr", n=12, shape=(16, 32, 32), spacing=(9, 10, 11))
    CurriculumStage(str(folder), str(out / "curriculum"), str(out), OPTIONS).run()
    return folder, out


def test_the_stage_says_what_it_made(run):
    folder, out = run
    history = json.loads((out / "curriculum" / "history.json").read_text())
    rows = {split: curriculum_cases(out / "curriculum", split) for split in ("train", "val", "test")}
    for split, cases in rows.items():
        for stage in "ab":
            assert history["metrics"][f"{split}_{stage}"] == sum(case["stage"] == stage for case in cases) > 0
    patients = [{case["patient"] for case in cases} for cases in rows.values()]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    for case in [case for cases in rows.values() for case in cases]:
        assert parse_answer(case["answer"], case["stage"]).impression == case["impression"]
        assert (case["lines"] is None) == (case["ehr"] is None)
    before = (out / "curriculum" / "curriculum_train.jsonl").stat().st_mtime_ns
    CurriculumStage(str(folder), str(out / "curriculum"), str(out), OPTIONS).run()
    assert (out / "curriculum" / "curriculum_train.jsonl").stat().st_mtime_ns == before


def test_a_curriculum_of_the_user_is_taken_as_it_is(run, tmp_path):
    CurriculumStage("no folder", str(run[1] / "curriculum"), str(tmp_path), {}).run()
    assert json.loads((tmp_path / "curriculum" / "history.json").read_text())["metrics"]["train_a"] > 0


def test_a_stage_may_rehearse_the_other_one(run):
    folder = run[1] / "curriculum"
    alone, both = curriculum_splits(folder, "b"), curriculum_splits(folder, "b", rehearse=True)
    assert {case["stage"] for case in alone["train"]} == {"b"} and {case["stage"] for case in both["train"]} == {
        "a",
        "b",
    }
    assert both["val"] == alone["val"] and both["test"] == alone["test"]


def test_images_each_once_and_cases_with_them(run):
    images = curriculum_images(run[1] / "curriculum")
    cases = curriculum_cases(run[1] / "curriculum", "train")
    assert [image["image"] for image in images["train"]] == list(dict.fromkeys(case["image"] for case in cases))
    data = answer_dataset(
        cases, "train", lambda item: item | {"image": torch.zeros(3, 4, 4)}, weights=[2.0] * len(cases)
    )
    assert len(data) == len(cases) and data[1]["index"] == 1 and data[1]["weight"] == 2.0


def test_features_of_other_images_are_refused(run, tmp_path):
    from common.data.datasets.features import write_features

    cases = curriculum_cases(run[1] / "curriculum", "val")
    tokens = torch.randn(1, 6)
    index = {"scale_factor": 1.0, "features": ["tokens"], "columns": {"case": [cases[0]["image"]]}, "maps": {}}
    write_features(tmp_path, "val", index, {"tokens": tokens})
    first = [case for case in cases if case["image"] == cases[0]["image"]]
    assert torch.equal(answer_dataset(first, "val", None, str(tmp_path))[0]["tokens"], tokens[0])
    with pytest.raises(BadInput, match="has no image of case"):
        answer_dataset(cases, "val", None, str(tmp_path))


def test_texts_without_images():
    cases = text_curriculum(30, 500_000, 6)
    assert {case["stage"] for case in cases["train"]} == {"a", "b"} and cases["val"]
    for case in cases["train"]:
        present = {name for name, value in case["labels"].items() if value in (1.0, -1.0)}
        assert set(filter(None, case["seen"].split("; "))) == present and case["image"] is None
    assert cases == text_curriculum(30, 500_000, 6)


RECORD = {"age": 72, "sex": "F", "vitals": [{"name": "temperature", "value": 38.4, "unit": "C", "hours": 0.7}]}


def test_a_record_beside_an_image(run, tmp_path):
    image = next(run[0].glob("files/*/*/*/*.jpg"))
    cases = xray_cases(image, CHEXPERT_LABELS)
    assert with_records(cases)[0] | {"stage": "a", "lines": None} == with_records(cases)[0]
    (tmp_path / "r.json").write_text(json.dumps(RECORD))
    (told,) = with_records(cases, tmp_path / "r.json")
    assert told["stage"] == "b" and any("Temperature 38.4 C" in line.text for line in told["lines"])
    rows = f"case,name,value,unit,hours\n{image.stem},age,72,,\n{image.stem},sex,F,,\n"
    (tmp_path / "r.csv").write_text(f"{rows}{image.stem},temperature,38.4,C,0.7\n")
    assert with_records(cases, tmp_path / "r.csv")[0]["lines"] == told["lines"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("3", "holds something else than records"),
        ("[]", "holds no record"),
        (json.dumps({}), "tells nothing, expected one value or more"),
        (json.dumps(RECORD | {"age": 300}), "age is 300"),
        (json.dumps(RECORD | {"age": True}), "age is True, expected a whole number"),
        (json.dumps(RECORD | {"vitals": [RECORD["vitals"][0] | {"hours": "soon"}]}), "was taken 'soon' hours before"),
        (json.dumps(RECORD | {"vitals": [RECORD["vitals"][0] | {"hours": float("inf")}]}), "was taken inf hours"),
        (
            json.dumps(RECORD | {"vitals": [RECORD["vitals"][0] | {"value": float("nan")}]}),
            "temperature is nan, expected",
        ),
        (json.dumps(RECORD | {"mood": "good"}), "record has 'mood'"),
        (json.dumps(RECORD | {"vitals": [RECORD["vitals"][0] | {"unit": "F"}]}), "in 'F'"),
        (json.dumps([RECORD | {"case": "x"}] * 2), "has two records of 'x'"),
        (json.dumps([RECORD | {"case": "x"}, RECORD]), "a record without a case among others"),
    ],
)
def test_records_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        read_records(tmp_path / "r.json")


def test_a_file_of_records_that_is_none(tmp_path):
    (tmp_path / "r.json").write_bytes(b"\xff\xfe{\x00")
    with pytest.raises(BadInput, match=r"r.json: is not UTF-8 text"):
        read_records(tmp_path / "r.json")
    with pytest.raises(BadInput, match=r"^\S+: cannot be read \(Is a directory"):
        read_records(tmp_path)


def test_a_record_of_no_case(run, tmp_path):
    cases = xray_cases(run[0], CHEXPERT_LABELS)
    (tmp_path / "r.json").write_text(json.dumps(RECORD))
    with pytest.raises(BadInput, match="names no case, expected a record that does"):
        with_records(cases, tmp_path / "r.json")
    (tmp_path / "r.json").write_text(json.dumps([RECORD | {"case": "nobody"}]))
    with pytest.raises(BadInput, match="is about 'nobody', expected a case that has an X-ray"):
        with_records(cases, tmp_path / "r.json")


def test_a_prepared_folder_or_a_curriculum_is_scored(run, tmp_path):
    made = curriculum_to_score(str(run[0]), str(tmp_path), OPTIONS)
    given = curriculum_to_score(str(run[1] / "curriculum"), str(tmp_path), {})
    assert [case["case"] for case in made] == [case["case"] for case in given]
