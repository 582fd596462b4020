"""How studies become rows: shares, what is drawn, and that each row is what its prompt and target say."""

import json
from collections import Counter

import pytest

from common.data.curriculum.rows import CURRICULUM, check_row, curriculum
from common.data.curriculum.subset import json_lines
from common.io.bad_input import BadInput
from common.text.reasoning import ehr_lines, evidence, reasoning_target
from common.text.report_answers import answer_a, answer_b, instruction, parse_answer

OPTIONS = {"stage_a_share": 0.35, "without_ehr": 0.3, "split_by_patient": None, "seed": 0}
WBC = {
    "name": "White Blood Cells",
    "value": 15.2,
    "unit": "K/uL",
    "hours": 3.5,
    "flag": "abnormal",
    "low": 4,
    "high": 11,
}


def study(number, split="train", patient=None):
    return {
        "study": f"s{number}", "patient": str(patient or number), "split": split, "image": f"files/{number}.jpg",
        "impression": f"Pneumonia {number}.", "labels": {"Pneumonia": 1.0},
    }  # fmt: skip


def record(number, icd=("pneumonia",), patient=None, **more):
    known = {"age": 60, "sex": "F", "vitals": [], "labs": [WBC], "o2_device": None, "chronic_conditions": []}
    return {"study": f"s{number}", "patient": str(patient or number)} | known | {"icd": icd and list(icd)} | more


def write(folder, studies, records):
    (folder / "phase_a.jsonl").write_text(json_lines(studies))
    (folder / "ehr.jsonl").write_text(json_lines(records))
    return folder


def make(folder, studies, records, **options):
    """Split -> rows, and the counts."""
    result = curriculum(folder, write(folder, studies, records), **OPTIONS | options)
    files = {
        split: [json.loads(line) for line in result.files[name].splitlines()] for split, name in CURRICULUM.items()
    }
    return files, result.counts


@pytest.fixture
def hundred(tmp_path):
    """100 studies for training of which 65 have a record and codes, 10 to validate and 6 to test, half of them so."""
    studies = [study(n) for n in range(100)]
    studies += [study(n, "val") for n in range(100, 110)] + [study(n, "test") for n in range(110, 116)]
    return tmp_path, studies, [record(n) for n in (*range(65), *range(100, 105), *range(110, 113))]


def test_shares_of_the_stages_and_of_rows_without_a_record(hundred):
    files, counts = make(*hundred)
    kinds = Counter((row["stage"], row["ehr"] is None) for row in files["train"])
    assert kinds == {("a", True): 35, ("b", False): 45, ("b", True): 20}  # 30 % of 65 are 19.5
    assert counts["train"] == {
        "rows": 100, "stage_a": 35, "stage_b": 65, "stage_b_without_ehr": 20, "patients": 100, "studies": 100,
        "stage_a_share": 0.35, "studies_in_both_stages": 0, "studies_without_a_row": 0, "stage_b_not_taken": 0,
    }  # fmt: skip
    for split, n in (("val", 10), ("test", 6)):  # nothing is drawn: every target, with its record
        kinds = Counter((row["stage"], row["ehr"] is None) for row in files[split])
        assert kinds == {("a", True): n, ("b", False): n // 2}
    assert counts["mb"] == pytest.approx(sum(len(json_lines(rows).encode()) for rows in files.values()) / 1e6, abs=0.01)


@pytest.mark.parametrize(
    ("share", "stages", "both"),
    [(0.35, (35, 65), 0), (0.5, (65, 65), 30), (0.8, (100, 25), 25), (1.0, (100, 0), 0), (0.0, (0, 65), 0)],
)
def test_a_share_is_met_with_as_many_rows_as_there_are_studies_for(hundred, share, stages, both):
    files, counts = make(*hundred, stage_a_share=share)
    found = Counter(row["stage"] for row in files["train"])
    assert (found["a"], found["b"]) == stages and counts["train"]["studies_in_both_stages"] == both
    assert counts["train"]["stage_b_not_taken"] == 65 - stages[1]
    of_b = [row for row in files["train"] if row["stage"] == "b"]
    assert sum(row["ehr"] is None for row in of_b) == round(0.3 * len(of_b))


def test_the_seed_draws_and_the_order_of_the_files_does_not(hundred):
    folder, studies, records = hundred

    def drawn(files):
        return {row["id"] for row in files["train"] if row["stage"] == "b" and row["ehr"] is None}

    first = make(*hundred, stage_a_share=0.8)[0]
    again = make(folder, studies[::-1], records[::-1], stage_a_share=0.8)[0]
    other = make(*hundred, stage_a_share=0.8, seed=1)[0]
    ids = [{row["id"] for row in files["train"]} for files in (first, again, other)]
    assert ids[0] == ids[1] != ids[2] and drawn(first) == drawn(again) != drawn(other)


def test_rows_hold_the_conversation_and_what_it_was_made_from(hundred):
    files, _ = make(*hundred)
    assert list(files["train"][0]) == [
        "id", "image", "conversations", "stage", "study", "patient", "split", "ehr", "impression", "labels", "icd",
    ]  # fmt: skip
    ids = [row["id"] for rows in files.values() for row in rows]
    assert len(set(ids)) == len(ids)
    for row in files["train"]:
        human, model = row["conversations"]
        assert (human["from"], model["from"]) == ("human", "gpt")
        number, text = row["study"][1:], row["impression"]
        assert (row["image"], row["patient"], text) == (f"files/{number}.jpg", number, f"Pneumonia {number}.")
        assert row["id"] == f"{row['study']}_{row['stage']}" and row["labels"] == {"Pneumonia": 1.0}
        if row["stage"] == "a":
            assert (human["value"], model["value"]) == (instruction("a"), answer_a(text, {"Pneumonia": 1.0}))
            assert row["ehr"] is None and row["icd"] == []
            continue
        lines = None if row["ehr"] is None else [line.text for line in ehr_lines(row["ehr"])]
        assert human["value"] == instruction("b", lines) and row["icd"] == ["pneumonia"]
        assert model["value"] == answer_b(reasoning_target(row["ehr"], text, ["pneumonia"]), text, ["pneumonia"])
        told = evidence(parse_answer(model["value"], "b").reasoning, lines or [])
        assert told == ((1, 1, 1) if lines else (0, 0, 0))  # nothing is told that was not given


def test_a_stay_without_codes_gives_no_row_of_stage_b_and_one_without_a_group_does(tmp_path):
    records = [record(1, icd=None), record(2, icd=()), record(3)]
    files, _ = make(tmp_path, [study(n, "val") for n in (1, 2, 3, 4)] + [study(5)], records, stage_a_share=1.0)
    assert [row["id"] for row in files["val"]] == ["s1_a", "s2_a", "s3_a", "s4_a", "s2_b", "s3_b"]
    assert files["val"][4]["icd"] == []


def test_the_split_by_patient(tmp_path):
    studies = [study(n, "test", patient=n // 2) for n in range(100)]
    records = [record(n, patient=n // 2) for n in range(100)]
    files, counts = make(tmp_path, studies, records, split_by_patient=0.9)
    patients = {split: {row["patient"] for row in rows} for split, rows in files.items()}
    assert (len(patients["train"]), len(patients["val"]), len(patients["test"])) == (45, 5, 0)
    assert not patients["train"] & patients["val"] and counts["val"]["studies"] == 10


@pytest.mark.parametrize(
    ("studies", "records", "options", "reason"),
    [([study(1)], [], {}, "has 1 studies for training, 0 of them with a record and ICD codes, expected enough"),
     ([study(1)], [record(1, icd=None)], {}, "0 of them with a record and ICD codes"),
     ([study(1, "val")], [record(1)], {}, "has 0 studies for training"),
     ([study(1), study(1)], [], {}, "has study s1 2 times, expected each once"),
     ([study(1), study(2, "val", patient=1)], [], {}, "has patient 1 in train and val, expected one split"),
     ([study(1)], [record(1, patient=2)], {}, "has study s1 of patient 2, expected 1"),
     ([study(1)], [record(1)], {"split_by_patient": 0.9}, "has one patient, expected two at least"),
     ([study(1), study(2)], [record(1)], {"without_ehr": 1.0}, "has 1 rows of stage b, none with a record by"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused(tmp_path, studies, records, options, reason):
    with pytest.raises(BadInput) as problem:
        make(tmp_path, studies, records, **options)
    assert reason in str(problem.value)


@pytest.mark.parametrize(
    "option", [{"stage_a_share": 1.1}, {"without_ehr": -0.1}, {"split_by_patient": 1.0}, {"split_by_patient": 0}]
)
def test_shares_outside_their_range(tmp_path, option):
    (name, value), = option.items()  # fmt: skip
    with pytest.raises(ValueError, match=f"{name} is {value}, expected a number"):
        make(tmp_path, [study(1)], [record(1)], **option)


def turns(row, prompt=None, answer=None):
    human, model = (turn["value"] for turn in row["conversations"])
    return [{"from": "human", "value": prompt or human}, {"from": "gpt", "value": answer or model}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda row: row.pop("icd"), "has no 'icd', expected id, image, conversations"),
     (lambda row: row.update(conversations=turns(row, instruction("b"))), "has another prompt than"),
     (lambda row: row.update(ehr=None), "has another prompt than its stage and record"),
     (lambda row: row.update(conversations=row["conversations"][::-1]), "has another prompt"),
     (lambda row: row.update(conversations=row["conversations"][:1]), "that can be used: list index out of range"),
     (lambda row: row.update(stage="c"), "that can be used: stage is 'c', expected a or b"),
     (lambda row: row.update(ehr={"vitals": [WBC | {"unit": "y"}]}), "used: vitals have 'White Blood Cells' in"),
     (lambda row: row.update(conversations=turns(row, answer="Pneumonia.")), "has an answer outside the format"),
     (lambda row: row.update(impression="Normal."), "has an answer that is not its impression and labels"),
     (lambda row: row.update(icd=[]), "has an answer that is not its ICD groups"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_what_it_says_is_refused(hundred, change, reason):
    files, _ = make(*hundred)
    row = next(row for row in files["train"] if row["ehr"])
    check_row("c.jsonl", 7, row)
    change(row)
    with pytest.raises(BadInput) as problem:
        check_row("c.jsonl", 7, row)
    assert str(problem.value).startswith(f"c.jsonl: row 7 ('{row['id']}') ") and reason in str(problem.value)
