"""Writes the electronic health record of virtual patients as the tables of MIMIC-IV and MIMIC-IV-ED.

    hosp/  patients admissions diagnoses_icd d_labitems labevents omr      .csv.gz, headers as on PhysioNet
    icu/   icustays d_items chartevents
    ed/    edstays triage vitalsign diagnosis medrecon pyxis

What the values mean is drawn in ``clinic``. The tables hold the traps of the real ones:

* rows charted after the study, and results stored after it, with the values that the illness stands for without noise:
  a reader that looks ahead predicts too well;
* admissions before the study (chronic conditions) and after it (codes of every illness);
* temperatures in Celsius, values that no body has, unknown units, units to convert, limits instead of numbers, repeated
  rows, urine and ascites under the labels of blood, rows of an emergency stay without admission id.

Item ids are not those of the real dictionaries, so that only a reader that looks them up finds the tests.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from common.data.virtual.clinic import (
    CHRONIC,
    ClinicalState,
    chief_complaint,
    chronic_names,
    clinical_state,
    diagnosis_codes,
    lab_values,
    vital_signs,
)
from common.data.virtual.files import save_csv
from common.data.virtual.geometry import stream
from common.data.virtual.patient import virtual_person
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

# Shares of: stays with Celsius, vital rows that no body has, repeated rows, troponin as a limit in the comments, sodium
# in an unknown unit, creatinine in umol/L, results that say "see comments".
CELSIUS, NO_BODY, REPEATED, LIMIT, ODD_UNIT, OTHER_UNIT, NO_NUMBER = 0.06, 0.04, 0.05, 0.3, 0.03, 0.05, 0.02
EARLIER_STAY, LATER_STAY = 0.8, 0.3

# Label in d_labitems: category, unit, share of the specimens in which it is measured.
LABS = {
    "White Blood Cells": ("Hematology", "K/uL", 0.9), "Neutrophils": ("Hematology", "%", 0.6),
    "Hemoglobin": ("Hematology", "g/dL", 0.9), "Platelet Count": ("Hematology", "K/uL", 0.9),
    "Sodium": ("Chemistry", "mEq/L", 0.95), "Potassium": ("Chemistry", "mEq/L", 0.95),
    "Bicarbonate": ("Chemistry", "mEq/L", 0.95), "Urea Nitrogen": ("Chemistry", "mg/dL", 0.95),
    "Creatinine": ("Chemistry", "mg/dL", 0.95), "Glucose": ("Chemistry", "mg/dL", 0.95),
    "Albumin": ("Chemistry", "g/dL", 0.5), "C-Reactive Protein": ("Chemistry", "mg/L", 0.4),
    "NTproBNP": ("Chemistry", "pg/mL", 0.5), "Troponin T": ("Chemistry", "ng/mL", 0.5),
    "D-Dimer": ("Chemistry", "ng/mL FEU", 0.25), "Lactate": ("Blood Gas", "mmol/L", 0.5),
}  # fmt: skip
# Reference range of an adult, in that unit.
REFERENCE: dict[str, tuple[float, float]] = {
    "White Blood Cells": (4.0, 11.0), "Neutrophils": (34, 71), "Hemoglobin": (12.0, 17.5), "Platelet Count": (150, 400),
    "Sodium": (133, 145), "Potassium": (3.3, 5.1), "Bicarbonate": (22, 32), "Urea Nitrogen": (6, 20),
    "Creatinine": (0.4, 1.2), "Glucose": (70, 180), "Albumin": (3.5, 5.2), "C-Reactive Protein": (0, 10),
    "NTproBNP": (0, 450), "Troponin T": (0, 0.01), "D-Dimer": (0, 500), "Lactate": (0.5, 2.0),
}  # fmt: skip
# Items that a careless look-up takes for the ones above: label, fluid, category, value, unit.
DECOYS = (
    ("Glucose", "Urine", "Chemistry", 1000, "mg/dL"),
    ("WBC", "Urine", "Hematology", 160, "#/hpf"),
    ("Albumin, Ascites", "Ascites", "Chemistry", 0.9, "g/dL"),
    ("Hemoglobin", "Blood", "Blood Gas", 3.9, "g/dL"),
)
# Name in VITAL_SIGNS: label in d_items, unit.
CHART_ITEMS = {
    "heartrate": ("Heart Rate", "bpm"), "resprate": ("Respiratory Rate", "insp/min"),
    "o2sat": ("O2 saturation pulseoxymetry", "%"), "temperature": ("Temperature Fahrenheit", "°F"),
    "sbp": ("Non Invasive Blood Pressure systolic", "mmHg"), "dbp": ("Non Invasive Blood Pressure diastolic", "mmHg"),
    "o2_device": ("O2 Delivery Device(s)", ""), "alarm": ("O2 Saturation Pulseoxymetry Alarm - Low", "%"),
}  # fmt: skip
FIRST_LAB_ITEM, FIRST_CHART_ITEM = 61_001, 261_001
_DEVICES = ("None", "Nasal cannula", "High flow nasal cannula", "Endotracheal tube")
_IMPOSSIBLE = {"o2sat": 10, "dbp": 879, "sbp": 11, "heartrate": 0}
_EVERY_GROUP = ("J189", "J90", "J939", "I2699", "I509", "J810", "S2242XA", "R918")

Row = dict[str, object]


def write_virtual_ehr(
    root_hosp: str | os.PathLike[str],
    root_ed: str | os.PathLike[str],
    studies: Sequence[VirtualStudy],
    labels: Mapping[int, Mapping[str, float | None]],
) -> dict[str, int]:
    """Write the tables; the same studies and labels give the same bytes.

    Args:
        root_hosp: folder that gets ``hosp`` and ``icu``; tables that are there are replaced.
        root_ed: folder that gets ``ed``.
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
        root = root_ed if name.startswith("ed/") else root_hosp
        save_csv(Path(root) / f"{name}.csv.gz", columns.split(","), chart.rows[name])
    return {name: len(chart.rows[name]) for name in COLUMNS}


class Chart:
    """Rows of all tables so far.

    Args:
        taken: ids of admissions and stays that belong to studies.
    """

    def __init__(self, taken: set[int]) -> None:
        self.rows: dict[str, list[Row]] = defaultdict(list)
        self._taken = set(taken)
        self._lab_items = {name: FIRST_LAB_ITEM + i for i, name in enumerate(LABS)}
        for name, (category, _, _) in LABS.items():
            self.add("hosp/d_labitems", itemid=self._lab_items[name], label=name, fluid="Blood", category=category)
        for i, (label, fluid, category, _, _) in enumerate(DECOYS):
            itemid = FIRST_LAB_ITEM + 900 + i
            self.add("hosp/d_labitems", itemid=itemid, label=label, fluid=fluid, category=category)
        # A second item of the same test, as the real dictionary has.
        self._second_wbc = FIRST_LAB_ITEM + 990
        self.add(
            "hosp/d_labitems", itemid=self._second_wbc, label="White Blood Cells", fluid="Blood", category="Chemistry"
        )
        self._chart_items = {name: FIRST_CHART_ITEM + i for i, name in enumerate(CHART_ITEMS)}
        for name, (label, unit) in CHART_ITEMS.items():
            self.add(
                "icu/d_items", itemid=self._chart_items[name], label=label, abbreviation=label, linksto="chartevents",
                category="Routine Vital Signs", unitname=unit, param_type="Numeric" if unit else "Text",
            )  # fmt: skip

    def add(self, table: str, **row: object) -> None:
        """Add a row; columns that are not given stay blank."""
        self.rows[table].append(row)

    def new_id(self, first_digit: int, *key: object) -> int:
        """Return an id that no study's stay has."""
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        number = first_digit * 10_000_000 + int.from_bytes(digest[:6], "big") % 10_000_000
        while number in self._taken:
            number += 1
        self._taken.add(number)
        return number

    def add_patient(self, studies: Sequence[VirtualStudy], labels: Mapping[int, Mapping[str, float | None]]) -> None:
        """Add everything about one patient.

        Args:
            studies: of this patient, in the order of time.
            labels: study id -> CheXpert label -> value.
        """
        first, last = studies[0], studies[-1]
        sex, age = virtual_person(first.seed)
        rng = stream(first.seed, "chart")
        chronic = chronic_names(age, labels[first.study_id], rng)
        year = first.study_time.year
        self.add(
            "hosp/patients", subject_id=first.subject_id, gender=sex, anchor_age=91 if age > 89 else age,
            anchor_year=year, anchor_year_group="2014 - 2016",
        )  # fmt: skip
        if chronic and rng.random() < EARLIER_STAY:
            begin = _minute(first.study_time - timedelta(days=float(rng.uniform(30, 700))))
            version = 9 if rng.random() < 0.5 else 10
            codes = [CHRONIC[name][0 if version == 9 else 1] for name in chronic]
            self._add_stay_without_study(first, begin, codes, version, "earlier")
        if rng.random() < LATER_STAY:
            begin = _minute(last.study_time + timedelta(days=float(rng.uniform(400, 900))))
            self._add_stay_without_study(first, begin, _EVERY_GROUP, 10, "later")
        self._add_omr(studies, sex, rng)
        for study in studies:
            self._add_study(study, clinical_state(study, labels[study.study_id]), chronic, sex)

    def _add_stay_without_study(
        self, study: VirtualStudy, begin: datetime, codes: Sequence[str], version: int, name: str
    ) -> None:
        """An emergency stay that ends in an admission; its values are those of somebody very ill."""
        hadm, stay = self.new_id(2, study.seed, name), self.new_id(3, study.seed, name)
        rng = stream(study.seed, f"chart {name}")
        outtime, end = begin + timedelta(hours=5), begin + timedelta(days=4)
        self._add_admission(study, hadm, outtime - timedelta(minutes=20), end, (begin, outtime))
        self._add_edstay(study, stay, hadm, begin, outtime, virtual_person(study.seed)[0], "AMBULANCE")
        ill = vital_signs(ClinicalState(infected=True, pneumothorax=True), rng, noise=0)
        self._add_triage(study, stay, ill, 1, "Transfer")
        labs = lab_values(ClinicalState(infected=True, congested=True), rng, noise=0)
        charted = begin + timedelta(minutes=40)
        self._add_specimen(study, hadm, charted, charted + timedelta(minutes=50), labs, rng, traps=False)
        self._add_codes(study, hadm, stay, codes, version)

    def _add_study(self, study: VirtualStudy, state: ClinicalState, chronic: tuple[str, ...], sex: str) -> None:
        if study.stay_id is None and study.hadm_id is None:
            return
        rng = stream(study.seed, f"chart/{study.scan}")
        time = study.study_time
        hours = rng.uniform(0.6, 5) if study.stay_id else rng.uniform(6, 90)
        begin = _minute(time - timedelta(hours=float(hours)))
        outtime = _minute(time + timedelta(hours=float(rng.uniform(0.7, 6))))
        admittime = outtime - timedelta(minutes=20) if study.stay_id else begin
        end = _minute(outtime + timedelta(days=float(rng.uniform(2, 8))))
        if study.hadm_id:
            self._add_admission(study, study.hadm_id, admittime, end, (begin, outtime) if study.stay_id else None)
        plain = replace(state, marked=1.0)
        certain, later = vital_signs(plain, rng, noise=0), lab_values(plain, rng, noise=0)
        if study.stay_id:
            transport = "AMBULANCE" if rng.random() < 0.25 + 0.2 * state.severity else "WALK IN"
            self._add_edstay(study, study.stay_id, study.hadm_id, begin, outtime, sex, transport)
            acuity = int(np.clip(3 - state.severity + rng.integers(-1, 2), 1, 5))
            self._add_triage(study, study.stay_id, vital_signs(state, rng), acuity, chief_complaint(state, rng))
            self._add_emergency_vitals(study, state, begin, certain, rng)
            self._add_medicines(study, state, chronic, begin, rng)
        self._add_labs(study, state, begin, later, rng)
        if study.hadm_id and (state.devices or state.severity >= 2):
            intime = begin + 0.1 * (time - begin) if study.stay_id is None else admittime + timedelta(hours=1)
            self._add_intensive_care(study, state, _minute(intime), end, certain, rng)
        version = 9 if rng.random() < 0.4 else 10
        self._add_codes(study, study.hadm_id, study.stay_id, diagnosis_codes(state, chronic, version, rng), version)

    def _add_admission(
        self,
        study: VirtualStudy,
        hadm: int,
        begin: datetime,
        end: datetime,
        emergency: tuple[datetime, datetime] | None,
    ) -> None:
        self.add(
            "hosp/admissions", subject_id=study.subject_id, hadm_id=hadm, admittime=begin, dischtime=end,
            admission_type="EW EMER." if emergency else "URGENT", admit_provider_id="P00VRT",
            admission_location="EMERGENCY ROOM" if emergency else "PHYSICIAN REFERRAL", discharge_location="HOME",
            insurance="Other", language="ENGLISH", race="UNKNOWN", edregtime=emergency[0] if emergency else "",
            edouttime=emergency[1] if emergency else "", hospital_expire_flag=0,
        )  # fmt: skip

    def _add_edstay(
        self, study: VirtualStudy, stay: int, hadm: int | None, intime: datetime, outtime: datetime, sex: str,
        transport: str,
    ) -> None:  # fmt: skip
        self.add(
            "ed/edstays", subject_id=study.subject_id, hadm_id=hadm, stay_id=stay, intime=intime, outtime=outtime,
            gender=sex, race="UNKNOWN", arrival_transport=transport, disposition="ADMITTED" if hadm else "HOME",
        )  # fmt: skip

    def _add_triage(
        self, study: VirtualStudy, stay: int, vitals: dict[str, float], acuity: int, complaint: str
    ) -> None:
        texts = {name: f"{value:g}" for name, value in vitals.items()}
        self.add(
            "ed/triage", subject_id=study.subject_id, stay_id=stay, **texts, acuity=acuity, chiefcomplaint=complaint
        )

    def _add_emergency_vitals(
        self, study: VirtualStudy, state: ClinicalState, begin: datetime, certain: dict[str, float],
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        time, in_celsius = study.study_time, rng.random() < CELSIUS
        before = [begin + part * (time - begin) for part in (0.3, 0.8)]
        after = [time + timedelta(minutes=minutes) for minutes in (10, 40)]
        for charted in before + after:
            values = vital_signs(state, rng) if charted < time else dict(certain)
            if in_celsius:
                values["temperature"] = round((values["temperature"] - 32) / 1.8, 1)
            if rng.random() < NO_BODY:
                name = list(_IMPOSSIBLE)[rng.integers(len(_IMPOSSIBLE))]
                values[name] = _IMPOSSIBLE[name]
            texts = {name: f"{value:g}" for name, value in values.items()}
            if rng.random() < 0.1:
                texts["pain"] = "unable"
            row = {"subject_id": study.subject_id, "stay_id": study.stay_id, "charttime": _minute(charted), **texts}
            for _ in range(2 if rng.random() < REPEATED else 1):
                self.add("ed/vitalsign", **row)

    def _add_medicines(
        self, study: VirtualStudy, state: ClinicalState, chronic: tuple[str, ...], begin: datetime,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        charted = _minute(begin + 0.4 * (study.study_time - begin))
        later = _minute(study.study_time + timedelta(minutes=45))
        own = {"subject_id": study.subject_id, "stay_id": study.stay_id}
        for name in chronic:
            self.add("ed/medrecon", **own, charttime=charted, name=CHRONIC[name][2], gsn="0", ndc="0", etc_rn=1)
        self.add("ed/medrecon", **own, charttime=later, name="charted after the study", gsn="0", ndc="0", etc_rn=1)
        given = [(charted, "Acetaminophen")] if rng.random() < 0.4 else []
        given += [(later, "CefTRIAXone")] if state.infected else []
        given += [(later, "Furosemide")] if state.congested else []
        for i, (moment, name) in enumerate(given, 1):
            self.add("ed/pyxis", **own, charttime=moment, med_rn=i, name=name, gsn_rn=1, gsn="000001")

    def _add_labs(
        self, study: VirtualStudy, state: ClinicalState, begin: datetime, certain: dict[str, float],
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """One specimen in time, one whose results are stored after the study, one taken after it."""
        time = study.study_time
        span = time - begin
        moments = (
            (begin + 0.15 * span, begin + 0.6 * span, lab_values(state, rng)),
            (begin + 0.7 * span, time + timedelta(minutes=30), certain),
            (time + timedelta(hours=1), time + timedelta(hours=2), certain),
        )
        # Laboratories often do not know yet that a patient of the emergency department will be admitted.
        hadm = study.hadm_id if study.stay_id is None or rng.random() < 0.5 else None
        for charted, stored, values in moments:
            self._add_specimen(study, hadm, _minute(charted), _minute(stored), values, rng)

    def _add_specimen(
        self, study: VirtualStudy, hadm: int | None, charted: datetime, stored: datetime, values: dict[str, float],
        rng: np.random.Generator, traps: bool = True,
    ) -> None:  # fmt: skip
        specimen = len(self.rows["hosp/labevents"]) + 1
        shared = {"subject_id": study.subject_id, "hadm_id": hadm, "specimen_id": specimen, "charttime": charted,
                  "storetime": stored, "priority": "STAT" if study.stay_id else "ROUTINE"}  # fmt: skip

        def add(
            itemid: int, value: float, unit: str, comments: str = "", limits: tuple[float, float] | None = None
        ) -> None:
            number = "" if comments else value
            low, high = limits or ("", "")
            abnormal = limits is not None and not comments and not limits[0] <= value <= limits[1]
            self.add(
                "hosp/labevents", labevent_id=len(self.rows["hosp/labevents"]) + 1, **shared, itemid=itemid,
                value=number, valuenum=number, valueuom=unit, ref_range_lower=low, ref_range_upper=high,
                flag="abnormal" if abnormal else "", comments=comments,
            )  # fmt: skip

        for name, (_, unit, share) in LABS.items():
            chance = rng.random(2) if traps else np.ones(2)
            if traps and chance[0] >= share:
                continue
            itemid, value, odd, limits = self._lab_items[name], values[name], chance[1], REFERENCE[name]
            if name == "White Blood Cells" and odd < 0.3:
                itemid = self._second_wbc
            if name == "Troponin T" and value < 0.01:
                remark = "<0.01.  Above 0.10 ng/mL, think of infarction." if odd < LIMIT else "<0.01."
                add(itemid, value, unit, remark, limits)
            elif name == "Creatinine" and odd < OTHER_UNIT:
                add(itemid, round(value * 88.42, 1), "umol/L", limits=tuple(round(x * 88.42) for x in limits))
            elif name == "Sodium" and odd < ODD_UNIT:
                add(itemid, value, "arb")
            elif name == "Potassium" and odd < NO_BODY:
                add(itemid, 77, unit, limits=limits)
            elif name == "Glucose" and odd < NO_NUMBER:
                add(itemid, value, unit, "___")
            else:
                add(itemid, value, unit, limits=limits)
                if odd > 1 - REPEATED and traps:
                    add(itemid, value, unit, limits=limits)
        for i, (*_, value, unit) in enumerate(DECOYS):
            if traps and rng.random() < 0.3:
                add(FIRST_LAB_ITEM + 900 + i, value, unit)

    def _add_intensive_care(
        self, study: VirtualStudy, state: ClinicalState, intime: datetime, end: datetime, certain: dict[str, float],
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        time, stay = study.study_time, self.new_id(3, study.seed, study.scan, "icu")
        outtime = end - timedelta(hours=12)
        unit = "Medical Intensive Care Unit (MICU)"
        self.add(
            "icu/icustays", subject_id=study.subject_id, hadm_id=study.hadm_id, stay_id=stay, first_careunit=unit,
            last_careunit=unit, intime=intime, outtime=outtime, los=(outtime - intime).total_seconds() / 86_400,
        )  # fmt: skip
        own = {"subject_id": study.subject_id, "hadm_id": study.hadm_id, "stay_id": stay, "caregiver_id": 10_001,
               "warning": 0}  # fmt: skip
        before = [intime + part * (time - intime) for part in (0.3, 0.7)] if intime < time else []
        after = [max(time, intime) + timedelta(minutes=minutes) for minutes in (15, 75)]
        device = 3 if state.devices and rng.random() < 0.6 else min(state.severity, 2)
        for moment in before + after:
            charted = _minute(moment)
            stored = charted + timedelta(minutes=5)
            numbers = (vital_signs(state, rng) if charted < time else certain) | {"alarm": 88}
            text = _DEVICES[device] if charted < time else "T-piece"  # a device that is charted only after studies
            for name, (_, text_unit) in CHART_ITEMS.items():
                number = f"{numbers[name]:g}" if name in numbers else ""
                self.add(
                    "icu/chartevents", **own, charttime=charted, storetime=stored, itemid=self._chart_items[name],
                    value=number or text, valuenum=number, valueuom=text_unit,
                )  # fmt: skip

    def _add_omr(self, studies: Sequence[VirtualStudy], sex: str, rng: np.random.Generator) -> None:
        """Height and weight of earlier days, of the day of each study and of days after it."""
        inches = float(rng.normal(69.5 if sex == "M" else 64, 2.8))
        pounds = float(rng.normal(27.5, 5) * (inches * 0.0254) ** 2 / 0.45359237)
        days = [-int(day) for day in sorted(rng.integers(20, 900, size=2), reverse=True)]
        for study in studies:
            for day in [*days, 0, 30] if study is studies[0] else [0, 30]:
                date = (study.study_time + timedelta(days=day)).date()
                weight = pounds + float(rng.normal(0, 3))
                if day < 0 and rng.random() < NO_BODY:
                    weight = 0.5
                elif day >= 0 and study is studies[-1]:
                    weight = 600  # which no study must know
                height = inches * 0.0254
                found = {"Height (Inches)": f"{inches:.1f}", "Weight (Lbs)": f"{weight:.1f}",
                         "BMI (kg/m2)": f"{weight * 0.45359237 / height**2:.1f}"}  # fmt: skip
                for name, text in found.items():
                    self.add(
                        "hosp/omr", subject_id=study.subject_id, chartdate=date, seq_num=1, result_name=name,
                        result_value=text,
                    )  # fmt: skip

    def _add_codes(
        self, study: VirtualStudy, hadm: int | None, stay: int | None, codes: Sequence[str], version: int
    ) -> None:
        own = {"subject_id": study.subject_id, "icd_version": version}
        for i, code in enumerate(codes, 1):
            if hadm:
                self.add("hosp/diagnoses_icd", **own, hadm_id=hadm, seq_num=i, icd_code=code)
            if stay and i <= 3:
                self.add("ed/diagnosis", **own, stay_id=stay, seq_num=i, icd_code=code, icd_title=f"VIRTUAL {code}")


def _minute(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)
