from datetime import datetime, timedelta

import pytest

from common.data.ehr.mimic_stays import (
    Admission,
    EmergencyStay,
    Patient,
    find_encounter,
    read_admissions,
    read_emergency_stays,
    read_patients,
)
from common.io.table import TableCounts
from tests.data.ehr.mimic_rows import HADM, STAY, SUBJECT, admission, edstay, patient, write_table

DAY = datetime(2150, 3, 5)


def at(hours):
    return DAY + timedelta(hours=hours)


def stay(begin, end, stay_id=1, hadm_id=None):
    return EmergencyStay(SUBJECT, stay_id, hadm_id, at(begin), at(end), "WALK IN")


def admitted(begin, end, hadm_id=10, registered=None):
    return Admission(SUBJECT, hadm_id, at(begin), at(end), at(begin if registered is None else registered))


def test_a_study_outside_every_stay_has_none_however_near():
    stays, admissions = [stay(8, 12)], [admitted(20, 40)]
    for hours in (7.99, 12.01, 19.99, 40.01):
        assert find_encounter(at(hours), stays, admissions) is None
    assert find_encounter(at(10), [], []) is None


@pytest.mark.parametrize("hours", [8, 10, 12])
def test_both_ends_belong_to_the_stay(hours):
    found = find_encounter(at(hours), [stay(8, 12)], [])
    assert (found.setting, found.emergency.stay_id, found.admission, found.hadm_id) == ("emergency", 1, None, None)
    assert (found.begin, found.end) == (at(8), at(12))


def test_the_last_admission_is_not_taken_for_the_one_that_contains_the_study():
    earlier, later = admitted(0, 24, 10), admitted(2000, 2100, 11)
    assert find_encounter(at(5), [], [earlier, later]).hadm_id == 10
    assert find_encounter(at(5), [], [later, earlier]).hadm_id == 10
    assert find_encounter(at(500), [], [earlier, later]) is None


def test_emergency_stay_and_the_admission_it_led_to_are_one():
    stays, admissions = [stay(8, 13, 1, hadm_id=10)], [admitted(12, 90, 10, registered=8)]
    in_department = find_encounter(at(9), stays, admissions)
    both = find_encounter(at(12.5), stays, admissions)
    in_ward = find_encounter(at(50), stays, admissions)
    assert in_department.setting == both.setting == "emergency" and in_ward.setting == "hospital"
    for found in (in_department, both, in_ward):
        assert (found.begin, found.end) == (at(8), at(90))
        assert (found.emergency.stay_id, found.admission.hadm_id, found.overlap) == (1, 10, False)


def test_the_time_in_the_emergency_department_belongs_to_the_admission_without_edstays():
    found = find_encounter(at(9), [], [admitted(12, 90, 10, registered=8)])
    assert (found.setting, found.hadm_id, found.begin) == ("emergency", 10, at(8))
    assert find_encounter(at(7.9), [], [admitted(12, 90, 10, registered=8)]) is None


def test_an_emergency_stay_names_its_admission_even_if_that_begins_later():
    found = find_encounter(at(9), [stay(8, 11, 1, hadm_id=10)], [admitted(30, 90, 10)])
    assert (found.hadm_id, found.admission.hadm_id, found.begin, found.setting) == (10, 10, at(8), "emergency")
    without_row = find_encounter(at(9), [stay(8, 11, 1, hadm_id=10)], [])
    assert (without_row.hadm_id, without_row.admission) == (10, None)


def test_of_overlapping_stays_the_one_that_began_last_counts():
    stays = [stay(8, 14, 1), stay(9, 12, 2), stay(9, 12, 3)]
    for order in (stays, stays[::-1]):
        found = find_encounter(at(10), order, [])
        assert found.emergency.stay_id == 2 and found.overlap


def test_of_overlapping_admissions_the_named_then_the_begun_then_the_latest_counts():
    long, inner = admitted(0, 90, 10), admitted(20, 40, 11)
    assert find_encounter(at(30), [], [long, inner]).hadm_id == 11
    assert find_encounter(at(30), [stay(25, 35, 1, hadm_id=10)], [long, inner]).hadm_id == 10
    # Registered in the department at the same moment, but only one is admitted yet.
    boarding, begun = admitted(12, 90, 10, registered=5), admitted(6, 11, 11, registered=5)
    for order in ([boarding, begun], [begun, boarding]):
        found = find_encounter(at(8), [], order)
        assert (found.hadm_id, found.setting, found.overlap) == (11, "hospital", True)


def test_an_emergency_stay_of_another_admission_is_not_part_of_this_one():
    found = find_encounter(at(50), [stay(8, 11, 1, hadm_id=9), stay(20, 22, 2)], [admitted(30, 90, 10)])
    assert found.emergency is None and found.begin == at(30)


@pytest.mark.parametrize(
    ("anchor_age", "year", "age"),
    [(60, 2150, 60), (60, 2155, 65), (60, 2148, 58), (88, 2151, 89), (88, 2152, 91), (91, 2150, 91), (91, 2140, 91),
     (3, 2140, None), (None, 2150, None)],
)  # fmt: skip
def test_age_is_counted_from_the_anchor_year_and_grouped_above_89(anchor_age, year, age):
    assert Patient("F", anchor_age, 2150).age_in(year) == age


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    counts = TableCounts()
    rows = [edstay(), edstay(stay_id=2, intime="yesterday"), edstay(stay_id=3, outtime="2150-03-05 08:59:59"),
            edstay(stay_id="x"), edstay(stay_id=5, hadm_id="2.5"), edstay(subject_id=9)]  # fmt: skip
    found = read_emergency_stays(write_table(tmp_path, "ed/edstays", rows), {str(SUBJECT)}, counts)
    assert [row.stay_id for row in found[SUBJECT]] == [STAY] and list(found) == [SUBJECT]
    assert counts.bad == {"unreadable time": 1, "ends before it begins": 1, "stay_id or hadm_id is not an id": 2}


def test_repeated_ids_are_used_once_and_contradictory_ones_not_at_all(tmp_path):
    counts = TableCounts()
    rows = [admission(), admission(), admission(hadm_id=5), admission(hadm_id=5, dischtime="2150-04-01 00:00:00")]
    rows += [admission(hadm_id=5), admission(hadm_id=6, edregtime="?")]
    found = read_admissions(write_table(tmp_path, "hosp/admissions", rows), {str(SUBJECT)}, counts)
    assert [row.hadm_id for row in found[SUBJECT]] == [HADM, 6]
    assert found[SUBJECT][0].begin == datetime(2150, 3, 5, 9) and found[SUBJECT][1].begin == datetime(2150, 3, 5, 14)
    assert counts.bad == {
        "repeated row, used once": 1,
        "id occurs again with other values, none is used": 3,
        "unreadable edregtime, not used": 1,
    }


def test_a_patient_with_two_sexes_is_not_used_and_missing_facts_are_unknown(tmp_path):
    counts = TableCounts()
    rows = [patient(), patient(gender="M"), patient(subject_id=2, gender="?"), patient(subject_id=3, anchor_age="")]
    found = read_patients(write_table(tmp_path, "hosp/patients", rows), {str(SUBJECT), "2", "3"}, counts)
    assert found == {2: Patient(None, 60, 2148), 3: Patient("F", None, 2148)}
    assert counts.bad == {
        "id occurs again with other values, none is used": 2,
        "gender is neither F nor M, sex unknown": 1,
        "age or year is not a number, age unknown": 1,
    }
