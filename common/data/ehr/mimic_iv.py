"""What MIMIC-IV and MIMIC-IV-ED knew about a patient at the time of a chest X-ray.

    mimic-iv/hosp/  patients, admissions, diagnoses_icd, d_labitems, labevents, omr        .csv or .csv.gz
    mimic-iv/icu/   d_items, chartevents
    mimic-iv-ed/ed/ edstays, triage, vitalsign, diagnosis, medrecon, pyxis

    >>> studies = [Study(10000032, 50414267, datetime(2180, 5, 6, 21, 30))]
    >>> found = read_contexts("mimic-iv", "mimic-iv-ed", studies)
    >>> found.contexts[study_id].labs["Creatinine"].latest

Every table is streamed once for all studies. A context holds only what was charted, and where the table says so stored,
at the time of the study or before, in the stay that contains it (rules in ``mimic_stays``); diagnoses are context only
if their stay had ended, those of the current stay are the target.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.data.ehr.context import ContextReport, EHRContext, EHRTarget, Observation
from common.data.ehr.icd import CHRONIC_CONDITIONS, ICD_GROUPS, icd_groups
from common.data.ehr.mimic_events import Case, EventReader
from common.data.ehr.mimic_items import chart_items, lab_items
from common.data.ehr.mimic_stays import (
    Admission,
    EmergencyStay,
    Encounter,
    Patient,
    find_encounter,
    read_admissions,
    read_emergency_stays,
    read_patients,
)
from common.data.ehr.mimic_tables import find_table
from common.data.ehr.vital_signs import VITAL_SIGNS
from common.io.bad_input import BadInput
from common.io.table import DamagedTable, TableCounts, plain_id

TABLES = {
    "hosp/patients": (), "hosp/admissions": (), "hosp/d_labitems": (), "hosp/omr": (),
    "hosp/labevents": ("hosp/d_labitems",), "hosp/diagnoses_icd": ("hosp/admissions",),
    "icu/d_items": (), "icu/chartevents": ("icu/d_items",),
    "ed/edstays": (), "ed/triage": ("ed/edstays",), "ed/vitalsign": ("ed/edstays",), "ed/medrecon": ("ed/edstays",),
    "ed/pyxis": ("ed/edstays",), "ed/diagnosis": ("ed/edstays",),
}  # fmt: skip
"""The tables that are read -> those that each of them is worthless without."""


@dataclass(frozen=True)
class Study:
    """A study of MIMIC-CXR: patient, study and the time of its first image, on the shifted calendar of the patient."""

    subject_id: int
    study_id: int
    study_time: datetime


@dataclass(frozen=True)
class EHRRead:
    """The outcome of one reading, each by study id in the order of the studies.

    Attributes:
        contexts: what was known.
        targets: diagnoses of the stay; studies whose stay has none are missing.
        encounters: the stay that contains the study; studies without one are missing.
        report: counts.
    """

    contexts: dict[int, EHRContext]
    targets: dict[int, EHRTarget]
    encounters: dict[int, Encounter]
    report: ContextReport


def read_contexts(
    root_hosp: str | os.PathLike[str], root_ed: str | os.PathLike[str] | None, studies: Iterable[Study]
) -> EHRRead:
    """Gather the context of every study, in memory that grows with the studies (about 14 KB each), not the tables.

    Args:
        root_hosp: the folder that holds ``hosp`` and ``icu``.
        root_ed: the folder that holds ``ed``; None without MIMIC-IV-ED.
        studies: of any patients, in any order.

    Returns:
        Contexts, targets, stays and counts. A study whose patient has no row in patients has none of them and is
        listed in the report. Of a damaged event table the part before the damage is used, and the report says so.

    Raises:
        BadInput: if a table that is needed is missing, lacks a column, or is damaged and no event table.
        ValueError: if a study id occurs twice, or an id is no int.
    """
    paths = _find_tables(root_hosp, root_ed)
    studies = list(studies)
    subjects = {str(study.subject_id) for study in studies}
    report = ContextReport(studies=len(studies), missing_tables=[name for name in TABLES if name not in paths])
    report.tables = {name: TableCounts() for name in TABLES if name in paths}

    stays: dict[str, dict] = {}
    for name, read in _STAYS.items():
        stays[name] = read(paths[name], subjects, report.tables[name]) if name in paths else {}
    admissions, emergency = stays["hosp/admissions"], stays["ed/edstays"]
    cases = _make_cases(studies, stays["hosp/patients"], emergency, admissions, report)

    reader = EventReader(cases, report)
    passes: dict[str, Callable[[Path], None]] = {
        "ed/triage": reader.read_triage,
        "ed/vitalsign": reader.read_vitalsign,
        "ed/medrecon": lambda path: reader.read_medicines("ed/medrecon", path, "home_medicines"),
        "ed/pyxis": lambda path: reader.read_medicines("ed/pyxis", path, "given_medicines"),
        "ed/diagnosis": lambda path: reader.read_ed_diagnosis(path, emergency, admissions),
        "hosp/diagnoses_icd": lambda path: reader.read_diagnoses_icd(path, admissions),
        "hosp/omr": reader.read_omr,
    }
    if "hosp/labevents" in paths:
        tests = lab_items(paths["hosp/d_labitems"], report.tables["hosp/d_labitems"])
        passes["hosp/labevents"] = lambda path: reader.read_labevents(path, tests)
    if "icu/chartevents" in paths:
        items = chart_items(paths["icu/d_items"], report.tables["icu/d_items"])
        passes["icu/chartevents"] = lambda path: reader.read_chartevents(path, items)
    for name, read in passes.items():
        if name in paths:
            try:
                read(paths[name])
            except DamagedTable as error:
                report.problems.append(error)
    return _finish(cases, emergency, admissions, report)


def parse_study_time(study_date: str, study_time: str) -> datetime:
    """Read StudyDate and StudyTime of the metadata table of MIMIC-CXR.

    Args:
        study_date: ``21800506``.
        study_time: hours, minutes, seconds as one number, ``213014.531``; zeros in front are lost, ``93014.0`` is
            09:30:14 and ``14.0`` is 14 seconds past midnight.

    Returns:
        The moment, to the microsecond.

    Raises:
        ValueError: if either is something else.
    """
    whole, _, fraction = study_time.strip().partition(".")
    date = plain_id(study_date)
    if len(date) != 8 or len(whole) > 6 or not all(p.isascii() and p.isdigit() for p in (date, whole, fraction or "0")):
        raise ValueError(f"StudyDate {study_date!r}, StudyTime {study_time!r} are not like '21800506', '213014.531'.")
    try:
        return datetime.strptime(f"{date} {whole:0>6}.{fraction:0<6.6}", "%Y%m%d %H%M%S.%f")
    except ValueError as error:
        raise ValueError(f"StudyDate {study_date!r}, StudyTime {study_time!r} are no moment.") from error


_STAYS = {"hosp/patients": read_patients, "hosp/admissions": read_admissions, "ed/edstays": read_emergency_stays}


def _find_tables(root_hosp: str | os.PathLike[str], root_ed: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Table -> path, of those that are there; a table that is needed and missing raises a BadInput that names it."""
    roots = {name: root_ed if name.startswith("ed/") else root_hosp for name in TABLES}
    found = {name: find_table(root, name) for name, root in roots.items()}
    paths = {name: path for name, path in found.items() if path is not None}

    def missing(name: str, why: str) -> BadInput:
        return BadInput(Path(roots[name] or root_hosp) / f"{name}.csv.gz", f"is missing, {why}")

    if "hosp/patients" not in paths:
        raise missing("hosp/patients", "expected it as .csv or .csv.gz")
    if "hosp/admissions" not in paths and "ed/edstays" not in paths:
        raise missing("hosp/admissions", "expected it or ed/edstays, without which no study has a stay")
    for name, others in TABLES.items():
        for other in others:
            if name in paths and other not in paths:
                raise missing(other, f"expected it because {name} cannot be used without it")
    return paths


def _make_cases(
    studies: Sequence[Study],
    patients: Mapping[int, Patient],
    emergency: Mapping[int, Sequence[EmergencyStay]],
    admissions: Mapping[int, Sequence[Admission]],
    report: ContextReport,
) -> list[Case]:
    cases = []
    seen = set()
    for study in studies:
        subject = study.subject_id
        if not isinstance(subject, int) or not isinstance(study.study_id, int):
            raise ValueError(f"study {study.study_id!r} of subject {subject!r}: expected both ids as int.")
        if study.study_id in seen:
            raise ValueError(f"study {study.study_id} occurs twice, expected every study once.")
        seen.add(study.study_id)
        if subject not in patients:
            report.excluded.append((study.study_id, f"patient {subject} has no usable row in patients"))
            continue
        encounter = find_encounter(study.study_time, emergency.get(subject, ()), admissions.get(subject, ()))
        cases.append(Case(study.study_id, subject, study.study_time, patients[subject], encounter))
        report.without_stay += encounter is None
        if encounter:
            report.in_emergency_stay += encounter.emergency is not None
            report.in_admission += encounter.admission is not None
            report.overlaps += encounter.overlap
    report.contexts = len(cases)
    return cases


def _finish(
    cases: Iterable[Case],
    emergency: Mapping[int, Sequence[EmergencyStay]],
    admissions: Mapping[int, Sequence[Admission]],
    report: ContextReport,
) -> EHRRead:
    read = EHRRead({}, {}, {}, report)
    for case in cases:
        here = case.encounter
        n_earlier = _count_earlier(case, emergency.get(case.subject_id, ()), admissions.get(case.subject_id, ()))
        context = read.contexts[case.study_id] = _context(case, n_earlier)
        case.vitals.clear()  # else the values of all studies would be in memory twice
        case.labs.clear()
        for field, value in vars(context).items():
            if isinstance(value, dict):
                report.filled.update(value.keys())
            elif value not in (None, (), 0) and field not in ("subject_id", "study_id", "study_time"):
                report.filled[field] += 1
        if here:
            read.encounters[case.study_id] = here
            if case.target_codes:
                stay_id = here.emergency.stay_id if here.emergency else None
                codes = tuple(sorted(case.target_codes))
                read.targets[case.study_id] = EHRTarget(here.hadm_id, stay_id, icd_groups(codes), codes)
    report.with_target = len(read.targets)
    return read


def _context(case: Case, n_earlier_stays: int) -> EHRContext:
    here = case.encounter
    arrival = here.emergency.arrival_transport.strip() if here and here.emergency else ""
    device = next(iter(case.devices.items()), None)
    return EHRContext(
        subject_id=case.subject_id,
        study_id=case.study_id,
        study_time=case.time,
        setting=here.setting if here else None,
        hours_since_arrival=_hours(case.time, here.begin) if here else None,
        age=case.patient.age_in(case.time.year),
        sex=case.patient.sex,
        arrival_transport=arrival or None,
        chief_complaint=case.chief_complaint,
        acuity=case.acuity,
        vitals={name: case.vitals[name].series(case.time) for name in VITAL_SIGNS if name in case.vitals},
        labs={name: track.series(case.time) for name, track in sorted(case.labs.items())},
        o2_device=Observation("; ".join(sorted(device[1])), device[0], _hours(case.time, device[0]))
        if device
        else None,
        home_medicines=tuple(sorted(case.home_medicines)),
        given_medicines=tuple(sorted(case.given_medicines)),
        body={name: value for name, (_, value) in sorted(case.body.items())},
        chronic_conditions=tuple(name for name in CHRONIC_CONDITIONS if name in case.chronic),
        earlier_icd_groups=tuple(name for name in ICD_GROUPS if name in case.earlier_groups),
        n_earlier_stays=n_earlier_stays,
    )


def _count_earlier(case: Case, emergency: Sequence[EmergencyStay], admissions: Sequence[Admission]) -> int:
    """Count the stays that had ended before; an emergency stay that led to an admission is counted as that."""
    ended = [row for row in admissions if row.dischtime <= case.time]
    ended += [row for row in emergency if row.hadm_id is None and row.outtime <= case.time]
    here = case.encounter
    return len(ended) - sum(row in (here.admission, here.emergency) for row in ended) if here else len(ended)


def _hours(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds() / 3600
