import csv
import gzip
from collections import defaultdict
from datetime import datetime

import pytest

from common.data.ehr.mimic_iv import Study, parse_study_time, read_contexts
from common.data.ehr.mimic_stays import read_admissions, read_emergency_stays
from common.data.virtual.ehr import COLUMNS
from common.io.bad_input import BadInput
from common.io.table import DamagedTable, TableCounts
from tests.data.ehr.mimic_rows import (
    DEMO,
    DEMO_ED,
    NOON,
    STUDY,
    SUBJECT,
    code,
    lab,
    latest,
    read,
    write_record,
    write_table,
)

needs_demo = pytest.mark.skipif(not (DEMO.is_dir() and DEMO_ED.is_dir()), reason="the MIMIC-IV(-ED) demo is not there")


def test_a_study_outside_every_stay_has_age_sex_and_history_only(tmp_path):
    study = Study(SUBJECT, 1, datetime(2150, 6, 1))
    rows = {"hosp_labevents": [lab("2150-05-31 10:00:00", 166)], "hosp_diagnoses_icd": [code("J449")]}
    result = read(write_record(tmp_path, **rows), study)
    found = result.contexts[1]
    assert (found.setting, found.age, found.sex, found.chronic_conditions) == (None, 62, "F", ("COPD",))
    assert not (found.vitals or found.labs or found.chief_complaint or found.acuity or found.arrival_transport)
    assert result.report.without_stay == 1 and not result.targets and not result.encounters


def test_a_study_of_an_unknown_patient_is_named(tmp_path):
    result = read(write_record(tmp_path), Study(5, 77, NOON), STUDY)
    assert list(result.contexts) == [STUDY.study_id]
    assert result.report.excluded == [(77, "patient 5 has no usable row in patients")]
    with pytest.raises(ValueError, match="occurs twice"):
        read(tmp_path, STUDY, STUDY)
    with pytest.raises(ValueError, match="expected both ids as int"):
        read(tmp_path, Study(str(SUBJECT), 77, NOON))


def test_several_studies_of_a_stay_each_know_their_own_past(tmp_path):
    rows = [lab(f"2150-03-05 {hour}:00:00", hour) for hour in (10, 11, 12, 13)]
    studies = [Study(SUBJECT, hour, datetime(2150, 3, 5, hour, 30)) for hour in (9, 10, 11, 14)]
    found = read(write_record(tmp_path, hosp_labevents=rows), *studies).contexts
    assert list(found) == [9, 10, 11, 14] and "White Blood Cells" not in found[9].labs
    assert [found[hour].labs["White Blood Cells"].latest.value for hour in (10, 11, 14)] == [10, 11, 13]


def test_a_table_that_is_needed_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"hosp/patients\.csv\.gz: is missing"):
        read(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"hosp/admissions\.csv\.gz: is missing, expected it or ed/edstays"):
        read(write_record(tmp_path / "a", hosp_admissions=None, ed_edstays=None, ed_triage=None))
    with pytest.raises(BadInput, match=r"d_labitems\.csv\.gz: is missing.*hosp/labevents cannot be used without it"):
        read(write_record(tmp_path / "b", hosp_d_labitems=None, hosp_labevents=[]))
    with pytest.raises(BadInput, match=r"edstays\.csv\.gz: is missing.*ed/triage"):
        read(write_record(tmp_path / "c", ed_edstays=None))


def test_tables_that_may_be_absent_are_listed(tmp_path):
    root = write_record(tmp_path, ed_edstays=None, ed_triage=None, icu_d_items=None, hosp_d_labitems=None)
    result = read(root)
    assert result.contexts[STUDY.study_id].setting == "emergency"  # edregtime of the admission
    assert result.report.missing_tables == [
        "hosp/d_labitems", "hosp/omr", "hosp/labevents", "hosp/diagnoses_icd", "icu/d_items", "icu/chartevents",
        "ed/edstays", "ed/triage", "ed/vitalsign", "ed/medrecon", "ed/pyxis", "ed/diagnosis",
    ]  # fmt: skip
    assert read_contexts(root, None, [STUDY]).contexts == result.contexts


@pytest.mark.parametrize(("table", "column"), [("hosp/labevents", "storetime"), ("ed/edstays", "intime"),
                                               ("hosp/d_labitems", "fluid"), ("ed/triage", "acuity")])  # fmt: skip
def test_a_missing_column_is_named(tmp_path, table, column):
    root = write_record(tmp_path, hosp_labevents=[])
    path = root / f"{table}.csv"
    path.write_text(path.read_text().replace(f"{column}", "other", 1))
    with pytest.raises(BadInput, match=f"{path.name}: has no column '{column}'"):
        read(root)


def test_a_damaged_event_table_is_used_up_to_the_damage(tmp_path):
    other = [lab("2150-03-05 10:00:00", i / 7, subject_id=10**7 + 9) for i in range(30_000)]
    root = write_record(tmp_path, hosp_labevents=[lab("2150-03-05 10:00:00", 7), *other], packed=True)
    path = root / "hosp" / "labevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    result = read(root)
    assert latest(result.contexts[STUDY.study_id].labs) == {"White Blood Cells": 7}
    assert [problem.path.name for problem in result.report.problems] == ["labevents.csv.gz"]
    assert "damaged gzip file after row" in str(result.report.problems[0])
    path = root / "hosp" / "admissions.csv.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedTable, match="admissions"):  # every join would be in doubt
        read(root)


def test_the_study_time_is_a_number_whose_zeros_are_lost():
    assert parse_study_time("21800506", "213014.531") == datetime(2180, 5, 6, 21, 30, 14, 531_000)
    assert parse_study_time("21800506", "93014.0") == datetime(2180, 5, 6, 9, 30, 14)
    assert parse_study_time("21800506", "14.0") == datetime(2180, 5, 6, 0, 0, 14)
    assert parse_study_time("21800506", "0") == datetime(2180, 5, 6)
    assert parse_study_time(" 21800506", "120000.1234567 ") == datetime(2180, 5, 6, 12, 0, 0, 123_456)


@pytest.mark.parametrize(("date", "clock"), [("21800532", "120000"), ("2180-05-06", "120000"), ("21800506", "246060"),
                                             ("21800506", ""), ("21800506", "12:00:00"), ("", "1"), ("21800506", "-1"),
                                             ("0", "0"), ("21800506", "1e5"), ("21800506", "1200000")])  # fmt: skip
def test_what_is_no_moment_is_refused(date, clock):
    with pytest.raises(ValueError, match="StudyDate"):
        parse_study_time(date, clock)


# The open demo: 100 patients, 275 admissions, 222 emergency stays.


@pytest.fixture(scope="module")
def demo():
    """A study in the middle of every stay and of every admission, and what is known about it."""
    with gzip.open(DEMO / "hosp" / "patients.csv.gz", "rt") as file:
        subjects = {row["subject_id"] for row in csv.DictReader(file)}
    stays = read_emergency_stays(DEMO_ED / "ed" / "edstays.csv.gz", subjects, TableCounts())
    admissions = read_admissions(DEMO / "hosp" / "admissions.csv.gz", subjects, TableCounts())
    spans = [(row.subject_id, row.intime, row.outtime, row) for rows in stays.values() for row in rows]
    spans += [(row.subject_id, row.admittime, row.dischtime, row) for rows in admissions.values() for row in rows]
    studies, rows = [], {}
    for number, (subject, begin, end, row) in enumerate(spans, 50_000_001):
        studies.append(Study(subject, number, (begin + (end - begin) / 2).replace(microsecond=0)))
        rows[number] = row
    return studies, rows, read_contexts(DEMO, DEMO_ED, studies)


@needs_demo
def test_every_stay_of_the_demo_has_a_context(demo):
    studies, rows, found = demo
    assert len(studies) == 497 == len(found.contexts) == len(found.encounters) == found.report.with_target
    assert found.report.without_stay == 0 and not found.report.excluded and not found.report.problems
    for number, row in rows.items():
        assert row in (found.encounters[number].emergency, found.encounters[number].admission)
    assert found.report.overlaps == 1  # one visit to the emergency department with two admissions
    assert found.report.missing_tables == ["icu/chartevents"]
    for name, at_least in {
        "age": 497,
        "sex": 497,
        "chief_complaint": 390,
        "Creatinine": 400,
        "temperature": 350,
    }.items():
        assert found.report.filled[name] >= at_least


@needs_demo
def test_nothing_in_a_context_of_the_demo_is_later_than_its_study(demo):
    values = 0
    for found in demo[2].contexts.values():
        for series in (*found.vitals.values(), *found.labs.values()):
            assert series.first.charted <= series.latest.charted <= found.study_time
            assert series.latest.hours >= 0
            values += 1
        for value in found.body.values():
            assert value.charted.date() < found.study_time.date()
    assert values > 8000


@needs_demo
def test_laboratory_values_of_the_demo_equal_a_slow_reference(demo):
    labels = {("White Blood Cells", "Hematology"), ("Creatinine", "Chemistry"), ("Lactate", "Blood Gas")}
    with gzip.open(DEMO / "hosp" / "d_labitems.csv.gz", "rt") as file:
        items = {
            row["itemid"]: row["label"]
            for row in csv.DictReader(file)
            if (row["label"], row["category"]) in labels and row["fluid"] == "Blood"
        }
    by_subject = defaultdict(list)
    with gzip.open(DEMO / "hosp" / "labevents.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["itemid"] in items and row["valuenum"]:
                by_subject[int(row["subject_id"])].append(row)
    compared = 0
    for study in demo[0]:
        now, here = str(study.study_time), demo[2].encounters[study.study_id]
        known = [
            (row["charttime"], row["storetime"] or row["charttime"], float(row["valuenum"]), items[row["itemid"]])
            for row in by_subject[study.subject_id]
            if str(here.begin) <= row["charttime"] <= now
            and (row["storetime"] or row["charttime"]) <= now
            and row["hadm_id"] in ("", str(here.hadm_id))
        ]
        for name, _ in labels:
            rows = sorted(row[:3] for row in known if row[3] == name)
            series = demo[2].contexts[study.study_id].labs.get(name)
            assert bool(rows) == (series is not None)
            if rows:
                assert (series.first.value, series.latest.value) == (rows[0][2], rows[-1][2])
                compared += 1
    assert compared > 900


@needs_demo
def test_deleting_the_future_of_the_demo_changes_no_context(demo, tmp_path):
    """One study per patient: every row of the patient that came after it is cut away, and stays end a year later."""
    studies = list({study.subject_id: study for study in demo[0]}.values())
    now = {str(study.subject_id): str(study.study_time) for study in studies}
    ends = {"hosp/admissions": ("admittime", "dischtime"), "ed/edstays": ("intime", "outtime")}
    cut = 0
    for name in COLUMNS:
        source = (DEMO_ED if name.startswith("ed/") else DEMO) / f"{name}.csv.gz"
        if not source.is_file():
            continue
        with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        times = [column for column in ("charttime", "storetime", "intime", "admittime") if column in rows[0]]
        kept = (
            [row for row in rows if all(row[t] <= now.get(row.get("subject_id"), "") for t in times)] if times else rows
        )
        if name == "hosp/omr":
            kept = [row for row in rows if row["chartdate"] <= now[row["subject_id"]][:10]]
        for row in kept if name in ends else ():
            end = ends[name][1]
            if row[end] > now[row["subject_id"]]:
                row[end] = f"{int(row[end][:4]) + 1}{row[end][4:]}".replace("-02-29", "-02-28")
        cut += len(rows) - len(kept)
        write_table(tmp_path, name, kept)
    # Codes have no time: those of stays that had not ended are deleted.
    over = {row.hadm_id for row in demo[1].values() if hasattr(row, "dischtime")
            and str(row.dischtime) <= now[str(row.subject_id)]}  # fmt: skip
    path = tmp_path / "hosp" / "diagnoses_icd.csv"
    with path.open(newline="") as file:
        write_table(
            tmp_path, "hosp/diagnoses_icd", [row for row in csv.DictReader(file) if int(row["hadm_id"]) in over]
        )
    assert cut > 20_000
    found = read_contexts(tmp_path, tmp_path, studies)
    assert len(found.contexts) == len(studies) == 100
    for study in studies:
        assert found.contexts[study.study_id] == demo[2].contexts[study.study_id]
