"""Small tables of MIMIC-IV with the real headers, written row by row."""

import csv
import gzip
from datetime import datetime
from pathlib import Path

from common.data.ehr.context import EHRContext
from common.data.ehr.mimic_iv import Study, read_contexts
from common.data.virtual.ehr import COLUMNS

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "layouts"
DEMO = SHARED / "mimic-iv-demo-2.2"
DEMO_ED = SHARED / "mimic-iv-ed-demo-2.2"

SUBJECT, HADM, STAY = 10000001, 20000001, 30000001
NOON = datetime(2150, 3, 5, 12, 0, 0)
STUDY = Study(SUBJECT, 50000001, NOON)


def write_table(root, name, rows, packed=False):
    path = Path(root) / f"{name}.csv{'.gz' if packed else ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if packed else open)(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[name].split(","), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def patient(**other):
    return {"subject_id": SUBJECT, "gender": "F", "anchor_age": 60, "anchor_year": 2148} | other


def admission(**other):
    own = {"subject_id": SUBJECT, "hadm_id": HADM, "admittime": "2150-03-05 14:00:00"}
    return own | {"dischtime": "2150-03-09 10:00:00", "edregtime": "2150-03-05 09:00:00"} | other


def edstay(**other):
    own = {"subject_id": SUBJECT, "hadm_id": HADM, "stay_id": STAY, "intime": "2150-03-05 09:00:00"}
    return own | {"outtime": "2150-03-05 15:00:00", "gender": "F", "arrival_transport": "AMBULANCE"} | other


def triage(**other):
    values = {"temperature": 100.4, "heartrate": 110, "resprate": 22, "o2sat": 91, "sbp": 140, "dbp": 80, "pain": 3}
    return {"subject_id": SUBJECT, "stay_id": STAY, **values, "acuity": 2, "chiefcomplaint": "Cough"} | other


def vital(charttime, **values):
    return {"subject_id": SUBJECT, "stay_id": STAY, "charttime": charttime} | values


def lab(charttime, value, itemid=1, **other):
    own = {"subject_id": SUBJECT, "itemid": itemid, "charttime": charttime, "value": value, "valuenum": value}
    return own | {"valueuom": "K/uL"} | other


def chart(charttime, itemid, value, unit="", **other):
    own = {"subject_id": SUBJECT, "hadm_id": HADM, "stay_id": 39999999, "charttime": charttime, "itemid": itemid}
    return own | {"value": value, "valuenum": value, "valueuom": unit} | other


def code(icd_code, hadm_id=HADM, icd_version=10, **other):
    return {"subject_id": SUBJECT, "hadm_id": hadm_id, "seq_num": 1, "icd_code": icd_code,
            "icd_version": icd_version} | other  # fmt: skip


LAB_ITEMS = [
    {"itemid": 1, "label": "White Blood Cells", "fluid": "Blood", "category": "Hematology"},
    {"itemid": 2, "label": "White Blood Cells", "fluid": "Blood", "category": "Chemistry"},
    {"itemid": 3, "label": "White Blood Cells", "fluid": "Ascites", "category": "Hematology"},
    {"itemid": 4, "label": "Creatinine", "fluid": "Blood", "category": "Chemistry"},
    {"itemid": 5, "label": "Troponin T", "fluid": "Blood", "category": "Chemistry"},
    {"itemid": 6, "label": "Hemoglobin", "fluid": "Blood", "category": "Blood Gas"},
    {"itemid": 7, "label": "pH", "fluid": "Blood", "category": "Blood Gas"},
]
CHART_ITEMS = [
    {"itemid": 91, "label": "Heart Rate", "linksto": "chartevents"},
    {"itemid": 92, "label": "O2 Delivery Device(s)", "linksto": "chartevents"},
    {"itemid": 93, "label": "Temperature Celsius", "linksto": "chartevents"},
    {"itemid": 94, "label": "Heart Rate", "linksto": "procedureevents"},
    {"itemid": 95, "label": "Arterial Blood Pressure systolic", "linksto": "chartevents"},
]


def write_record(root, packed=False, **tables):
    """Write patients, admissions, edstays, triage and the dictionaries, with others as ``hosp_labevents=[...]``."""
    found = {
        "hosp/patients": [patient()], "hosp/admissions": [admission()], "ed/edstays": [edstay()],
        "ed/triage": [triage()], "hosp/d_labitems": LAB_ITEMS, "icu/d_items": CHART_ITEMS,
    }  # fmt: skip
    found |= {name.replace("_", "/", 1): rows for name, rows in tables.items()}
    for name, rows in found.items():
        if rows is not None:
            write_table(root, name, rows, packed)
    return root


def read(root, *studies, **options):
    """What `read_contexts` finds in a record, by default of `STUDY`."""
    return read_contexts(root, root, studies or [STUDY], **options)


def context(root, **options) -> EHRContext:
    """What was known of `STUDY`."""
    return read(root, **options).contexts[STUDY.study_id]


def latest(series):
    """Name -> latest value."""
    return {name: found.latest.value for name, found in series.items()}
