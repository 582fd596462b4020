"""One pass over each event table of MIMIC-IV(-ED), handing every row to the studies that may know it.

A row is known to a study if it was charted during the study's stay, not after the study, and, where the table has a
storetime, stored not after it: a blood sample taken before an X-ray whose result came later was no help in reading it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from common.data.ehr.context import ContextReport, Measurement, Series
from common.data.ehr.icd import CHRONIC_CONDITIONS, ICD_GROUPS, matching, normalise_icd
from common.data.ehr.mimic_items import LabTest, read_lab
from common.data.ehr.mimic_stays import Admission, EmergencyStay, Encounter, Patient
from common.data.ehr.mimic_tables import UniqueRows, parse_id, parse_number, parse_time
from common.data.ehr.vital_signs import ED_VITALS, VITAL_SIGNS, body_temperature
from common.io.table import TableCounts, plain_id, stream_rows

_BODY = {"Height (Inches)": ("height", "cm", 2.54), "Weight (Lbs)": ("weight", "kg", 0.45359237)}
_BODY |= {name: ("bmi", "kg/m2", 1.0) for name in ("BMI (kg/m2)", "BMI")}
_BODY_BOUNDS = {"height": (100, 250), "weight": (20, 400), "bmi": (8, 120)}

_FLAGS = ("", "abnormal")


@dataclass(slots=True, order=True)
class Value:
    """One value of a variable; two are the same, or ordered, by all but the laboratory's opinion of it."""

    charted: datetime
    stored: datetime
    number: float
    comparator: str
    unit: str
    low: float | None = field(default=None, compare=False)
    high: float | None = field(default=None, compare=False)
    flag: str = field(default="", compare=False)


@dataclass(slots=True)
class Track:
    """The first and the last value of one variable; its size does not depend on how many there were."""

    first: Value
    latest: Value
    count: int = 1

    def series(self, time: datetime) -> Series:
        """Return first, latest and count, each value with its hours to a study at ``time``."""
        return Series(measurement(self.first, time), measurement(self.latest, time), self.count)


@dataclass(slots=True)
class Case:
    """A study, its patient and stay, and what has been gathered for it."""

    study_id: int
    subject_id: int
    time: datetime
    patient: Patient
    encounter: Encounter | None
    vitals: dict[str, Track] = field(default_factory=dict)
    labs: dict[str, Track] = field(default_factory=dict)
    devices: dict[datetime, set[str]] = field(default_factory=dict)
    home_medicines: set[str] = field(default_factory=set)
    given_medicines: set[str] = field(default_factory=set)
    body: dict[str, tuple[tuple[datetime, int, float], Measurement]] = field(default_factory=dict)
    chief_complaint: str | None = None
    acuity: int | None = None
    chronic: set[str] = field(default_factory=set)
    earlier_groups: set[str] = field(default_factory=set)
    target_codes: set[tuple[str, int]] = field(default_factory=set)


def measurement(value: Value, time: datetime) -> Measurement:
    """Return a value with its distance to a study at ``time``."""
    hours = (time - value.charted).total_seconds() / 3600
    reference = (value.low, value.high, value.flag)
    return Measurement(value.number, value.unit, value.charted, hours, value.comparator, *reference)


class EventReader:
    """Reads event tables for a set of studies.

    Args:
        cases: the studies; what is found is added to them.
        report: counts are added to it.
    """

    def __init__(self, cases: Iterable[Case], report: ContextReport) -> None:
        self.report = report
        self.of_subject: dict[str, list[Case]] = defaultdict(list)
        self.in_encounter: dict[str, list[Case]] = defaultdict(list)
        self.of_stay: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            self.of_subject[str(case.subject_id)].append(case)
            if case.encounter:
                self.in_encounter[str(case.subject_id)].append(case)
                if case.encounter.emergency:
                    self.of_stay[str(case.encounter.emergency.stay_id)].append(case)

    def read_triage(self, path: Path) -> None:
        """Read ed/triage, which has no time of its own: it is charted when the stay begins."""
        counts = self._counts("ed/triage")
        found = UniqueRows(counts)
        columns = ("subject_id", "stay_id", "acuity", "chiefcomplaint", *ED_VITALS)
        for row in stream_rows(path, columns, {"stay_id": self.of_stay}, counts):
            if self._same_patient(row[1], row[0], counts):
                found.add(int(row[1]), row)
        for _, stay, acuity, complaint, *texts in found.rows.values():
            cases = self.of_stay[stay]
            intime = cases[0].encounter.emergency.intime
            self._add_vitals("ed/triage", cases, intime, dict(zip(ED_VITALS, texts, strict=True)))
            level = parse_number(acuity)
            if acuity and level not in (1, 2, 3, 4, 5):
                self._refuse("ed/triage", "acuity", "no number")
                level = None
            for case in cases:
                case.acuity = None if level is None else int(level)
                case.chief_complaint = complaint.strip() or None

    def read_vitalsign(self, path: Path) -> None:
        """Read ed/vitalsign."""
        name = "ed/vitalsign"
        for stay, charted, *texts in self._of_stay(name, path, ED_VITALS):
            cases = self._before(name, self.of_stay[stay], charted, charted)
            if cases:
                self._add_vitals(name, cases, charted, dict(zip(ED_VITALS, texts, strict=True)))

    def read_medicines(self, name: str, path: Path, attribute: str) -> None:
        """Read ed/medrecon, the medicines taken before arrival, or ed/pyxis, those given out there, into a field."""
        for stay, charted, medicine in self._of_stay(name, path, ("name",)):
            if medicine.strip():
                for case in self._before(name, self.of_stay[stay], charted, charted):
                    self.report.used[name] += 1
                    getattr(case, attribute).add(medicine.strip())

    def read_labevents(self, path: Path, items: Mapping[str, LabTest]) -> None:
        """Read hosp/labevents, of which the rows of an emergency stay often name no admission."""
        name = "hosp/labevents"
        columns = ("hadm_id", "flag", "value", "valuenum", "valueuom", "comments", "ref_range_lower", "ref_range_upper")
        for subject, itemid, charted, stored, hadm, flag, *texts in self._of_items(name, path, items, columns):
            cases = self._before(name, self._during(subject, charted, hadm), charted, stored)
            if not cases:
                continue
            test = items[itemid]
            reading = read_lab(test, *texts)
            if reading.refused:
                unit = f" [{texts[2]}]" if reading.refused == "unknown unit" else ""
                self._refuse(name, f"{test.name}{unit}", reading.refused)
            else:
                for limit in texts[-2:]:
                    if limit.strip() and parse_number(limit) is None:
                        self._refuse(name, f"{test.name} reference range", "no number")
                if flag not in _FLAGS:
                    self._refuse(name, f"{test.name} flag {flag!r}", "unknown flag")
                    flag = ""
                known = (charted, stored, reading.value, reading.comparator, test.unit)
                value = Value(*known, reading.low, reading.high, flag)
                for case in cases:
                    self._add(name, case.labs, test.name, value)

    def read_chartevents(self, path: Path, items: Mapping[str, str]) -> None:
        """Read icu/chartevents: vital signs and the oxygen device of intensive care."""
        name = "icu/chartevents"
        columns = ("hadm_id", "value", "valuenum", "valueuom")
        for subject, itemid, charted, stored, hadm, text, number, unit in self._of_items(name, path, items, columns):
            cases = self._before(name, self._during(subject, charted, hadm), charted, stored)
            if not cases:
                continue
            variable = items[itemid]
            if variable == "o2_device":
                for case in cases:
                    self._add_device(name, case, charted, text.strip())
                continue
            value = self._vital(name, variable, number or text, "C" if unit.strip().endswith("C") else "F")
            if value is not None:
                for case in cases:
                    known = Value(charted, stored, value, "", VITAL_SIGNS[variable].unit)
                    self._add(name, case.vitals, variable, known)

    def read_omr(self, path: Path) -> None:
        """Read hosp/omr: height, weight and body mass index of earlier days (it has dates without times)."""
        name = "hosp/omr"
        counts = self._counts(name)
        columns = ("subject_id", "chartdate", "seq_num", "result_name", "result_value")
        for subject, date, seq_num, label, text in stream_rows(path, columns, {"subject_id": self.of_subject}, counts):
            if label not in _BODY:
                continue
            day, number = parse_time(f"{date} 00:00:00"), parse_number(text)
            if day is None:
                counts.bad["unreadable time"] += 1
                continue
            cases = [case for case in self.of_subject[subject] if day.date() < case.time.date()]
            self.report.after_study[name] += len(self.of_subject[subject]) - len(cases)
            if not cases:
                continue
            variable, unit, factor = _BODY[label]
            low, high = _BODY_BOUNDS[variable]
            if number is None:
                self._refuse(name, variable, "no number")
            elif not low <= number * factor <= high:
                self._refuse(name, variable, "out of bounds")
            else:
                key = (day, parse_id(seq_num) or 0, number)
                for case in cases:
                    self.report.used[name] += 1
                    if variable not in case.body or key > case.body[variable][0]:
                        value = Value(day, day, number * factor, "", unit)
                        case.body[variable] = key, measurement(value, case.time)

    def read_diagnoses_icd(self, path: Path, admissions: Mapping[int, Sequence[Admission]]) -> None:
        """Read hosp/diagnoses_icd: codes of ended admissions are history, those of the current one are the target."""
        ends = {str(row.hadm_id): row.dischtime for rows in admissions.values() for row in rows}
        for subject, hadm, code in self._diagnoses("hosp/diagnoses_icd", path, "hadm_id"):
            for case in self.of_subject[subject]:
                current = case.encounter is not None and str(case.encounter.hadm_id) == hadm
                ended = hadm in ends and ends[hadm] <= case.time
                self._add_code("hosp/diagnoses_icd", case, code, current, ended)

    def read_ed_diagnosis(
        self,
        path: Path,
        stays: Mapping[int, Sequence[EmergencyStay]],
        admissions: Mapping[int, Sequence[Admission]],
    ) -> None:
        """Read ed/diagnosis: codes of ended stays are history, unless the admission they led to has not ended."""
        ends = {row.hadm_id: row.dischtime for rows in admissions.values() for row in rows}
        by_id = {str(stay.stay_id): stay for rows in stays.values() for stay in rows}
        for subject, stay_id, code in self._diagnoses("ed/diagnosis", path, "stay_id"):
            stay = by_id.get(stay_id)
            for case in self.of_subject[subject]:
                current = ended = False
                if stay is not None:
                    here = case.encounter
                    current = here is not None and (
                        stay == here.emergency or (stay.hadm_id is not None and stay.hadm_id == here.hadm_id)
                    )
                    over = stay.hadm_id is None or (stay.hadm_id in ends and ends[stay.hadm_id] <= case.time)
                    ended = stay.outtime <= case.time and over
                self._add_code("ed/diagnosis", case, code, current, ended)

    def _counts(self, name: str) -> TableCounts:
        return self.report.tables.setdefault(name, TableCounts())

    def _same_patient(self, stay: str, subject: str, counts: TableCounts) -> bool:
        if str(self.of_stay[stay][0].subject_id) == subject:
            return True
        counts.bad["subject_id is not that of the stay"] += 1
        return False

    def _of_stay(self, name: str, path: Path, columns: Sequence[str]) -> Iterable[tuple]:
        """Rows of the wanted emergency stays: stay, time, then the columns."""
        counts = self._counts(name)
        keep = {"stay_id": self.of_stay}
        for subject, stay, charttime, *rest in stream_rows(
            path, ("subject_id", "stay_id", "charttime", *columns), keep, counts
        ):
            charted = parse_time(charttime)
            if charted is None:
                counts.bad["unreadable time"] += 1
            elif self._same_patient(stay, subject, counts):
                yield stay, charted, *rest

    def _of_items(self, name: str, path: Path, items: Mapping[str, object], columns: Sequence[str]) -> Iterable[tuple]:
        """Rows of wanted patients and items: subject, item, when charted, when stored, then the columns."""
        counts = self._counts(name)
        keep = {"subject_id": self.in_encounter, "itemid": items}
        wanted = ("subject_id", "itemid", "charttime", "storetime", *columns)
        for subject, itemid, charttime, storetime, *rest in stream_rows(path, wanted, keep, counts):
            charted = parse_time(charttime)
            stored = parse_time(storetime) if storetime else charted
            if charted is None or stored is None:
                counts.bad["unreadable time"] += 1
            else:
                yield subject, itemid, charted, stored, *rest

    def _during(self, subject: str, charted: datetime, hadm: str) -> list[Case]:
        """Cases in whose stay a row was charted; a row that names another admission is not of that stay."""
        return [
            case
            for case in self.in_encounter[subject]
            if case.encounter.begin <= charted <= case.encounter.end
            and not (hadm and case.encounter.hadm_id is not None and hadm != str(case.encounter.hadm_id))
        ]

    def _before(self, name: str, cases: list[Case], charted: datetime, stored: datetime) -> list[Case]:
        """Cases that knew a row: it was charted and stored at the time of the study or before."""
        known = [case for case in cases if charted <= case.time and stored <= case.time]
        if len(known) < len(cases):
            self.report.after_study[name] += len(cases) - len(known)
        return known

    def _add(self, name: str, tracks: dict[str, Track], variable: str, value: Value) -> None:
        track = tracks.get(variable)
        if track is None:
            tracks[variable] = Track(value, value)
        elif value in (track.first, track.latest):
            self.report.repeated[name] += 1
            return
        else:
            track.first, track.latest = min(track.first, value), max(track.latest, value)
            track.count += 1
        self.report.used[name] += 1

    def _add_vitals(self, name: str, cases: list[Case], charted: datetime, texts: Mapping[str, str]) -> None:
        """Add the vital signs of one row; a systolic pressure not above the diastolic one drops both."""
        values = {vital: self._vital(name, vital, text, "F") for vital, text in texts.items() if text.strip()}
        if values.get("sbp") is not None and values.get("dbp") is not None and values["dbp"] >= values["sbp"]:
            self._refuse(name, "dbp not below sbp", "out of bounds")
            values["sbp"] = values["dbp"] = None
        for vital, value in values.items():
            if value is not None:
                for case in cases:
                    known = Value(charted, charted, value, "", VITAL_SIGNS[vital].unit)
                    self._add(name, case.vitals, vital, known)

    def _refuse(self, name: str, what: str, why: str) -> None:
        """Count a value of a table that cannot be used."""
        of_why = {
            "no number": self.report.not_a_number,
            "unknown unit": self.report.unknown_unit,
            "out of bounds": self.report.out_of_bounds,
            "unknown flag": Counter(),  # only the flag is not used
        }
        of_why[why][what] += 1
        self.report.refused.setdefault(name, Counter())[f"{what}: {why}"] += 1

    def _vital(self, name: str, vital: str, text: str, unit: str) -> float | None:
        """A charted number in the unit of ``VITAL_SIGNS``, None (and counted) if it is none that a body can have."""
        number = parse_number(text)
        if number is None:
            self._refuse(name, vital, "no number")
            return None
        if vital == "temperature":
            known = body_temperature(number)
            if known is not None:
                if known[1] != unit:
                    self.report.other_unit[vital] += 1
                return known[0]
        elif VITAL_SIGNS[vital].low <= number <= VITAL_SIGNS[vital].high:
            return number
        self._refuse(name, vital, "out of bounds")
        return None

    def _add_device(self, name: str, case: Case, charted: datetime, text: str) -> None:
        """Keep the devices of the latest moment; a patient may have several at once."""
        if not text:
            return
        self.report.used[name] += 1
        if not case.devices or charted > next(iter(case.devices)):
            case.devices = {charted: {text}}
        elif charted in case.devices:
            case.devices[charted].add(text)

    def _diagnoses(self, name: str, path: Path, key: str) -> Iterable[tuple[str, str, tuple[str, int]]]:
        """Subject, id of the stay, and (code, version) of the rows of wanted patients."""
        counts = self._counts(name)
        columns = ("subject_id", key, "icd_code", "icd_version")
        for subject, stay, code, version in stream_rows(path, columns, {"subject_id": self.of_subject}, counts):
            version = plain_id(version)
            if version not in ("9", "10"):
                counts.bad["icd_version is neither 9 nor 10"] += 1
            elif not code.strip():
                counts.bad["icd_code is blank"] += 1
            else:
                yield subject, stay, (normalise_icd(code), int(version))

    def _add_code(self, name: str, case: Case, code: tuple[str, int], current: bool, ended: bool) -> None:
        if current:
            case.target_codes.add(code)
        elif ended:
            self.report.used[name] += 1
            case.chronic |= matching([code], CHRONIC_CONDITIONS)
            case.earlier_groups |= matching([code], ICD_GROUPS)
        else:
            self.report.after_study[name] += 1
