from types import SimpleNamespace

import pytest

from common.text.notes.ed_note import ed_note, value_of, without_template


def series(value: float) -> SimpleNamespace:
    return SimpleNamespace(latest=SimpleNamespace(value=value))


FULL = {
    "age": 72,
    "sex": "F",
    "arrival_transport": "AMBULANCE",
    "hours_since_arrival": 1.42,
    "chief_complaint": "Fever,  Cough",
    "acuity": 2,
    "vitals": {"temperature": 38.44, "heartrate": 112, "sbp": 98, "dbp": 61, "o2sat": 91, "resprate": 24, "pain": 3},
    "labs": {"Lactate": 2.1},
    "o2_device": {"text": "Nasal cannula"},
    "home_medicines": ("lisinopril", "metformin"),
    "given_medicines": ("ceftriaxone",),
    "body": {"bmi": 31.2},
    "chronic_conditions": ("hypertension", "COPD"),
    "n_earlier_stays": 3,
}
NOTE = """\
72-year-old woman, arrived by ambulance 1.4 hours before the X-ray. Chief complaint: Fever, Cough.
Triage: acuity 2 of 5, pain 3 of 10.
Vital signs: temperature 38.4 C, heart rate 112 /min, respiratory rate 24 /min, oxygen saturation 91 %, \
blood pressure 98/61 mmHg, oxygen by nasal cannula.
History: hypertension, COPD. Earlier hospital stays: 3. BMI 31 kg/m2.
Home medicines: lisinopril, metformin.
Given so far: ceftriaxone."""


def test_the_whole_note() -> None:
    assert ed_note(FULL) == NOTE


def test_objects_and_mappings_give_the_same_note() -> None:
    as_objects = FULL | {"vitals": {name: series(value) for name, value in FULL["vitals"].items()}}
    as_objects["body"] = {"bmi": SimpleNamespace(value=31.2)}
    as_objects["o2_device"] = SimpleNamespace(text="Nasal cannula")
    assert ed_note(SimpleNamespace(**as_objects)) == NOTE
    as_json = FULL | {"vitals": {name: {"latest": {"value": value}} for name, value in FULL["vitals"].items()}}
    assert ed_note(as_json) == NOTE


@pytest.mark.parametrize(
    ("known", "note"),
    [
        ({}, ""),
        ({"n_earlier_stays": 0, "vitals": {}}, ""),
        ({"age": 40}, "40-year-old patient."),
        ({"sex": "M"}, "Man."),
        ({"age": 91, "sex": "M"}, "Man over 89 years old."),
        ({"age": 91}, "Patient over 89 years old."),
        ({"age": 0, "sex": "F"}, "0-year-old woman."),
        ({"hours_since_arrival": 2}, "Arrived 2.0 hours before the X-ray."),
        ({"arrival_transport": "UNKNOWN"}, ""),
        ({"arrival_transport": "walk in"}, "Walked in."),
        ({"vitals": {"sbp": 120}}, "Vital signs: systolic blood pressure 120 mmHg."),
        ({"vitals": {"dbp": 80, "heartrate": None}}, "Vital signs: diastolic blood pressure 80 mmHg."),
        ({"sex": "F", "presentation": "Cough  for\ndays."}, "Woman.\nCough for days."),
        ({"chief_complaint": "Chest pain."}, "Chief complaint: Chest pain."),
    ],
)
def test_what_is_not_known_is_not_told(known: dict, note: str) -> None:
    assert ed_note(known) == note


def test_long_lists_are_cut_and_say_so() -> None:
    note = ed_note({"home_medicines": [f"m{i:02d}" for i in range(25)]})
    assert note.endswith("m19 and 5 more.")


def test_no_identifier_and_no_time_gets_into_the_note() -> None:
    hidden = {"subject_id": 12345678, "study_id": 87654321, "study_time": "2180-05-06", "hadm_id": 222}
    assert ed_note(FULL | hidden) == NOTE


def test_values() -> None:
    assert value_of(None) is None and value_of(3) == 3 and value_of({"value": 2.5}) == 2.5
    with pytest.raises(ValueError, match="holds no value"):
        value_of({"unit": "C"})


def test_what_every_note_says_can_be_left_out() -> None:
    rest = without_template(NOTE)
    for word in ("temperature", "rate", "saturation", "pressure", "pain", "X-ray", "complaint", "History", "oxygen"):
        assert word not in rest
    for word in ("72-year-old woman", "ambulance", "Fever, Cough", "nasal cannula", "hypertension, COPD", "lisinopril"):
        assert word in rest
    own = "Fast heart rate, low blood pressure and chest pain since 2 days; oxygen saturation fell."
    assert without_template(own) == own
