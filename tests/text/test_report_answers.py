import json

import pytest

from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.reasoning import groups
from common.text.report_answers import Answer, answer_a, answer_b, instruction, parse_answer

LABELS = {"Pneumothorax": 0.0, "Edema": 1.0, "Pneumonia": -1.0, "Fracture": None}
A = '{"impression":"Édema \\"x\\".","chexpert":{"Edema":"positive","Pneumonia":"uncertain","Pneumothorax":"negative"}}'
B = '{"reasoning":["WBC 15 K/uL"],"impression":"Edema.","icd":["pneumonia","heart_failure"]}'


def test_answers_are_compact_json_in_a_fixed_order():
    assert answer_a('Édema "x".', LABELS) == A
    assert answer_b(["WBC 15 K/uL"], "Edema.", ["heart_failure", "pneumonia"]) == B
    assert answer_b([], "Normal.", []) == '{"reasoning":[],"impression":"Normal.","icd":[]}'
    every = dict.fromkeys(reversed(CHEXPERT_LABELS), 1.0)
    assert list(json.loads(answer_a("x", every))["chexpert"]) == list(CHEXPERT_LABELS)


def test_answers_are_read_back():
    known = {"Edema": 1.0, "Pneumonia": -1.0, "Pneumothorax": 0.0}
    assert parse_answer(A, "a") == Answer('Édema "x".', known)
    assert parse_answer(f" {B}\n", "b") == Answer(
        "Edema.", reasoning=("WBC 15 K/uL",), icd=("pneumonia", "heart_failure")
    )
    assert parse_answer('{"chexpert":{},"impression":"x"}', "a") == Answer("x")


def altered(text, **changes):
    return json.dumps({k: v for k, v in (json.loads(text) | changes).items() if v is not ...})


@pytest.mark.parametrize(
    "text",
    [B, A + ".", f"```json\n{A}\n```", A.replace('"Edema"', '"Oedema"'), A.replace("positive", "Positive"),
     A.replace("positive", "present"), A.replace('"positive"', "1.0"), A.replace('"positive"', "null"),
     A.replace('"positive"', '["positive"]'), A.replace('"Pneumonia"', '"Edema"'), altered(A, chexpert=[]),
     altered(A, chexpert=["Edema"]), altered(A, impression=None), altered(A, impression=["x"]),
     altered(A, impression=" "), altered(A, icd=[]), altered(A, impression=...), altered(A, chexpert=...), "", "[]"],
)  # fmt: skip
def test_what_is_no_answer_of_stage_a(text):
    assert parse_answer(text, "a") is None


@pytest.mark.parametrize(
    "text",
    [A, altered(B, reasoning="x"), altered(B, reasoning=[1]), altered(B, reasoning=[""]), altered(B, reasoning=None),
     altered(B, icd="pneumonia"), altered(B, icd=["flu"]), altered(B, icd=[["pneumonia"]]), altered(B, icd=[None]),
     altered(B, icd=["pneumonia", "pneumonia"]), altered(B, icd={"pneumonia": 1}), altered(B, icd=...),
     altered(B, reasoning=...), altered(B, impression=3), altered(B, chexpert={})],
)  # fmt: skip
def test_what_is_no_answer_of_stage_b(text):
    assert parse_answer(text, "b") is None


@pytest.mark.parametrize("stage", ["a", "b"])
def test_the_prompt_states_task_record_and_format(stage):
    blind, told = instruction(stage), instruction(stage, ["72-year-old woman", "LABELS GROUPS RECORD"])
    for text in (blind, told):
        assert text.startswith("<image>\n") and text.count("<image>") == 1
        assert all(name in text for name in (CHEXPERT_LABELS if stage == "a" else groups()))
        shown = next(line for line in text.splitlines() if line.startswith("{"))
        assert json.loads(shown).keys() == json.loads(A if stage == "a" else B).keys()
    assert "No record of the patient is given." in blind
    assert "\n72-year-old woman\nLABELS GROUPS RECORD\n" in told and "No record" not in told


def test_what_cannot_be_asked_or_written():
    with pytest.raises(ValueError, match="stage is 'c', expected a or b"):
        instruction("c")
    with pytest.raises(ValueError, match="stage is 'stage_a', expected a or b"):
        parse_answer(A, "stage_a")
    with pytest.raises(ValueError, match="the record has no line"):
        instruction("b", [])
    with pytest.raises(ValueError, match="label 'Oedema' is 1.0"):
        answer_a("x", {"Oedema": 1.0})
    with pytest.raises(ValueError, match="label 'Edema' is 0.5"):
        answer_a("x", {"Edema": 0.5})
    with pytest.raises(ValueError, match="ICD group is 'flu'"):
        answer_b([], "x", ["flu"])
