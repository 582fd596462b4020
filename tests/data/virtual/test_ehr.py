import csv
import gzip
import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.data.ehr.icd import CHRONIC_CONDITIONS
from common.data.ehr.mimic_items import LAB_TESTS
from common.data.ehr.mimic_iv import read_contexts
from common.data.virtual.clinic import CHRONIC, clinical_state
from common.data.virtual.ehr import CHART_ITEMS, COLUMNS, FIRST_LAB_ITEM, LABS, REFERENCE, write_virtual_ehr
from common.data.virtual.study import virtual_study
from common.data.virtual.xray_labels import is_infected
from tests.data.ehr.mimic_rows import DEMO, DEMO_ED, SHARED

PREVALENCE = {"Consolidation": 0.4, "Pleural Effusion": 0.25, "Edema": 0.2, "Pneumothorax": 0.1, "Cardiomegaly": 0.3,
              "Fracture": 0.05, "Lung Lesion": 0.1, "Support Devices": 0.15}  # fmt: skip
N = 800


def draw_labels(seed, scan=0):
    """Labels as an X-ray would have them: a consolidation is pneumonia if the patient is infected."""
    rng = np.random.default_rng([seed, scan])
    labels = {name: 1.0 if rng.random() < share else None for name, share in PREVALENCE.items()}
    labels["Pneumonia"] = 1.0 if labels["Consolidation"] and is_infected(seed, scan) else None
    return labels


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Record, studies (some patients have two) and labels of many virtual patients, and their contexts."""
    root = tmp_path_factory.mktemp("ehr")
    studies = [virtual_study(seed, scan) for seed in range(N) for scan in range(1 + (seed % 10 == 0))]
    labels = {study.study_id: draw_labels(study.seed, study.scan) for study in studies}
    rows = write_virtual_ehr(root, root, studies, labels)
    return root, studies, labels, rows, read_contexts(root, root, studies)


def table(root, name):
    with gzip.open(root / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*.gz"))}


@pytest.mark.skipif(not DEMO.is_dir(), reason="the MIMIC-IV demo is not there")
def test_headers_are_those_of_the_real_tables():
    real = {}
    for folder in (DEMO, DEMO_ED):
        for line in (folder / "ALL_TABLE_HEADERS.txt").read_text().splitlines():
            name, _, header = line.partition(".csv: ")
            real[name] = header.partition(" [rows")[0]
    checked = [name for name in COLUMNS if name in real]
    assert {name: COLUMNS[name] for name in checked} == {name: real[name] for name in checked}
    assert set(COLUMNS) - set(checked) == {"icu/chartevents"}  # not among the tables of the demo that are here
    assert SHARED.is_dir()


def test_the_same_studies_give_the_same_bytes(hospital, tmp_path):
    root, studies, labels, *_ = hospital
    write_virtual_ehr(tmp_path, tmp_path, studies[::-1], labels)
    assert digest(tmp_path) == digest(root)
    assert set(digest(root)) == {f"{name}.csv.gz" for name in COLUMNS}


def test_a_patient_does_not_depend_on_the_others(hospital, tmp_path):
    root, studies, labels, _, found = hospital
    few = [study for study in studies if 50 <= study.seed < 62]
    write_virtual_ehr(tmp_path, tmp_path, few, labels)
    alone = read_contexts(tmp_path, tmp_path, few)
    assert all(alone.contexts[study.study_id] == found.contexts[study.study_id] for study in few)


def test_every_study_is_joined_to_the_stay_that_it_names(hospital):
    _, studies, _, _, found = hospital
    assert len(found.contexts) == len(studies) and not found.report.excluded
    for study in studies:
        here = found.encounters.get(study.study_id)
        ids = (here.hadm_id, here.emergency.stay_id if here.emergency else None) if here else (None, None)
        assert ids == (study.hadm_id, study.stay_id)
    assert not found.report.overlaps and not found.report.problems
    assert not any(counts.bad for counts in found.report.tables.values())
    assert set(found.targets) == set(found.encounters)


def test_ids_of_stays_are_unique(hospital):
    root = hospital[0]
    for name, key in (("hosp/admissions", "hadm_id"), ("ed/edstays", "stay_id"), ("icu/icustays", "stay_id"),
                      ("hosp/patients", "subject_id"), ("hosp/labevents", "labevent_id")):  # fmt: skip
        ids = [row[key] for row in table(root, name)]
        assert len(set(ids)) == len(ids) > 50, name


def test_nothing_that_was_charted_after_a_study_is_in_its_context(hospital):
    root, studies, _, _, found = hospital
    for context in found.contexts.values():
        assert "charted after the study" not in context.home_medicines
        assert not {"CefTRIAXone", "Furosemide"} & set(context.given_medicines)
        assert context.o2_device is None or context.o2_device.text != "T-piece"
        assert all(series.latest.charted <= context.study_time for series in context.vitals.values())
        assert "weight" not in context.body or context.body["weight"].value < 250
    planted = {"ed/vitalsign", "ed/medrecon", "ed/pyxis", "hosp/labevents", "hosp/omr", "icu/chartevents",
               "hosp/diagnoses_icd", "ed/diagnosis"}  # fmt: skip
    assert {name for name, count in found.report.after_study.items() if count > 100} == planted
    devices = Counter(row["value"] for row in table(root, "icu/chartevents"))
    assert devices["T-piece"] > 50  # what must not be seen is there
    assert sum(context.o2_device is not None for context in found.contexts.values()) > 10


def test_the_traps_are_there_and_counted(hospital):
    report = hospital[4].report
    assert report.other_unit["temperature"] > 20
    assert {"o2sat", "heartrate", "Potassium", "weight"} <= set(report.out_of_bounds)
    assert report.unknown_unit["Sodium [arb]"] > 5
    assert report.not_a_number["pain"] > 50 and report.not_a_number["Glucose"] > 3
    assert report.repeated["hosp/labevents"] > 100 and report.repeated["ed/vitalsign"] > 30
    read = hospital[4].contexts.values()
    assert any(context.labs["Troponin T"].latest.comparator == "<" for context in read if "Troponin T" in context.labs)
    for name, bound in (("Glucose", 900), ("Creatinine", 10)):
        values = [context.labs[name].latest.value for context in read if name in context.labs]
        assert len(values) > 500 and max(values) < bound  # neither urine nor umol/L


def test_results_have_the_range_of_their_laboratory_and_a_flag_outside_of_it(hospital):
    found = hospital[4].contexts.values()
    for name in LABS:
        own = [context.labs[name].latest for context in found if name in context.labs]
        low, high = REFERENCE[name]
        assert {(m.low, m.high) for m in own if not (name == "Creatinine" and m.high != high)} == {(low, high)}
        for m in own:
            outside = not m.low <= m.value <= m.high
            assert (m.flag == "abnormal") == outside or (m.comparator == "<" and not m.flag)
        share = np.mean([m.flag == "abnormal" for m in own])
        assert 0.01 < share < 0.7, name
    refused = hospital[4].report.refused["hosp/labevents"]
    assert not any("flag" in what or "range" in what for what in refused)
    decoys = {row["itemid"] for row in table(hospital[0], "hosp/d_labitems") if row["fluid"] != "Blood"}
    rows = [row for row in table(hospital[0], "hosp/labevents") if row["itemid"] not in decoys]
    assert {row["flag"] for row in rows} == {"", "abnormal"}


def test_item_ids_are_not_the_real_ones(hospital):
    root = hospital[0]
    items = {int(row["itemid"]) for row in table(root, "hosp/d_labitems")}
    assert min(items) == FIRST_LAB_ITEM > 60_000
    assert set(LABS) <= {test.name for test in LAB_TESTS}
    assert {row["label"] for row in table(root, "icu/d_items")} == {label for label, _ in CHART_ITEMS.values()}
    if DEMO.is_dir():
        real = {int(row["itemid"]) for row in table(DEMO, "hosp/d_labitems")}
        real |= {int(row["itemid"]) for row in table(DEMO, "icu/d_items")}
        assert not real & (items | {int(row["itemid"]) for row in table(root, "icu/d_items")})


def test_chronic_conditions_come_from_the_stay_before_not_from_the_one_after(hospital):
    _, studies, _, _, found = hospital
    with_history = [context for context in found.contexts.values() if context.chronic_conditions]
    assert 0.4 < len(with_history) / len(studies) < 0.8
    assert set(CHRONIC) <= set(CHRONIC_CONDITIONS)
    # Only the stay after the studies has pneumothorax and embolism together in everybody.
    both = [c for c in found.contexts.values() if {"pneumothorax", "pulmonary_embolism"} <= set(c.earlier_icd_groups)]
    assert len(both) < 0.02 * len(studies)
    older = [c for c in found.contexts.values() if "hypertension" in c.chronic_conditions and c.age >= 65]
    assert len(older) > 20


def features(contexts):
    """Latest vital signs and laboratory values, the median where there is none."""
    names = ["temperature", "heartrate", "resprate", "o2sat", "sbp", *LABS]
    table = np.full((len(contexts), len(names)), np.nan)
    for i, context in enumerate(contexts):
        for j, name in enumerate(names):
            series = context.vitals.get(name) or context.labs.get(name)
            if series:
                table[i, j] = series.latest.value if name not in LABS else np.log(series.latest.value + 0.01)
    return table


def held_out_auroc(x, y, patients):
    train = np.array([seed % 2 == 0 for seed in patients])
    x = np.where(np.isnan(x), np.nanmedian(x[train], axis=0), x)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x[train], y[train])
    return roc_auc_score(y[~train], model.predict_proba(x[~train])[:, 1])


@pytest.mark.parametrize(("label", "low"), [("Pneumonia", 0.75), ("Edema", 0.75), ("Pleural Effusion", 0.6),
                                            ("Pneumothorax", 0.7)])  # fmt: skip
def test_clinical_values_predict_labels_of_other_patients_but_not_perfectly(hospital, label, low):
    _, studies, labels, _, found = hospital
    inside = [study for study in studies if study.stay_id or study.hadm_id]
    x = features([found.contexts[study.study_id] for study in inside])
    y = np.array([labels[study.study_id][label] == 1.0 for study in inside])
    assert low < held_out_auroc(x, y, [study.seed for study in inside]) < 0.97


def test_the_clinic_tells_which_opacities_are_infected(hospital):
    """The image shows the same consolidation, so that only the record can tell pneumonia from another one."""
    _, studies, labels, _, found = hospital
    opaque = [s for s in studies if labels[s.study_id]["Consolidation"] and (s.stay_id or s.hadm_id)]
    y = np.array([labels[study.study_id]["Pneumonia"] == 1.0 for study in opaque])
    assert 0.4 < y.mean() < 0.8
    x = features([found.contexts[study.study_id] for study in opaque])
    assert held_out_auroc(x, y, [study.seed for study in opaque]) > 0.8


def test_a_reader_that_looks_ahead_predicts_better(hospital):
    """What is stored after the studies is free of noise, so that a leak shows as too good a score."""
    root, studies, labels, _, found = hospital
    inside = [study for study in studies if study.stay_id or study.hadm_id]
    later = [replace(study, study_time=found.encounters[study.study_id].end) for study in inside]
    ahead = read_contexts(root, root, later)
    y = np.array([clinical_state(study, labels[study.study_id]).infected for study in inside])
    seeds = [study.seed for study in inside]
    honest = held_out_auroc(features([found.contexts[study.study_id] for study in inside]), y, seeds)
    leaking = held_out_auroc(features([ahead.contexts[study.study_id] for study in inside]), y, seeds)
    assert leaking > 0.99 > honest + 0.02


def test_diagnoses_follow_the_labels(hospital):
    _, studies, labels, _, found = hospital
    hits = defaultdict(list)
    pairs = {"Pneumonia": "pneumonia", "Pleural Effusion": "pleural_effusion", "Pneumothorax": "pneumothorax",
             "Edema": "heart_failure", "Fracture": "rib_fracture", "Lung Lesion": "lung_mass"}  # fmt: skip
    for study_id, target in found.targets.items():
        for label, group in pairs.items():
            hits[label, labels[study_id][label] == 1.0].append(target.icd_groups[group])
    for label in pairs:
        assert np.mean(hits[label, True]) > 0.5 > 0.25 > np.mean(hits[label, False]), label


def test_studies_that_cannot_be_written_are_named(tmp_path):
    study = virtual_study(1)
    with pytest.raises(ValueError, match=f"study {study.study_id} has no labels"):
        write_virtual_ehr(tmp_path, tmp_path, [study], {})
    with pytest.raises(ValueError, match="occurs twice"):
        write_virtual_ehr(tmp_path, tmp_path, [study, study], {study.study_id: {}})
    assert not list(tmp_path.iterdir())
    assert write_virtual_ehr(tmp_path, tmp_path, [], {})["hosp/patients"] == 0
