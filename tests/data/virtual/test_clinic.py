import re

import numpy as np
import pytest

from common.data.ehr.icd import CHRONIC_CONDITIONS, ICD_GROUPS, matching
from common.data.virtual.clinic import (
    _COMPLAINTS,
    _STATE_CODES,
    CHRONIC,
    ClinicalState,
    chief_complaint,
    chronic_names,
    clinical_state,
    diagnosis_codes,
    lab_values,
    vital_signs,
)
from common.data.virtual.study import virtual_study
from common.data.virtual.xray_labels import is_infected

HEALTHY = ClinicalState()


def typical(state):
    rng = np.random.default_rng(0)
    return vital_signs(state, rng, noise=0) | lab_values(state, rng, noise=0)


def test_uncertain_and_missing_labels_are_settled_by_the_patient():
    states = [clinical_state(virtual_study(seed), {"Lung Opacity": 1.0, "Edema": -1.0}) for seed in range(600)]
    assert [state.infected for state in states] == [is_infected(seed) for seed in range(600)]
    assert 0.4 < np.mean([state.congested for state in states]) < 0.6
    denied = [clinical_state(virtual_study(seed), {"Lung Opacity": 1.0, "Pneumonia": 0.0}) for seed in range(50)]
    assert not any(state.infected for state in denied)
    healthy = [clinical_state(virtual_study(seed), {}) for seed in range(600)]
    assert 0 < np.mean([state.infected for state in healthy]) < 0.12


@pytest.mark.parametrize(
    ("state", "higher", "lower"),
    [
        (
            ClinicalState(infected=True, opacity=True),
            ["temperature", "heartrate", "resprate", "White Blood Cells", "Lactate"],
            ["o2sat"],
        ),
        (
            ClinicalState(congested=True),
            ["NTproBNP", "sbp", "resprate", "Troponin T", "Urea Nitrogen"],
            ["o2sat", "Sodium"],
        ),
        (ClinicalState(fluid=True), ["resprate"], ["Albumin", "o2sat"]),
        (ClinicalState(pneumothorax=True), ["heartrate", "pain", "resprate"], ["o2sat"]),
        (ClinicalState(embolism=True), ["D-Dimer", "heartrate", "pain"], ["o2sat", "sbp"]),
        (ClinicalState(fracture=True), ["pain"], []),
    ],
)
def test_illness_moves_values(state, higher, lower):
    healthy, ill = typical(HEALTHY), typical(state)
    assert all(ill[name] > healthy[name] for name in higher)
    assert all(ill[name] < healthy[name] for name in lower)


def test_an_illness_that_does_not_show_moves_nothing():
    assert typical(ClinicalState(infected=True, congested=True, marked=0)) == typical(HEALTHY)


def test_values_are_those_that_a_body_can_have():
    rng = np.random.default_rng(1)
    worst = ClinicalState(True, True, True, True, True, True, True, True, True)
    for state in [HEALTHY, worst] * 300:
        values = vital_signs(state, rng)
        assert values["dbp"] < values["sbp"] and 70 <= values["o2sat"] <= 100 and 0 <= values["pain"] <= 10
        assert 94 < values["temperature"] < 104 and values["heartrate"] > 30
        assert lab_values(state, rng)["Neutrophils"] <= 98


def test_no_complaint_names_a_finding():
    words = " ".join(text for texts in _COMPLAINTS.values() for text in texts).lower()
    for finding in ("pneumonia", "effusion", "edema", "pneumothorax", "fracture", "nodule", "mass", "opacit", "embol"):
        assert not re.search(finding, words), finding


def test_complaints_fit_the_illness_most_of_the_time():
    rng = np.random.default_rng(2)
    state = ClinicalState(pneumothorax=True)
    fitting = np.mean([chief_complaint(state, rng) in _COMPLAINTS["pneumothorax"] for _ in range(500)])
    assert fitting == pytest.approx(0.75, abs=0.06)
    assert all(chief_complaint(HEALTHY, rng) in _COMPLAINTS["unrelated"] for _ in range(50))


def test_codes_are_in_the_groups_they_stand_for():
    for nine, ten, *_ in CHRONIC.values():
        assert matching([(nine, 9)], CHRONIC_CONDITIONS) == matching([(ten, 10)], CHRONIC_CONDITIONS) != set()
    for rows in _STATE_CODES.values():
        for nine, ten, _ in rows:
            assert matching([(nine, 9)], ICD_GROUPS) == matching([(ten, 10)], ICD_GROUPS)
    rng = np.random.default_rng(3)
    sick = ClinicalState(infected=True, opacity=True, fluid=True, pneumothorax=True)
    for version in (9, 10):
        codes = {code for _ in range(20) for code in diagnosis_codes(sick, ("COPD",), version, rng)}
        found = matching([(code, version) for code in codes], ICD_GROUPS)
        assert {"pneumonia", "pleural_effusion", "pneumothorax"} <= found
        assert "COPD" in matching([(code, version) for code in codes], CHRONIC_CONDITIONS)
    assert diagnosis_codes(HEALTHY, (), 9, np.random.default_rng(0))


def test_chronic_conditions_become_common_with_age_and_behind_labels():
    def share(age, labels):
        rng = np.random.default_rng(4)
        return np.mean(["heart failure" in chronic_names(age, labels, rng) for _ in range(500)])

    assert share(30, {}) < share(85, {}) < share(85, {"Edema": 1.0}) == pytest.approx(0.6, abs=0.06)
