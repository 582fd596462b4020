"""What is read of the event tables: each test writes one record and looks at the context of one study."""

import json
import tracemalloc
from datetime import datetime, timedelta

import pytest

from common.data.ehr.context import EHRContext
from common.data.ehr.mimic_iv import Study
from tests.data.ehr.mimic_rows import (
    HADM,
    NOON,
    STAY,
    STUDY,
    SUBJECT,
    admission,
    chart,
    code,
    context,
    edstay,
    lab,
    latest,
    read,
    triage,
    vital,
    write_record,
)


def test_what_is_known_at_arrival(tmp_path):
    found = context(write_record(tmp_path))
    assert (found.age, found.sex, found.setting, found.hours_since_arrival) == (62, "F", "emergency", 3.0)
    assert (found.arrival_transport, found.chief_complaint, found.acuity) == ("AMBULANCE", "Cough", 2)
    assert latest(found.vitals) == pytest.approx(
        {"temperature": 38.0, "heartrate": 110, "resprate": 22, "o2sat": 91, "sbp": 140, "dbp": 80, "pain": 3}
    )
    first = found.vitals["temperature"].first
    assert (first.unit, first.charted, first.hours) == ("C", datetime(2150, 3, 5, 9), 3.0)


def test_vital_signs_keep_the_first_and_the_latest_before_the_study(tmp_path):
    rows = [vital("2150-03-05 11:00:00", heartrate=130, o2sat=88), vital("2150-03-05 10:00:00", heartrate=120),
            vital("2150-03-05 13:00:00", heartrate=60)]  # fmt: skip
    heart = context(write_record(tmp_path, ed_vitalsign=rows)).vitals["heartrate"]
    assert (heart.first.value, heart.latest.value, heart.count) == (110, 130, 3)
    assert heart.latest.hours == 1.0


def test_a_laboratory_value_keeps_its_reference_range_and_flag(tmp_path):
    ranges = {"ref_range_lower": 4, "ref_range_upper": 11.5}
    rows = [
        lab("2150-03-05 09:30:00", 14.5, flag="abnormal", **ranges),
        lab("2150-03-05 10:30:00", 10.0, **ranges),
        lab("2150-03-05 10:30:00", 10.0, ref_range_lower=3),  # the same value
        lab("2150-03-05 10:00:00", 88.42, itemid=4, valueuom="umol/L", ref_range_upper=97.262),
        lab("2150-03-05 10:00:00", 0.05, itemid=5, valueuom="ng/mL", ref_range_upper="low", flag="delta"),
    ]
    read_ = read(write_record(tmp_path, hosp_labevents=rows))
    found = read_.contexts[STUDY.study_id].labs
    cells = found["White Blood Cells"]
    assert [(v.low, v.high, v.flag) for v in (cells.first, cells.latest)] == [(4, 11.5, "abnormal"), (4, 11.5, "")]
    assert cells.count == 2 and read_.report.repeated["hosp/labevents"] == 1
    other = found["Creatinine"].latest
    assert other.low is None and other.high == pytest.approx(1.1)  # in the unit of the value
    assert (found["Troponin T"].latest.high, found["Troponin T"].latest.flag) == (None, "")
    assert read_.report.refused["hosp/labevents"] == {
        "Troponin T reference range: no number": 1, "Troponin T flag 'delta': unknown flag": 1,
    }  # fmt: skip
    assert found["Creatinine"].latest == found["Creatinine"].first
    assert read_.contexts[STUDY.study_id].to_dict()["labs"]["White Blood Cells"]["first"]["flag"] == "abnormal"
    assert read_.contexts[STUDY.study_id].vitals["heartrate"].latest.high is None


def test_laboratory_values_come_by_name_with_unit_and_hours(tmp_path):
    rows = [
        lab("2150-03-05 09:30:00", 11.0, storetime="2150-03-05 10:00:00"),
        lab("2150-03-05 11:30:00", 14.5, itemid=2, hadm_id=HADM),
        lab("2150-03-05 11:45:00", 99.0, itemid=3),
        lab("2150-03-05 10:00:00", 88.42, itemid=4, valueuom="umol/L"),
        lab("2150-03-05 10:00:00", "", itemid=5, valueuom="ng/mL", comments="<0.01.  Text."),
        lab("2150-03-05 10:00:00", 9.9, itemid=6, valueuom="g/dL"),
    ]
    found = context(write_record(tmp_path, hosp_labevents=rows)).labs
    assert set(found) == {"White Blood Cells", "Creatinine", "Troponin T"}
    cells = found["White Blood Cells"]
    assert (cells.first.value, cells.latest.value, cells.count) == (11.0, 14.5, 2)
    assert (cells.latest.unit, cells.latest.hours) == ("K/uL", 0.5)
    assert found["Creatinine"].latest.value == pytest.approx(1.0)
    assert (found["Troponin T"].latest.value, found["Troponin T"].latest.comparator) == (0.01, "<")


def test_laboratory_values_of_other_stays_do_not_count(tmp_path):
    rows = [lab("2150-03-05 08:59:59", 1.0), lab("2149-03-05 11:00:00", 2.0, hadm_id=7),
            lab("2150-03-05 11:00:00", 3.0, hadm_id=7), lab("2150-03-05 11:00:00", 4.0, subject_id=8)]  # fmt: skip
    assert context(write_record(tmp_path, hosp_labevents=rows)).labs == {}


# One row per table, charted at the given moment, with a value that occurs nowhere else.
def plant(when: datetime) -> dict[str, list[dict]]:
    time = str(when)
    return {
        "ed_vitalsign": [vital(time, heartrate=166, temperature=107.7, sbp=266, dbp=166)],
        "ed_medrecon": [{"subject_id": SUBJECT, "stay_id": STAY, "charttime": time, "name": "PLANTED"}],
        "ed_pyxis": [{"subject_id": SUBJECT, "stay_id": STAY, "charttime": time, "name": "PLANTED"}],
        "hosp_labevents": [lab(time, 166), lab(time, 16.6, itemid=4, valueuom="mg/dL", hadm_id=HADM)],
        "icu_chartevents": [chart(time, 91, 166, "bpm"), chart(time, 92, "PLANTED")],
    }


def planted(found: EHRContext) -> int:
    text = json.dumps(found.to_dict())
    return text.count("PLANTED") + sum(text.count(f'"value": {value}') for value in ("166.0", "16.6", "266.0", "42."))


def test_nothing_charted_one_second_after_the_study_is_known(tmp_path):
    before = context(write_record(tmp_path / "without"))
    result = read(write_record(tmp_path / "with", **plant(NOON + timedelta(seconds=1))))
    assert result.contexts[STUDY.study_id] == before
    assert planted(before) == planted(result.contexts[STUDY.study_id]) == 0
    assert result.report.after_study == {
        "ed/vitalsign": 1, "ed/medrecon": 1, "ed/pyxis": 1, "hosp/labevents": 2, "icu/chartevents": 2,
    }  # fmt: skip


@pytest.mark.parametrize("seconds", [0, -1])
def test_what_is_charted_up_to_the_moment_of_the_study_is_known(tmp_path, seconds):
    result = read(write_record(tmp_path, **plant(NOON + timedelta(seconds=seconds))))
    found = result.contexts[STUDY.study_id]
    assert found.vitals["heartrate"].latest.value == 166 and found.vitals["sbp"].latest.value == 266
    assert latest(found.labs) == {"White Blood Cells": 166, "Creatinine": 16.6}
    assert found.o2_device.text == "PLANTED"
    assert found.home_medicines == found.given_medicines == ("PLANTED",)
    assert found.vitals["heartrate"].latest.hours == pytest.approx(-seconds / 3600)
    assert not result.report.after_study


def test_a_study_between_two_seconds_knows_the_first_of_them(tmp_path):
    rows = [lab("2150-03-05 12:00:00", 5), lab("2150-03-05 12:00:01", 6)]
    study = Study(SUBJECT, 1, NOON + timedelta(milliseconds=531))
    found = read(write_record(tmp_path, hosp_labevents=rows), study).contexts[1]
    assert found.labs["White Blood Cells"].latest.value == 5


def test_a_result_stored_after_the_study_was_not_known(tmp_path):
    after, at = "2150-03-05 12:00:01", "2150-03-05 12:00:00"
    rows = {"hosp_labevents": [lab("2150-03-05 11:00:00", 166, storetime=after)],
            "icu_chartevents": [chart("2150-03-05 11:00:00", 91, 166, "bpm", storetime=after)]}  # fmt: skip
    result = read(write_record(tmp_path / "a", **rows))
    assert result.contexts[STUDY.study_id] == context(write_record(tmp_path / "b"))
    assert result.report.after_study == {"hosp/labevents": 1, "icu/chartevents": 1}
    for row in (rows["hosp_labevents"][0], rows["icu_chartevents"][0]):
        row["storetime"] = at
    assert (
        planted(context(write_record(tmp_path / "c", **rows))) == 2 + 1
    )  # one lab twice (first and latest), one pulse


def test_diagnoses_of_the_current_stay_are_the_target_and_never_context(tmp_path):
    rows = {"hosp_diagnoses_icd": [code("J189"), code("I5022")],
            "ed_diagnosis": [{"subject_id": SUBJECT, "stay_id": STAY, "seq_num": 1, "icd_code": "J90",
                              "icd_version": 10}]}  # fmt: skip
    for study_time in (NOON, datetime(2150, 3, 7)):  # in the department, and in the ward after it was left
        study = Study(SUBJECT, 1, study_time)
        result = read(write_record(tmp_path / str(study_time.day), **rows), study)
        found, target = result.contexts[1], result.targets[1]
        assert (found.chronic_conditions, found.earlier_icd_groups, found.n_earlier_stays) == ((), (), 0)
        assert (target.hadm_id, target.stay_id) == (HADM, STAY)
        assert target.codes == (("I5022", 10), ("J189", 10), ("J90", 10))
        assert [name for name, value in target.icd_groups.items() if value] == [
            "pneumonia", "pleural_effusion", "heart_failure",
        ]  # fmt: skip


def test_diagnoses_become_history_when_their_stay_ends(tmp_path):
    admissions = [
        admission(),
        admission(hadm_id=7, admittime="2149-01-01 00:00:00", dischtime="2150-03-05 12:00:00", edregtime=""),
        admission(hadm_id=8, admittime="2149-01-01 00:00:00", dischtime="2150-03-05 12:00:01", edregtime=""),
        admission(hadm_id=9, admittime="2151-01-01 00:00:00", dischtime="2151-01-05 00:00:00", edregtime=""),
    ]
    stays = [
        edstay(),
        edstay(stay_id=4, hadm_id="", intime="2149-05-01 00:00:00", outtime="2149-05-01 05:00:00"),
        edstay(stay_id=5, hadm_id=8, intime="2149-01-01 00:00:00", outtime="2149-01-01 05:00:00"),
        edstay(stay_id=6, hadm_id="", intime="2151-05-01 00:00:00", outtime="2151-05-01 05:00:00"),
    ]
    diagnoses = [code("J449", 7), code("E119", 8), code("C3490", 9), code("I4891", 77), code("J189", HADM)]
    in_department = [{"subject_id": SUBJECT, "stay_id": stay, "seq_num": 1, "icd_code": icd, "icd_version": 9}
                     for stay, icd in ((4, "4280"), (5, "25000"), (6, "1629"), (STAY, "5119"))]  # fmt: skip
    result = read(
        write_record(tmp_path, hosp_admissions=admissions, ed_edstays=stays, hosp_diagnoses_icd=diagnoses,
                     ed_diagnosis=in_department)
    )  # fmt: skip
    found = result.contexts[STUDY.study_id]
    assert found.chronic_conditions == ("heart failure", "COPD")
    assert found.earlier_icd_groups == ("heart_failure",)
    assert found.n_earlier_stays == 2
    assert result.report.after_study == {"hosp/diagnoses_icd": 3, "ed/diagnosis": 2}


def test_height_and_weight_are_of_an_earlier_day(tmp_path):
    def omr(day, name, value, seq=1):
        return {"subject_id": SUBJECT, "chartdate": day, "seq_num": seq, "result_name": name, "result_value": value}

    rows = [omr("2150-03-04", "Weight (Lbs)", "200", 2), omr("2150-03-04", "Weight (Lbs)", "100", 1),
            omr("2150-03-05", "Weight (Lbs)", "300"), omr("2151-01-01", "Height (Inches)", "70"),
            omr("2149-01-01", "Height (Inches)", "64"), omr("2149-01-01", "BMI (kg/m2)", "34.3"),
            omr("2150-03-04", "BMI (kg/m2)", "n/a"), omr("2150-02-01", "Height (Inches)", "6"),
            omr("2150-02-01", "Blood Pressure", "120/80"), omr("long ago", "BMI", "30")]  # fmt: skip
    result = read(write_record(tmp_path, hosp_omr=rows))
    body = result.contexts[STUDY.study_id].body
    assert {name: (value.value, value.unit) for name, value in body.items()} == {
        "bmi": (34.3, "kg/m2"), "height": (pytest.approx(162.56), "cm"), "weight": (pytest.approx(90.718474), "kg"),
    }  # fmt: skip
    assert result.report.after_study == {"hosp/omr": 2}
    assert result.report.not_a_number == {"bmi": 1} and result.report.out_of_bounds == {"height": 1}
    assert result.report.tables["hosp/omr"].bad == {"unreadable time": 1}


def test_intensive_care_adds_vital_signs_and_the_oxygen_device(tmp_path):
    rows = [chart("2150-03-05 10:00:00", 92, "Nasal cannula"), chart("2150-03-05 11:00:00", 92, "High flow neb"),
            chart("2150-03-05 11:00:00", 92, "Aerosol-cool"), chart("2150-03-05 11:00:00", 91, 130, "bpm"),
            chart("2150-03-05 11:00:00", 93, 39.1, "°C"), chart("2150-03-05 11:00:00", 94, 200, "bpm"),
            chart("2150-03-05 11:30:00", 95, 88, "mmHg"), chart("2150-03-05 11:30:00", 91, 15000, "bpm")]  # fmt: skip
    result = read(write_record(tmp_path, icu_chartevents=rows, packed=True))
    found = result.contexts[STUDY.study_id]
    assert (found.o2_device.text, found.o2_device.hours) == ("Aerosol-cool; High flow neb", 1.0)
    assert (found.vitals["heartrate"].latest.value, found.vitals["heartrate"].count) == (130, 2)
    assert found.vitals["temperature"].latest.value == 39.1 and found.vitals["sbp"].latest.value == 88
    assert result.report.out_of_bounds == {"heartrate": 1} and not result.report.other_unit


def test_temperatures_in_celsius_are_understood_and_counted(tmp_path):
    rows = [vital("2150-03-05 10:00:00", temperature=31.4), vital("2150-03-05 11:00:00", temperature=36.8)]
    result = read(write_record(tmp_path, ed_vitalsign=rows))
    temperature = result.contexts[STUDY.study_id].vitals["temperature"]
    assert (temperature.latest.value, temperature.count) == (36.8, 3)
    assert result.report.other_unit == {"temperature": 2}


def test_values_that_no_body_has_are_dropped_and_counted(tmp_path):
    odd = triage(temperature=9.86, heartrate=0, resprate=200, o2sat=10, sbp=120, dbp=879, pain=13, acuity=7)
    rows = [vital("2150-03-05 10:00:00", sbp=60, dbp=90, pain="asleep"), vital("2150-03-05 11:00:00", o2sat=101)]
    result = read(write_record(tmp_path, ed_triage=[odd], ed_vitalsign=rows))
    found = result.contexts[STUDY.study_id]
    assert latest(found.vitals) == {"sbp": 120} and found.acuity is None
    assert result.report.out_of_bounds == {
        "temperature": 1, "heartrate": 1, "resprate": 1, "o2sat": 2, "dbp": 1, "pain": 1, "dbp not below sbp": 1,
    }  # fmt: skip
    assert result.report.not_a_number == {"pain": 1, "acuity": 1}


def test_unknown_units_and_texts_are_refused_and_counted(tmp_path):
    rows = [lab("2150-03-05 10:00:00", 140, valueuom="arb"), lab("2150-03-05 10:00:00", "___", itemid=4),
            lab("2150-03-05 10:00:00", 5000, itemid=4, valueuom="mg/dL")]  # fmt: skip
    rows[1] |= {"valuenum": "", "valueuom": "mg/dL"}
    result = read(write_record(tmp_path, hosp_labevents=rows))
    assert result.contexts[STUDY.study_id].labs == {}
    assert result.report.unknown_unit == {"White Blood Cells [arb]": 1}
    assert result.report.not_a_number == {"Creatinine": 1} and result.report.out_of_bounds == {"Creatinine": 1}


def test_repeated_rows_count_once_and_the_order_of_rows_does_not_matter(tmp_path):
    times = ["2150-03-05 10:00:00", "2150-03-05 11:00:00", "2150-03-05 09:30:00", "2150-03-05 11:00:00"]
    rows = [lab(time, 5 + i % 3) for i, time in enumerate(times)]
    twice = [row for row in rows for _ in range(2)]
    found = context(write_record(tmp_path / "a", hosp_labevents=rows))
    result = read(write_record(tmp_path / "b", hosp_labevents=rows[:1] + twice[2:6] + rows[3:]))
    assert result.contexts[STUDY.study_id] == found == context(write_record(tmp_path / "c", hosp_labevents=rows[::-1]))
    assert result.report.repeated == {"hosp/labevents": 2}


def test_rows_that_cannot_be_read_are_counted_and_the_others_used(tmp_path):
    rows = [lab("2150-03-05 10:00:00", 7), lab("soon", 8), lab("2150-03-05 11:00:00", 9, storetime="?")]
    pulse = [vital("", heartrate=70), vital("2150-03-05 11:00:00", heartrate=71, subject_id=3)]
    twice = [triage(), triage(heartrate=99), triage(stay_id=3)]
    codes = [code("J449", 7, icd_version=11), code("", 7)]
    root = write_record(tmp_path, hosp_labevents=rows, ed_vitalsign=pulse, ed_triage=twice, hosp_diagnoses_icd=codes)
    with (root / "hosp" / "labevents.csv").open("ab") as file:
        file.write(f"1,{SUBJECT},,1,1,,2150-03-05 11:30:00,,\xff,9,K/uL,,,,,\n".encode("latin-1"))
        file.write(f"2,{SUBJECT},,1,1,,2150-03-05 11:30:00\n".encode())
    result = read(root)
    found = result.contexts[STUDY.study_id]
    assert latest(found.labs) == {"White Blood Cells": 7} and found.vitals == {} and found.acuity is None
    tables = {name: dict(counts.bad) for name, counts in result.report.tables.items() if counts.bad}
    assert tables == {
        "hosp/labevents": {"unreadable time": 2, "not UTF-8": 1, "wrong number of fields": 1},
        "ed/vitalsign": {"unreadable time": 1, "subject_id is not that of the stay": 1},
        "ed/triage": {"id occurs again with other values, none is used": 2},
        "hosp/diagnoses_icd": {"icd_version is neither 9 nor 10": 1, "icd_code is blank": 1},
    }


def big_record(root, copies):
    """A record whose labevents grow with ``copies``, by rows of the patient and of another one."""
    rows = (
        lab(f"2150-03-05 {9 + i % 5:02d}:{i % 60:02d}:00", 5 + i % 7, itemid=1 + i % 5, subject_id=SUBJECT + i % 2)
        for i in range(2000 * copies)
    )
    return write_record(root, packed=True, hosp_labevents=rows)


def peak_bytes(root):
    tracemalloc.start()
    try:
        found = read(root)
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_table(tmp_path):
    read(big_record(tmp_path / "warm", 1))
    small, one = peak_bytes(big_record(tmp_path / "small", 6))
    large, ten = peak_bytes(big_record(tmp_path / "large", 60))
    assert ten.report.tables["hosp/labevents"].rows == 10 * one.report.tables["hosp/labevents"].rows == 120_000
    assert ten.report.used["hosp/labevents"] > 5 * one.report.used["hosp/labevents"] > 500
    assert large < small + 50_000
