import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from common.data.ehr.clinical_vector import (
    CLINICAL_COLUMNS,
    CLINICAL_FEATURES,
    CLINICAL_GROUPS,
    ClinicalScaler,
    clinical_row,
)
from common.data.ehr.context import EHRContext, Measurement, Series
from common.io.bad_input import BadInput

TIME = datetime(2150, 1, 2, 3)
PLACE = {name: i for i, name in enumerate(CLINICAL_COLUMNS)}


def series(value: float) -> Series:
    measurement = Measurement(value, "", TIME, 1.0)
    return Series(measurement, measurement, 1)


def row(**values: float) -> np.ndarray:
    raw = np.full(len(CLINICAL_COLUMNS), np.nan)
    for name, value in values.items():
        raw[PLACE[name]] = value
    return raw


def test_there_are_45_numbers_of_30_columns_without_identifiers() -> None:
    assert len(CLINICAL_COLUMNS) == 30 and len(CLINICAL_GROUPS) == 15 and len(CLINICAL_FEATURES) == 45
    assert len(set(CLINICAL_FEATURES)) == 45
    words = " ".join(CLINICAL_COLUMNS)
    for wrong in (
        "subject",
        "patient",
        "study",
        "hadm",
        "death",
        "dod",
        "surviv",
        "icu",
        "intub",
        "offset",
        "year",
        "dispo",
    ):
        assert wrong not in words


def test_a_context_becomes_a_row() -> None:
    context = EHRContext(
        1, 2, TIME, age=70, sex="M", arrival_transport="WALK IN", acuity=3, hours_since_arrival=2.5,
        vitals={"heartrate": series(88), "o2_flow": series(2)},
        labs={"White Blood Cells": series(10.0), "Neutrophils": series(80.0), "NTproBNP": series(300)},
        body={"bmi": Measurement(30.0, "kg/m2", TIME, 24)}, n_earlier_stays=0,
    )  # fmt: skip
    expected = {
        "age": 70, "sex": 1, "heartrate": 88, "acuity": 3, "ambulance": 0, "hours_since_arrival": 2.5,
        "n_earlier_stays": 0, "bmi": 30, "wbc": 10, "neutrophils": 8, "nt_probnp": 300,
    }  # fmt: skip
    assert clinical_row(context) == pytest.approx(expected)
    assert list(clinical_row(context)) == [name for name in CLINICAL_COLUMNS if name in expected]


def test_a_mapping_may_hold_a_part() -> None:
    assert clinical_row({"age": 50, "sex": "F", "vitals": {"temperature": 38.5}}) == {
        "age": 50,
        "sex": 0,
        "temperature": 38.5,
    }
    assert clinical_row({}) == {}
    assert clinical_row({"labs": {"Neutrophils": 80}}) == {}  # a share of an unknown count
    assert clinical_row({"arrival_transport": "UNKNOWN", "sex": None}) == {}
    with pytest.raises(ValueError, match="temperature is 101, expected 25 to 44"):
        clinical_row({"vitals": {"temperature": 101}})


def test_scaling_and_imputation_are_of_the_training_cases() -> None:
    train = [row(age=40, heartrate=80), row(age=60, heartrate=100), row(age=80), None]
    scaler = ClinicalScaler.fit(train)
    out = scaler.transform([row(age=80), row(heartrate=90), None])
    assert out.shape == (3, 45) and out.dtype == np.float32 and np.isfinite(out).all()
    std = np.std([40, 60, 80])
    assert out[0, PLACE["age"]] == pytest.approx(20 / std)
    assert out[1, PLACE["age"]] == 0 == out[0, PLACE["heartrate"]]  # median 60 and 90 are the means as well
    flag = {name: 30 + i for i, name in enumerate(CLINICAL_GROUPS)}
    assert out[0, flag["age"]] == 0 and out[1, flag["age"]] == 1
    assert out[1, flag["heart and breathing rate"]] == 0.5 and out[0, flag["heart and breathing rate"]] == 1
    assert (out[2, 30:] == 1).all() and out[2, flag["chemistry"]] == 1
    # Other cases do not change it.
    np.testing.assert_array_equal(scaler.transform([row(age=80)]), out[:1])


def test_the_median_stands_for_what_is_missing() -> None:
    scaler = ClinicalScaler.fit([row(pain=0), row(pain=0), row(pain=9)])
    assert scaler.transform([None])[0, PLACE["pain"]] == pytest.approx((0 - 3) / np.std([0, 0, 9]))


def test_long_tails_are_compressed_and_cut() -> None:
    values = [100, 200, 400, 800, 50_000]
    scaler = ClinicalScaler.fit([row(nt_probnp=v) for v in values])
    assert scaler.mean[PLACE["nt_probnp"]] == pytest.approx(np.log1p(values).mean())
    scaler = ClinicalScaler.fit([row(age=a) for a in (50, 51)])
    assert scaler.transform([row(age=90)])[0, PLACE["age"]] == 6


def test_a_column_that_no_training_case_had_stays_missing() -> None:
    scaler = ClinicalScaler.fit([row(age=50), row(age=70)])
    with_lactate = scaler.transform([row(age=50, lactate=9)])
    np.testing.assert_array_equal(with_lactate, scaler.transform([row(age=50)]))


def test_json_keeps_every_digit_and_names(tmp_path: Path) -> None:
    scaler = ClinicalScaler.fit([row(age=50, creatinine=1.1), row(age=63)])
    path = tmp_path / "clinical.json"
    scaler.to_json(path)
    again = ClinicalScaler.from_json(path)
    assert again == scaler and list(json.loads(path.read_text())) == list(CLINICAL_COLUMNS)
    path.write_text("{}")
    with pytest.raises(BadInput, match="is not about the 30 clinical columns"):
        ClinicalScaler.from_json(path)
    path.write_text("{")
    with pytest.raises(BadInput, match="is no JSON"):
        ClinicalScaler.from_json(path)
    path.write_text(json.dumps(dict.fromkeys(CLINICAL_COLUMNS, {})))
    with pytest.raises(BadInput, match="lacks a median, mean or std"):
        ClinicalScaler.from_json(path)
    with pytest.raises(BadInput, match="cannot be read"):
        ClinicalScaler.from_json(tmp_path / "nothing.json")


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="no cases"):
        ClinicalScaler.fit([])
    with pytest.raises(ValueError, match=r"expected \(N, 30\)"):
        ClinicalScaler.fit(np.zeros((3, 29)))
