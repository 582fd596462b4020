import json
from datetime import datetime, timedelta

import pytest

from common.data.ehr.context import EHRContext, EHRTarget, Measurement, Observation, Series
from common.data.ehr.icd import icd_groups
from common.data.ehr.record import check_record, diagnoses_in, ehr_record
from common.text.reasoning import ehr_lines

NOON = datetime(2150, 3, 5, 12)


def series(value, unit, hours, **more):
    first = Measurement(1.0, unit, NOON - timedelta(hours=9), 9.0)
    return Series(first, Measurement(value, unit, NOON - timedelta(hours=hours), hours, **more), 2)


def make(**fields):
    codes = (("J189", 10), ("I10", 10), ("I5022", 10))
    target = EHRTarget(1, 2, icd_groups(codes), codes)
    return EHRContext(1, 2, NOON, age=62, sex="F", **fields), target


def test_the_latest_values_with_hours_and_what_the_laboratory_says():
    vitals = {"temperature": series(38.0 + 1 / 3, "C", 1 / 3)}
    labs = {"White Blood Cells": series(15.2, "K/uL", 3.5, low=4.0, high=11.0, flag="abnormal"),
            "Troponin T": series(0.01, "ng/mL", 2.0, comparator="<", high=0.01)}  # fmt: skip
    device = Observation("Nasal cannula", NOON, 0.0)
    found = ehr_record(*make(vitals=vitals, labs=labs, o2_device=device, chronic_conditions=("COPD",)))
    assert found == {
        "age": 62, "sex": "F",
        "vitals": [{"name": "temperature", "value": 38.3333, "unit": "C", "hours": 0.33}],
        "labs": [
            {"name": "White Blood Cells", "value": 15.2, "unit": "K/uL", "hours": 3.5, "flag": "abnormal", "low": 4.0,
             "high": 11.0},
            {"name": "Troponin T", "value": 0.01, "unit": "ng/mL", "hours": 2.0, "comparator": "<", "flag": "",
             "low": None, "high": 0.01},
        ],
        "o2_device": {"text": "Nasal cannula", "hours": 0.0}, "chronic_conditions": ["COPD"],
        "icd": ["pneumonia", "heart_failure"],  # I10 is in no group
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found and len(ehr_lines(found)) == 6


def test_a_stay_without_codes_has_no_target():
    context, _ = make()
    assert ehr_record(context, None)["icd"] is None
    none = ehr_record(context, EHRTarget(1, 2, icd_groups([("I10", 10)]), (("I10", 10),)))
    assert none["icd"] == []


@pytest.mark.parametrize(
    ("complaint", "kept"),
    [("Fever,  Cough", "Fever, Cough"),
     ("SENT IN FOR PNEUMONIA", "SENT IN FOR [REDACTED]"),
     ("CHF exacerbation, r/o PE", "[REDACTED] exacerbation, r/o [REDACTED]"),
     ("J18.9, Dyspnea", "[REDACTED], Dyspnea"),
     ("i10 and 486", "[REDACTED] and [REDACTED]"),
     ("O2 sat 88, 3 days, T 101.2", "O2 sat 88, 3 days, T 101.2")],
)  # fmt: skip
def test_a_complaint_names_no_diagnosis_and_no_code(complaint, kept):
    found = ehr_record(*make(chief_complaint=complaint))["chief_complaint"]
    assert found == kept and diagnoses_in(found) == []
    assert bool(diagnoses_in(complaint)) == ("[REDACTED]" in kept)


WHOLE = {
    "study": "s1", "patient": "1", "age": 62, "sex": "F", "chief_complaint": "Cough",
    "vitals": [{"name": "o2sat", "value": 91, "unit": "%", "hours": 0}],
    "labs": [{"name": "Sodium", "value": 140, "unit": "mEq/L", "hours": 2.5, "flag": "", "low": 133, "high": None}],
    "o2_device": {"text": "None", "hours": 1}, "chronic_conditions": ["COPD"], "icd": [],
}  # fmt: skip


def test_a_record_may_lack_what_is_not_known():
    check_record(WHOLE)
    for key in WHOLE:
        check_record({k: v for k, v in WHOLE.items() if k != key})
        check_record(WHOLE | {key: None})
    check_record({})


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"weight": 3}, "record has 'weight', expected some of study, patient, age"),
     ({"age": 150}, "age is 150, expected a whole number from 0 to 120"),
     ({"age": "62"}, "age is '62', expected a whole number"),
     ({"sex": "female"}, "sex is 'female', expected F or M"),
     ({"chronic_conditions": ["pneumonia"]}, "chronic condition is 'pneumonia', expected some of hypertension"),
     ({"vitals": [WHOLE["vitals"][0] | {"name": "spo2"}]}, "vitals have 'spo2' in '%', expected temperature C"),
     ({"vitals": [WHOLE["vitals"][0] | {"unit": ""}]}, "vitals have 'o2sat' in '', expected temperature C"),
     ({"vitals": [WHOLE["vitals"][0] | {"value": 191}]}, "o2sat is 191, expected 40 to 100 %"),
     ({"vitals": [WHOLE["vitals"][0] | {"value": "91"}]}, "o2sat is '91', expected a number"),
     ({"vitals": [WHOLE["vitals"][0] | {"value": float("nan")}]}, "o2sat is nan, expected 40 to 100 %"),
     ({"vitals": WHOLE["vitals"] * 2}, "vitals have 'o2sat' twice, expected the latest value of each"),
     ({"vitals": [WHOLE["vitals"][0] | {"hours": -1}]}, "o2sat is of -1 hours before the study, expected 0 or more"),
     ({"labs": [{"name": "Sodium", "value": 140, "unit": "mEq/L"}]}, "is not complete ('hours')"),
     ({"labs": 3}, "is not complete"),
     ({"o2_device": {"text": "None", "hours": -0.5}}, "o2_device is of -0.5 hours"),
     ({"o2_device": "None"}, "is not complete")],
)  # fmt: skip
def test_records_that_no_prompt_is_made_of(change, reason):
    with pytest.raises(ValueError) as problem:
        check_record(WHOLE | change)
    assert reason in str(problem.value)


def test_a_value_of_after_the_study_is_refused():
    late = series(1.0, "C", -0.5)
    with pytest.raises(ValueError, match="study 2 has temperature of 2150-03-05 12:30:00, expected nothing after its"):
        ehr_record(*make(vitals={"temperature": late}))
    after = Observation("T-piece", NOON + timedelta(minutes=1), -1 / 60)
    with pytest.raises(ValueError, match="study 2 has o2_device of 2150-03-05 12:01:00"):
        ehr_record(*make(o2_device=after))
