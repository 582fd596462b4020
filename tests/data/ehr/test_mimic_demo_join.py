"""The open MIMIC-IV and MIMIC-IV-ED demo tables joined to virtual X-rays of the same subjects."""

import csv
import gzip
import shutil
from datetime import datetime, timedelta

import numpy as np
import pytest

from common.data.cxr.cases import read_cxr_cases
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS, CLINICAL_FEATURES, ClinicalScaler
from common.data.manifest import read_manifest
from common.data.prepare import prepare_data
from common.data.virtual.cxr_layouts import write_mimic_cxr
from common.data.virtual.files import Cohort
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.redaction import find_leaks
from tests.data.cxr.test_mimic_cxr import edit
from tests.data.ehr.mimic_rows import DEMO, DEMO_ED

pytestmark = pytest.mark.skipif(not (DEMO.is_dir() and DEMO_ED.is_dir()), reason="the MIMIC-IV(-ED) demo is not there")


def rows(path):
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Prepared cases, and study -> (stay, time of the X-ray)."""
    root = tmp_path_factory.mktemp("joined") / "mimic-cxr"
    write_mimic_cxr(root, Cohort(6, 70, (16, 32, 32), (9.0, 10.0, 11.0)))
    for name in ("mimic-iv", "mimic-iv-ed"):
        shutil.rmtree(root / name)
    stays = {row["subject_id"]: row for row in rows(DEMO_ED / "ed" / "edstays.csv.gz")}  # the last of each subject
    virtual = sorted({row["subject_id"] for row in rows(root / "mimic-cxr-2.0.0-metadata.csv.gz")})
    subject_of = dict(zip(virtual, sorted(stays), strict=False))
    study_of = {}

    def metadata(table):
        for row in table:
            stay = stays[subject_of[row["subject_id"]]]
            begin, end = (datetime.fromisoformat(stay[name]) for name in ("intime", "outtime"))
            time = begin + (end - begin) / 2
            study_of[f"s{row['study_id']}"] = stay, time
            row |= {"StudyDate": f"{time:%Y%m%d}", "StudyTime": f"{time:%H%M%S}.000"}
            row |= {"subject_id": stay["subject_id"]}
        return table

    edit(root, "metadata", metadata)
    for name in ("split", "chexpert", "negbio"):
        edit(root, name, lambda table: [row | {"subject_id": subject_of[row["subject_id"]]} for row in table])
    for old, new in subject_of.items():
        target = root / "files" / f"p{new[:2]}" / f"p{new}"
        target.parent.mkdir(exist_ok=True)
        shutil.move(root / "files" / f"p{old[:2]}" / f"p{old}", target)
    out = root.parent / "prepared"
    prepare_data(root, out, "mimic_cxr", ehr=[str(DEMO), str(DEMO_ED)])
    cases = read_cxr_cases(out, None, views=None)
    subjects = {row["case"]: row["patient"] for row in read_manifest(out)}
    return [case | {"subject": subjects[case["case"]]} for case in cases], study_of


def test_every_x_ray_gets_the_note_of_its_subjects_stay(joined):
    cases, study_of = joined
    assert len(cases) >= 6 and all(case["image"] and case["note"] for case in cases)
    triage = {row["stay_id"]: row for row in rows(DEMO_ED / "ed" / "triage.csv.gz")}
    patients = {row["subject_id"]: row for row in rows(DEMO / "hosp" / "patients.csv.gz")}
    seen = 0
    for case in cases:
        stay, time = study_of[case["study"]]
        assert case["subject"] == stay["subject_id"]
        known = dict(zip(CLINICAL_COLUMNS, case["clinical"], strict=True))
        row = patients[case["subject"]]
        age = int(row["anchor_age"]) + time.year - int(row["anchor_year"])
        assert known["age"] == age and known["sex"] == (row["gender"] == "M")
        hours = (time - datetime.fromisoformat(stay["intime"])) / timedelta(hours=1)
        assert known["hours_since_arrival"] == pytest.approx(hours, abs=0.02)
        acuity = triage[stay["stay_id"]]["acuity"]
        if acuity:
            assert known["acuity"] == float(acuity)
            seen += 1
    assert seen >= 4


def test_notes_hold_neither_a_label_nor_an_identifier(joined):
    cases, study_of = joined
    for case in cases:
        stay, _ = study_of[case["study"]]
        assert find_leaks(case["note"], CHEXPERT_LABELS) == []
        assert not any(stay[name] and stay[name] in case["note"] for name in ("subject_id", "hadm_id", "stay_id"))


def test_vital_signs_are_the_last_before_the_x_ray(joined):
    cases, study_of = joined
    vitals = rows(DEMO_ED / "ed" / "vitalsign.csv.gz")
    triage = {row["stay_id"]: row for row in rows(DEMO_ED / "ed" / "triage.csv.gz")}
    checked = 0
    for case in cases:
        stay, time = study_of[case["study"]]
        before = [row for row in vitals if row["stay_id"] == stay["stay_id"] and row["heartrate"]]
        before = [row for row in before if datetime.fromisoformat(row["charttime"]) <= time]
        found = case["clinical"][CLINICAL_COLUMNS.index("heartrate")]
        if before:
            expected = max(before, key=lambda row: row["charttime"])["heartrate"]
        else:
            expected = triage[stay["stay_id"]]["heartrate"]
        if expected:
            assert found == pytest.approx(float(expected)), case["case"]
            checked += 1
    assert checked >= 4


def test_the_vectors_are_complete(joined):
    cases, _ = joined
    raw = [case["clinical"] for case in cases]
    vectors = ClinicalScaler.fit(raw).transform(raw)
    assert vectors.shape == (len(cases), len(CLINICAL_FEATURES)) == (len(cases), 45) and np.isfinite(vectors).all()
