import csv
import gzip
from collections import Counter

import pytest

from common.data.ehr.mimic_items import LAB_TESTS, chart_items, lab_items, read_lab
from common.io.table import TableCounts
from tests.data.ehr.mimic_rows import CHART_ITEMS, DEMO, LAB_ITEMS, write_table

TESTS = {test.name: test for test in LAB_TESTS}


def test_items_are_found_by_label_fluid_and_category(tmp_path):
    counts = TableCounts()
    found = lab_items(write_table(tmp_path, "hosp/d_labitems", LAB_ITEMS), counts=counts)
    assert {itemid: test.name for itemid, test in found.items()} == {
        "1": "White Blood Cells", "2": "White Blood Cells", "4": "Creatinine", "5": "Troponin T", "7": "pH",
    }  # fmt: skip
    assert counts.rows == len(LAB_ITEMS)


def test_chart_items_are_those_of_chartevents(tmp_path):
    found = chart_items(write_table(tmp_path, "icu/d_items", CHART_ITEMS))
    assert found == {"91": "heartrate", "92": "o2_device", "93": "temperature", "95": "sbp"}


@pytest.mark.parametrize(
    ("name", "value", "number", "unit", "comments", "expected"),
    [
        ("Creatinine", "1.2", "1.2", "mg/dL", "", (1.2, "")),
        ("Creatinine", "88.42", "88.42", "umol/L", "", (1.0, "")),
        ("Hemoglobin", "125", "125", "g/L", "", (12.5, "")),
        ("White Blood Cells", "9.3", "9.3", "k/ul", "", (9.3, "")),
        ("White Blood Cells", "9300", "9300", "#/uL", "", (9.3, "")),
        ("C-Reactive Protein", "___", "17.9", "mg/L", "", (17.9, "")),
        ("Troponin T", "", "", "ng/mL", "<0.01.  Text of the laboratory.", (0.01, "<")),
        ("Troponin T", "LESS THAN 0.01", "", "ng/mL", "", (0.01, "<")),
        ("NTproBNP", "", "", "pg/mL", "GREATER THAN 70000.  Text.", (70000, ">")),
        ("NTproBNP", ">70,000", "", "pg/mL", "", (70000, ">")),
        ("INR(PT)", "1.1", "1.1", "", "", (1.1, "")),
        ("pH", "7.38", "7.38", "units", "", (7.38, "")),
        ("D-Dimer", "600", "600", "ng/mL DDU", "", (1200, "")),
        ("Lactate", "1.8", "1.8", " mmol/L ", "", (1.8, "")),
    ],
)
def test_results_are_read_in_the_unit_of_the_test(name, value, number, unit, comments, expected):
    reading = read_lab(TESTS[name], value, number, unit, comments)
    assert (reading.value, reading.comparator, reading.refused) == (pytest.approx(expected[0]), expected[1], "")


@pytest.mark.parametrize(
    ("name", "value", "number", "unit", "comments", "refused"),
    [
        ("Creatinine", "1.2", "1.2", "mmol/day", "", "unknown unit"),
        ("Creatinine", "1.2", "1.2", "", "", "unknown unit"),
        ("Creatinine", "___", "", "mg/dL", "___", "no number"),
        ("INR(PT)", "ERROR", "", "", "not reportable", "no number"),
        ("Potassium", "77", "77", "mEq/L", "", "out of bounds"),
        ("Potassium", "nan", "nan", "mEq/L", "", "no number"),
        ("Potassium", "inf", "inf", "mEq/L", "", "no number"),
        ("Glucose", "-5", "-5", "mg/dL", "", "out of bounds"),
        ("Glucose", "", "", "mg/dL", "", "no number"),
        ("Sodium", "1_4_0", "1_4_0", "mEq/L", "", "no number"),
    ],
)
def test_results_that_mean_nothing_are_refused_with_the_reason(name, value, number, unit, comments, refused):
    assert read_lab(TESTS[name], value, number, unit, comments).refused == refused


@pytest.mark.skipif(not DEMO.is_dir(), reason="the MIMIC-IV demo is not there")
def test_every_test_is_in_the_real_dictionary_and_nearly_every_result_is_read():
    items = lab_items(DEMO / "hosp" / "d_labitems.csv.gz")
    assert {test.name for test in items.values()} == set(TESTS)
    assert len(items) > len(TESTS)
    outcomes = Counter()
    with gzip.open(DEMO / "hosp" / "labevents.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["itemid"] in items:
                texts = (row[name] for name in ("value", "valuenum", "valueuom", "comments"))
                outcomes[read_lab(items[row["itemid"]], *texts).refused] += 1
    assert outcomes["unknown unit"] == 0
    assert outcomes["out of bounds"] <= 5
    assert outcomes["no number"] < 0.002 * outcomes[""]
    assert outcomes[""] > 40_000


@pytest.mark.skipif(not DEMO.is_dir(), reason="the MIMIC-IV demo is not there")
def test_vital_signs_and_the_oxygen_device_are_in_the_real_dictionary():
    found = Counter(chart_items(DEMO / "icu" / "d_items.csv.gz").values())
    assert found["o2_device"] == found["heartrate"] == found["o2sat"] == 1
    assert found["temperature"] == found["sbp"] == found["dbp"] == 2
