"""The stays of MIMIC-IV(-ED), and which of them contains a study.

Rules, in this order; intervals contain both their ends:

1. The emergency stay is the one with intime <= t <= outtime; of several the one that began last.
2. An admission contains t if its beginning <= t <= dischtime. It begins with edregtime, its time in the emergency
   department, if that is given and earlier than admittime. The one that the emergency stay names comes first, then one
   whose admittime is past, then the one that was admitted last.
3. If only an admission contains t, the emergency stay that led to it (that names it and began before t) belongs to it.

The *last* admission of a patient is never looked for: it may be years after the study.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from common.data.ehr.mimic_tables import UniqueRows, parse_id, parse_time
from common.io.table import TableCounts, stream_rows

TOP_AGE = 91
"""MIMIC's stand-in for every age above 89."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A row of patients: sex "F", "M" or None, and the age (None if not stated) in the anchor year."""

    sex: str | None
    anchor_age: int | None
    anchor_year: int | None

    def age_in(self, year: int) -> int | None:
        """Return the age in a year, ``TOP_AGE`` above 89; None if unknown or below 0.

        Who is above 89 in the anchor year stays ``TOP_AGE`` in every year, as the true age is not known.
        """
        if self.anchor_age is None or self.anchor_year is None:
            return None
        if self.anchor_age >= TOP_AGE:
            return TOP_AGE
        age = self.anchor_age + year - self.anchor_year
        return None if age < 0 else TOP_AGE if age > 89 else age


@dataclass(frozen=True, slots=True)
class EmergencyStay:
    """A row of edstays."""

    subject_id: int
    stay_id: int
    hadm_id: int | None
    intime: datetime
    outtime: datetime
    arrival_transport: str


@dataclass(frozen=True, slots=True)
class Admission:
    """A row of admissions; ``begin`` is the earlier of edregtime and admittime."""

    subject_id: int
    hadm_id: int
    admittime: datetime
    dischtime: datetime
    begin: datetime


@dataclass(frozen=True, slots=True)
class Encounter:
    """The stay that contains a study: an emergency stay, an admission, or both as one.

    Attributes:
        setting: where the patient was at that moment, "emergency" or "hospital".
        begin: arrival, the earlier of the two beginnings.
        end: the later of the two ends.
        emergency: the emergency stay or None.
        admission: the admission or None.
        hadm_id: its id, known even if admissions has no such row.
        overlap: whether more than one emergency stay or admission contains the study.
    """

    setting: str
    begin: datetime
    end: datetime
    emergency: EmergencyStay | None
    admission: Admission | None
    hadm_id: int | None
    overlap: bool


def find_encounter(
    time: datetime, emergency_stays: Sequence[EmergencyStay], admissions: Sequence[Admission]
) -> Encounter | None:
    """Return the stay that contains a moment, None if there is none.

    Args:
        time: the moment.
        emergency_stays: all of one patient.
        admissions: all of the same patient.
    """
    inside = [stay for stay in emergency_stays if stay.intime <= time <= stay.outtime]
    emergency = _last_begun(inside)
    around = [row for row in admissions if row.begin <= time <= row.dischtime]
    named = emergency.hadm_id if emergency else None
    admission = max(around, key=lambda row: (row.admittime <= time, row.admittime, -row.hadm_id), default=None)
    if named is not None:
        # It need not have begun yet; if it has no row, the one that contains the moment stays.
        admission = next((row for row in admissions if row.hadm_id == named and row.dischtime >= time), admission)
    elif emergency is None and admission is not None:
        emergency = _last_begun(
            [stay for stay in emergency_stays if stay.hadm_id == admission.hadm_id and stay.intime <= time]
        )
    spans = [(stay.intime, stay.outtime) for stay in (emergency,) if stay]
    spans += [(row.begin, row.dischtime) for row in (admission,) if row]
    if not spans:
        return None
    in_department = bool(inside) or (admission is not None and time < admission.admittime)
    return Encounter(
        setting="emergency" if in_department else "hospital",
        begin=min(begin for begin, _ in spans),
        end=max(end for _, end in spans),
        emergency=emergency,
        admission=admission,
        hadm_id=admission.hadm_id if admission else named,
        overlap=len(inside) > 1 or len(around) > 1,
    )


def _last_begun(stays: Sequence[EmergencyStay]) -> EmergencyStay | None:
    return max(stays, key=lambda stay: (stay.intime, -stay.stay_id), default=None)


def read_patients(path: Path, subjects: Collection[str], counts: TableCounts) -> dict[int, Patient]:
    """Subject -> its row of the table patients; ids that `UniqueRows` refuses are left out, bad rows counted.

    Raises:
        BadInput: if the table cannot be read as a whole.
    """
    found = UniqueRows(counts)
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    for subject, gender, age, year in stream_rows(path, columns, {"subject_id": subjects}, counts):
        known_age, known_year = parse_id(age), parse_id(year)
        if known_age is None or known_year is None:
            counts.bad["age or year is not a number, age unknown"] += 1
        if gender not in ("F", "M"):
            counts.bad["gender is neither F nor M, sex unknown"] += 1
        patient = Patient(gender if gender in ("F", "M") else None, known_age, known_year)
        found.add(int(subject), patient)
    return found.rows


def read_emergency_stays(path: Path, subjects: Collection[str], counts: TableCounts) -> dict[int, list[EmergencyStay]]:
    """Subject -> its rows of the table edstays; ids that `UniqueRows` refuses are left out, bad rows counted.

    Raises:
        BadInput: if the table cannot be read as a whole.
    """
    found = UniqueRows(counts)
    columns = ("subject_id", "stay_id", "hadm_id", "intime", "outtime", "arrival_transport")
    for subject, stay, hadm, intime, outtime, transport in stream_rows(path, columns, {"subject_id": subjects}, counts):
        times, stay_id = _interval(intime, outtime, counts), parse_id(stay)
        if stay_id is None or (hadm and parse_id(hadm) is None):
            counts.bad["stay_id or hadm_id is not an id"] += 1
        elif times:
            found.add(stay_id, EmergencyStay(int(subject), stay_id, parse_id(hadm), *times, transport))
    return _by_subject(found.rows)


def read_admissions(path: Path, subjects: Collection[str], counts: TableCounts) -> dict[int, list[Admission]]:
    """Subject -> its rows of the table admissions; ids that `UniqueRows` refuses are left out, bad rows counted.

    Raises:
        BadInput: if the table cannot be read as a whole.
    """
    found = UniqueRows(counts)
    columns = ("subject_id", "hadm_id", "admittime", "dischtime", "edregtime")
    for subject, hadm, admittime, dischtime, edregtime in stream_rows(path, columns, {"subject_id": subjects}, counts):
        times, hadm_id = _interval(admittime, dischtime, counts), parse_id(hadm)
        registered = parse_time(edregtime)
        if edregtime and registered is None:
            counts.bad["unreadable edregtime, not used"] += 1
        if hadm_id is None:
            counts.bad["hadm_id is not an id"] += 1
        elif times:
            admission = Admission(int(subject), hadm_id, *times, min(registered or times[0], times[0]))
            found.add(hadm_id, admission)
    return _by_subject(found.rows)


def _interval(begin: str, end: str, counts: TableCounts) -> tuple[datetime, datetime] | None:
    times = parse_time(begin), parse_time(end)
    if times[0] is None or times[1] is None:
        counts.bad["unreadable time"] += 1
        return None
    if times[1] < times[0]:
        counts.bad["ends before it begins"] += 1
        return None
    return times[0], times[1]


def _by_subject(rows: Mapping[int, Any]) -> dict[int, list]:
    found = defaultdict(list)
    for row in rows.values():
        found[row.subject_id].append(row)
    return dict(found)
