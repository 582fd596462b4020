import pytest

from common.data.ehr.icd import ICD_GROUPS
from common.data.ehr.mimic_items import LAB_TESTS
from common.data.ehr.vital_signs import VITAL_SIGNS
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.reasoning import _table, ehr_lines, evidence, groups, reasoning_target


def vital(name, value, hours=0.5):
    return {"name": name, "value": value, "unit": VITAL_SIGNS[name].unit, "hours": hours}


def lab(name, value, low=None, high=None, hours=3.5, flag="", **more):
    unit = next(test.unit for test in LAB_TESTS if test.name == name)
    return {"name": name, "value": value, "unit": unit, "flag": flag, "low": low, "high": high, "hours": hours} | more


RECORD = {
    "study": "s50000001", "patient": "10000001", "age": 72, "sex": "F", "chief_complaint": "Fever,  Cough",
    "vitals": [vital("o2sat", 91.0, 0.21), vital("temperature", 38.44)],
    "labs": [lab("White Blood Cells", 15.2, 4.0, 11.0, flag="abnormal"), lab("Sodium", 139.0, 133.0, 145.0, 30.04),
             lab("NTproBNP", 70000.0, 0.0, 450.0, comparator=">"),
             lab("Troponin T", 0.01, 0.0, 0.01, comparator="<"), lab("Creatinine", 1.02838, flag="abnormal")],
    "o2_device": {"text": "Nasal\ncannula", "hours": 1.2}, "chronic_conditions": ["COPD", "hypertension"],
    "icd": ["pneumonia"],
}  # fmt: skip
TEXTS = [
    "72-year-old woman",
    "Chief complaint: Fever, Cough",
    "Temperature 38.4 C (abnormal, 0.5 h before)",
    "SpO2 91 % (abnormal, 0.2 h before)",
    "WBC 15.2 K/uL (abnormal, 3.5 h before)",
    "Sodium 139 mEq/L (30.0 h before)",
    "Creatinine 1.028 mg/dL (abnormal, 3.5 h before)",
    "Troponin T <0.01 ng/mL (3.5 h before)",
    "NT-proBNP >70000 pg/mL (abnormal, 3.5 h before)",
    "O2 device: Nasal cannula (1.2 h before)",
    "History: COPD, hypertension",
]


def test_the_table_knows_the_variables_units_groups_and_labels_of_the_data():
    table = _table()
    assert {name: rule["unit"] for name, rule in table["vitals"].items()} == {n: v.unit for n, v in VITAL_SIGNS.items()}
    assert {name: rule["unit"] for name, rule in table["labs"].items()} == {test.name: test.unit for test in LAB_TESTS}
    assert groups() == tuple(ICD_GROUPS)
    names = [rule["name"] for kind in ("vitals", "labs") for rule in table[kind].values()]
    assert len(set(names)) == len(names)
    for rule in table["groups"].values():
        assert {*rule["high"], *rule["low"]} <= set(names) and set(rule["labels"]) <= set(CHEXPERT_LABELS)


def test_lines_in_their_order():
    lines = ehr_lines(RECORD)
    assert [line.text for line in lines] == TEXTS
    kinds = ["person", "person", "vital", "vital", *["lab"] * 5, "device", "history"]
    assert [line.kind for line in lines] == kinds
    hours = [None, None, 0.5, 0.21, 3.5, 30.04, 3.5, 3.5, 3.5, 1.2, None]
    assert [line.hours for line in lines] == hours


def test_the_groups_of_the_stay_are_never_told():
    other = RECORD | {"icd": ["pulmonary_embolism"]}
    assert ehr_lines(other) == ehr_lines(RECORD)
    assert not any(name in text for name in groups() for text in TEXTS)


def test_what_is_not_known_has_no_line():
    assert ehr_lines({}) == []
    assert [line.text for line in ehr_lines({"age": None, "sex": "M", "vitals": []})] == ["Man"]
    assert [line.text for line in ehr_lines({"age": 91, "sex": None})] == ["Patient over 89 years old"]
    assert [line.text for line in ehr_lines({"age": 40})] == ["40-year-old patient"]


@pytest.mark.parametrize(
    ("item", "text"),
    [({"name": "heart", "value": 1, "unit": "/min", "hours": 1}, "vitals have 'heart' in '/min', expected temp"),
     ({"name": "temperature", "value": 99, "unit": "F", "hours": 1}, "vitals have 'temperature' in 'F'")],
)  # fmt: skip
def test_unknown_names_and_units_are_refused(item, text):
    with pytest.raises(ValueError, match=text):
        ehr_lines({"vitals": [item]})


def test_a_value_is_judged_as_it_is_written():
    assert "abnormal" not in ehr_lines({"vitals": [vital("temperature", 38.04)]})[0].text
    assert "abnormal" in ehr_lines({"vitals": [vital("temperature", 38.06)]})[0].text
    below = {"labs": [lab("Troponin T", 0.1, 0, 0.01, comparator="<")]}
    assert "abnormal" not in ehr_lines(below)[0].text  # it may be normal


def test_reasoning_tells_per_group_what_supports_it():
    told = reasoning_target(RECORD, "Right lower lobe pneumonia. Possible effusion.", ["heart_failure", "pneumonia"])
    assert told == [
        f"pneumonia: {TEXTS[2]}; {TEXTS[3]}; {TEXTS[4]}; the impression states Pneumonia",
        f"heart_failure: {TEXTS[8]}; the impression suspects Pleural Effusion",
    ]
    assert evidence(told, TEXTS) == (4, 4, 4)


def test_without_a_record_only_the_impression_is_evidence():
    told = reasoning_target(None, "Right lower lobe pneumonia.", ["pneumonia", "pulmonary_embolism"])
    assert told == ["pneumonia: the impression states Pneumonia", "pulmonary_embolism: no direct evidence"]
    assert reasoning_target(RECORD, "No acute process.", []) == ["none of the groups"]
    with pytest.raises(ValueError, match="ICD group is 'flu', expected one of pneumonia"):
        reasoning_target(None, "", ["flu"])


@pytest.mark.parametrize(
    ("text", "counts"),
    [("pneumonia: WBC 15.2 K/uL (abnormal, 3.5 h before)", (1, 1, 1)),
     ("WBC 15.20 K/uL", (1, 1, 1)),
     ("WBC 15.3 K/uL", (1, 0, 0)),
     ("CRP 15.2 K/uL", (1, 1, 0)),
     ("15.2 K/uL", (1, 1, 0)),
     ("WBC 15.2 mg/L", (1, 0, 0)),
     ("Troponin T 0.01 ng/mL; Troponin T <0.01 ng/mL", (2, 1, 1)),
     ("SpO2 91 %, SpO2 91%; Temperature 91 %", (3, 3, 2)),
     ("for 3.5 h, in 2 lobes, 15.2, K/uL", (0, 0, 0)),
     ("the impression states Pneumonia", (0, 0, 0))],
)  # fmt: skip
def test_values_of_a_reasoning_against_the_prompt(text, counts):
    assert evidence([text], TEXTS) == counts
    assert evidence([text], []) == (counts[0], 0, 0)
