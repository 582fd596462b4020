"""What was known about a patient when an X-ray was taken, and the report on how it was gathered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from common.io.bad_input import BadInput
from common.io.table import TableCounts


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value.

    Attributes:
        value: the number in ``unit``; the limit of the measuring range if ``comparator`` is not blank.
        unit: e.g. "mg/dL", "C" for degrees Celsius.
        charted: when it was taken.
        hours: from then to the study, at least 0.
        comparator: "", "<" or ">".
        low: lower limit of the laboratory's reference range, in ``unit``; None if it states none.
        high: its upper limit.
        flag: "abnormal" if the laboratory calls it so, else "".
    """

    value: float
    unit: str
    charted: datetime
    hours: float
    comparator: str = ""
    low: float | None = None
    high: float | None = None
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one variable since the patient arrived and before the study.

    Attributes:
        first: the earliest value.
        latest: the last one before the study.
        count: how many there are, repeated rows not counted.
    """

    first: Measurement
    latest: Measurement
    count: int


@dataclass(frozen=True, slots=True)
class Observation:
    """One charted text, e.g. the oxygen device.

    Attributes:
        text: as charted; several at the same moment are joined by "; ".
        charted: when.
        hours: from then to the study, at least 0.
    """

    text: str
    charted: datetime
    hours: float


@dataclass(frozen=True)
class EHRContext:
    """What was known about a patient when a study was taken. Nothing in it was charted or stored later.

    Diagnoses of the current stay are missing on purpose: they are coded after discharge, and knew the X-ray. So are
    the ids of the admission, which would tell that a patient of the emergency department was later admitted.

    Attributes:
        subject_id: the patient.
        study_id: the study.
        study_time: when it was taken.
        setting: "emergency" or "hospital", None if no stay contains the study.
        hours_since_arrival: from the beginning of that stay (the emergency part included) to the study.
        age: years in the year of the study; 91 stands for every age above 89, as in MIMIC.
        sex: "F" or "M", None if not stated.
        arrival_transport: e.g. "AMBULANCE".
        chief_complaint: as charted at triage.
        acuity: emergency severity index, 1 (worst) to 5.
        vitals: name in ``VITAL_SIGNS`` -> values of this stay.
        labs: name in ``LAB_TESTS`` -> values of this stay.
        o2_device: the last oxygen device charted in an intensive care unit.
        home_medicines: what the patient took before arrival, names sorted.
        given_medicines: what the dispensing cabinet of the emergency department gave out, names sorted.
        body: "height" (cm), "weight" (kg) and "bmi" (kg/m2), the last of an earlier day.
        chronic_conditions: names in ``CHRONIC_CONDITIONS``, from diagnoses of stays that had ended.
        earlier_icd_groups: names in ``ICD_GROUPS``, from the same diagnoses.
        n_earlier_stays: admissions and emergency stays without admission that had ended.
    """

    subject_id: int
    study_id: int
    study_time: datetime
    setting: str | None = None
    hours_since_arrival: float | None = None
    age: int | None = None
    sex: str | None = None
    arrival_transport: str | None = None
    chief_complaint: str | None = None
    acuity: int | None = None
    vitals: Mapping[str, Series] = field(default_factory=dict)
    labs: Mapping[str, Series] = field(default_factory=dict)
    o2_device: Observation | None = None
    home_medicines: tuple[str, ...] = ()
    given_medicines: tuple[str, ...] = ()
    body: Mapping[str, Measurement] = field(default_factory=dict)
    chronic_conditions: tuple[str, ...] = ()
    earlier_icd_groups: tuple[str, ...] = ()
    n_earlier_stays: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as dicts, tuples, numbers and text, ready for JSON; a time is `2150-03-05 09:00:00`."""

        def plain(fields: list[tuple[str, Any]]) -> dict[str, Any]:
            return {name: v.isoformat(sep=" ") if isinstance(v, datetime) else v for name, v in fields}

        return asdict(self, dict_factory=plain)


@dataclass(frozen=True)
class EHRTarget:
    """The diagnoses of the stay that contains a study: what a model may be asked for, never what it is given.

    Attributes:
        hadm_id: the admission, None if the patient was not admitted.
        stay_id: the emergency stay, None if there was none.
        icd_groups: 0 or 1 for each of ``ICD_GROUPS``.
        codes: (code, version) of both, sorted.
    """

    hadm_id: int | None
    stay_id: int | None
    icd_groups: Mapping[str, int]
    codes: tuple[tuple[str, int], ...]


@dataclass
class ContextReport:
    """Counts of one reading; a value counts once for every study that could have used it.

    Attributes:
        studies: studies asked for.
        contexts: studies with a context.
        in_emergency_stay: studies whose stay has an emergency part in edstays.
        in_admission: studies inside an admission (its emergency part included).
        without_stay: contexts that no stay contains: age, sex and history only.
        overlaps: studies that more than one emergency stay or more than one admission contains.
        with_target: studies whose stay has diagnosis codes.
        filled: field or variable -> contexts that have it.
        tables: table -> rows read, rows selected, and reason -> rows that could not be used.
        missing_tables: optional tables that are not there.
        used: table -> values that were used.
        after_study: table -> values of the stay charted or stored after the study, and codes of stays that had not
            ended, not used.
        repeated: table -> rows equal in time and value to one that was used.
        out_of_bounds: variable -> values that no body can have, dropped.
        other_unit: variable -> values taken to be in the unit that the table does not use (Celsius).
        unknown_unit: "variable [unit]" -> values refused.
        not_a_number: variable -> texts where a number was expected, dropped.
        refused: table -> what is wrong -> values that `out_of_bounds`, `unknown_unit` and `not_a_number` count.
        excluded: (study_id, reason) of the studies without a context.
        problems: damaged tables, of which only the part before the damage was used.
    """

    studies: int = 0
    contexts: int = 0
    in_emergency_stay: int = 0
    in_admission: int = 0
    without_stay: int = 0
    overlaps: int = 0
    with_target: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    tables: dict[str, TableCounts] = field(default_factory=dict)
    missing_tables: list[str] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    after_study: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    out_of_bounds: Counter[str] = field(default_factory=Counter)
    other_unit: Counter[str] = field(default_factory=Counter)
    unknown_unit: Counter[str] = field(default_factory=Counter)
    not_a_number: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    excluded: list[tuple[int, str]] = field(default_factory=list)
    problems: list[BadInput] = field(default_factory=list)

    def left_out(self) -> dict[str, dict[str, int]]:
        """Table -> reason -> rows or values that were there and could not be used, of the tables that have any."""
        found = {name: counts.bad + self.refused.get(name, Counter()) for name, counts in self.tables.items()}
        if self.excluded:
            found["hosp/patients"]["no row of the patient of a study, which has no note"] = len(self.excluded)
        return {name: dict(sorted(reasons.items())) for name, reasons in found.items() if reasons}
