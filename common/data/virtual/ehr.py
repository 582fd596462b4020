"""Writes the electronic health record of virtual patients as the tables of MIMIC-IV and MIMIC-IV-ED.

    ROOT/hosp/  patients admissions diagnoses_icd d_labitems labevents omr      .csv.gz, headers as on PhysioNet
    ROOT/icu/   icustays d_items chartevents
    ROOT/ed/    edstays triage vitalsign diagnosis medrecon pyxis

What the values mean is drawn in ``virtual_clinic``. The tables hold the traps of the real ones (``virtual_chart``):

* rows charted after the study, and results stored after it, with the values that the illness stands for without noise:
  a reader that looks ahead predicts too well;
* admissions before the study (chronic conditions) and after it (codes of every illness);
* temperatures in Celsius, values that no body has, unknown units, units to convert, limits instead of numbers, repeated
  rows, urine and ascites under the labels of blood, rows of an emergency stay without admission id.

Item ids are not those of the real dictionaries, so that only a reader that looks them up finds the tests.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.virtual.chart import Chart
from common.data.virtual.files import save_csv
from common.data.virtual.study import VirtualStudy

COLUMNS = {
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "hosp/admissions": (
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
    ),
    "hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "hosp/d_labitems": "itemid,label,fluid,category",
    "hosp/labevents": (
        "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,"
        "valueuom,ref_range_lower,ref_range_upper,flag,priority,comments"
    ),
    "hosp/omr": "subject_id,chartdate,seq_num,result_name,result_value",
    "icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "icu/d_items": "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,highnormalvalue",
    "icu/chartevents": (
        "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning"
    ),
    "ed/edstays": "subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition",
    "ed/triage": "subject_id,stay_id,temperature,heartrate,resprate,o2sat,sbp,dbp,pain,acuity,chiefcomplaint",
    "ed/vitalsign": "subject_id,stay_id,charttime,temperature,heartrate,resprate,o2sat,sbp,dbp,rhythm,pain",
    "ed/diagnosis": "subject_id,stay_id,seq_num,icd_code,icd_version,icd_title",
    "ed/medrecon": "subject_id,stay_id,charttime,name,gsn,ndc,etc_rn,etccode,etcdescription",
    "ed/pyxis": "subject_id,stay_id,charttime,med_rn,name,gsn_rn,gsn",
}
"""Table -> its header."""


def write_virtual_ehr(
    root: str | os.PathLike[str],
    studies: Sequence[VirtualStudy],
    labels: Mapping[int, Mapping[str, float | None]],
) -> dict[str, int]:
    """Write the tables; the same studies and labels give the same bytes.

    Args:
        root: folder that gets ``hosp``, ``icu`` and ``ed``; their tables are replaced.
        studies: the studies, several of one patient allowed.
        labels: study id -> CheXpert label -> 1.0, 0.0, -1.0 or None.

    Returns:
        Table -> number of rows.

    Raises:
        ValueError: if a study occurs twice or has no labels.
    """
    by_seed: dict[int, list[VirtualStudy]] = defaultdict(list)
    for study in studies:
        if study.study_id not in labels:
            raise ValueError(f"study {study.study_id} has no labels, expected those of its X-ray.")
        if study in by_seed[study.seed]:
            raise ValueError(f"study {study.study_id} occurs twice, expected every study once.")
        by_seed[study.seed].append(study)
    chart = Chart({number for study in studies for number in (study.hadm_id, study.stay_id) if number})
    for own in sorted(by_seed.values(), key=lambda own: own[0].subject_id):
        chart.add_patient(sorted(own, key=lambda study: study.study_time), labels)
    for name, columns in COLUMNS.items():
        save_csv(Path(root) / f"{name}.csv.gz", columns.split(","), chart.rows[name])
    return {name: len(chart.rows[name]) for name in COLUMNS}
