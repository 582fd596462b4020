import csv
import gzip

import pytest

from common.data.ehr.icd import CHRONIC_CONDITIONS, ICD_GROUPS, icd_groups, matching
from tests.data.ehr.mimic_rows import DEMO, DEMO_ED

CODES = {
    "pneumonia": [("486", 9), ("J18.9", 10), ("J690", 10), ("5070", 9), ("99731", 9), ("J1282", 10)],
    "pleural_effusion": [("5119", 9), ("J90", 10), ("J91.0", 10), ("J869", 10)],
    "pneumothorax": [("51289", 9), ("8600", 9), ("J93.11", 10), ("S270XXA", 10)],
    "pulmonary_embolism": [("41519", 9), ("I2699", 10)],
    "heart_failure": [("4280", 9), ("I5023", 10), ("40291", 9), ("I110", 10)],
    "pulmonary_edema": [("5184", 9), ("514", 9), ("J81.0", 10)],
    "rib_fracture": [("80702", 9), ("S2242XA", 10)],
    "lung_mass": [("1629", 9), ("C3490", 10), ("R918", 10), ("79311", 9), ("1970", 9), ("C7801", 10)],
}
NO_GROUP = [
    ("I10", 10), ("4019", 9), ("I509", 9), ("428", 10), ("V1255", 9), ("Z86711", 10), ("E119", 10), ("J45909", 10),
    ("S22000A", 10), ("S2220XA", 10), ("5110", 9), ("4878", 9), ("I517", 10), ("Z8701", 10),
]  # fmt: skip


@pytest.mark.parametrize(("group", "code"), [(group, code) for group, codes in CODES.items() for code in codes])
def test_a_code_is_in_its_group_alone(group, code):
    assert icd_groups([code]) == {name: int(name == group) for name in ICD_GROUPS}


@pytest.mark.parametrize("code", NO_GROUP)
def test_other_codes_are_in_no_group(code):
    assert not any(icd_groups([code]).values())


def test_there_are_eight_groups_and_every_one_has_prefixes_of_both_versions():
    assert len(ICD_GROUPS) == 8 == len(CODES)
    for prefixes in (*ICD_GROUPS.values(), *CHRONIC_CONDITIONS.values()):
        assert prefixes[9] and prefixes[10]
        assert all("." not in prefix for version in prefixes.values() for prefix in version)


def test_several_codes_add_up():
    assert sum(icd_groups([("J189", 10), ("J90", 10), ("I10", 10)]).values()) == 2
    assert sum(icd_groups([]).values()) == 0


def test_the_version_decides_what_a_code_means():
    # E11.9 is diabetes in ICD-10; in ICD-9 a code that begins with E11 could only be a cause of injury.
    assert matching([("E119", 10)], CHRONIC_CONDITIONS) == {"diabetes"}
    assert matching([("E119", 9)], CHRONIC_CONDITIONS) == set()
    assert matching([("25000", 9)], CHRONIC_CONDITIONS) == {"diabetes"}
    assert matching([("I10", 10), ("4019", 9)], CHRONIC_CONDITIONS) == {"hypertension"}
    several = [("E6601", 10), ("J449", 10), ("I5022", 10)]
    assert matching(several, CHRONIC_CONDITIONS) == {"heart failure", "COPD", "obesity"}


@pytest.mark.parametrize("version", [8, 11, "10"])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(ValueError, match="expected 9 or 10"):
        icd_groups([("J189", version)])


@pytest.mark.skipif(not DEMO_ED.is_dir(), reason="the MIMIC-IV-ED demo is not there")
def test_groups_agree_with_the_titles_of_real_diagnoses():
    """ed/diagnosis has a title beside each code, which the groups do not look at."""
    with gzip.open(DEMO_ED / "ed" / "diagnosis.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    words = {
        "pneumonia": ("PNEUMONIA",), "pleural_effusion": ("PLEURAL EFFUSION",), "pneumothorax": ("PNEUMOTHORAX",),
        "pulmonary_embolism": ("PULMONARY EMBOL", "EMBOLUS OF PULMONARY"), "pulmonary_edema": ("LUNG EDEMA",),
        "heart_failure": ("HEART FAILURE", "HRT FAIL"), "rib_fracture": (" RIB",), "lung_mass": ("LUNG MASS",),
    }  # fmt: skip
    checked = 0
    for row in rows:
        title = row["icd_title"].upper()
        found = icd_groups([(row["icd_code"], int(row["icd_version"]))])
        for group, names in words.items():
            said = any(name in title for name in names)
            assert found[group] == said, (group, row)
            checked += said
    assert checked >= 20


@pytest.mark.skipif(not DEMO.is_dir(), reason="the MIMIC-IV demo is not there")
def test_every_group_and_condition_but_rare_ones_occurs_in_the_demo():
    with gzip.open(DEMO / "hosp" / "diagnoses_icd.csv.gz", "rt", encoding="utf-8") as file:
        codes = [(row["icd_code"], int(row["icd_version"])) for row in csv.DictReader(file)]
    assert sum(icd_groups(codes).values()) >= 7
    assert len(matching(codes, CHRONIC_CONDITIONS)) >= 20
