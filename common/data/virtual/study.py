"""The ids and the time of a virtual patient's X-ray study, as MIMIC-CXR and MIMIC-IV write them.

    >>> study = virtual_study(seed=7)
    >>> study.subject_id, study.study_id, study.stay_id
    (16543992, 53390268, 38413777)

A person keeps one subject id over all scans; every scan is a study of its own. The tables of MIMIC-IV name the hospital
admission (``hadm_id``) and the emergency stay (``stay_id``) that contain the study; a study may have both, one or none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

MAX_SEEDS = 1_000_000
MAX_SCANS = 10

_SPACE = 10_000_000
# A multiplier that shares no factor with 10**7 permutes 0..9999999: ids are spread and never collide.
_MULTIPLIERS = {"subject": 6_180_339, "study": 7_320_509, "hadm": 4_142_137, "stay": 2_360_679}
_OFFSETS = {"subject": 13_281_619, "study": 50_954_638, "hadm": 27_182_819, "stay": 33_166_247}
# Of 100 studies: in an emergency stay that ends in an admission, in one that does not, in an admission from
# elsewhere; the rest are of outpatients.
_IN_BOTH, _IN_EMERGENCY_ONLY, _IN_ADMISSION_ONLY = 60, 20, 12


@dataclass(frozen=True)
class VirtualStudy:
    """One virtual X-ray study.

    Attributes:
        seed: the patient's seed.
        scan: which scan of this patient.
        subject_id: 1xxxxxxx, the same for every scan of a seed.
        study_id: 5xxxxxxx.
        dicom_id: the frontal image's id, five groups of eight hex digits.
        hadm_id: 2xxxxxxx, the hospital admission that contains the study, None if none does.
        stay_id: 3xxxxxxx, the emergency stay that contains it, None if none does.
        study_time: when it was taken, in a year from 2110 to 2200, whole milliseconds.
    """

    seed: int
    scan: int
    subject_id: int
    study_id: int
    dicom_id: str
    hadm_id: int | None
    stay_id: int | None
    study_time: datetime


def virtual_study(seed: int, scan: int = 0) -> VirtualStudy:
    """Return the study of scan ``scan`` of virtual patient ``seed``; later scans lie two months or more apart.

    Args:
        seed: 0 to 999,999.
        scan: 0 to 9.

    Raises:
        ValueError: if an argument is outside its range.
    """
    _check("seed", seed, MAX_SEEDS)
    _check("scan", scan, MAX_SCANS)
    index = seed * MAX_SCANS + scan
    kind = _hash(seed, scan, "kind") % 100
    emergency = kind < _IN_BOTH + _IN_EMERGENCY_ONLY
    admitted = kind < _IN_BOTH or _IN_BOTH + _IN_EMERGENCY_ONLY <= kind < (
        _IN_BOTH + _IN_EMERGENCY_ONLY + _IN_ADMISSION_ONLY
    )
    return VirtualStudy(
        seed=seed,
        scan=scan,
        subject_id=_id("subject", seed),
        study_id=_id("study", index),
        dicom_id=virtual_dicom_id(seed, scan),
        hadm_id=_id("hadm", index) if admitted else None,
        stay_id=_id("stay", index) if emergency else None,
        study_time=_study_time(seed, scan),
    )


def virtual_dicom_id(seed: int, scan: int = 0, view: str = "PA") -> str:
    """Return the id of one image of a study, five groups of eight hex digits; ``VirtualStudy`` has that of the PA."""
    digits = hashlib.sha256(f"{seed}/{scan}/dicom/{view}".encode()).hexdigest()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


def study_date_and_time(time: datetime) -> tuple[str, str]:
    """Return StudyDate and StudyTime as the MIMIC-CXR metadata table has them.

    Args:
        time: when the study was taken.

    Returns:
        ``("21800506", "93014.531")``: the time as a number, so that the zeros before the hour are lost.
    """
    clock = int(time.strftime("%H%M%S"))
    return time.strftime("%Y%m%d"), f"{clock}.{time.microsecond // 1000:03d}"


def _check(name: str, value: int, limit: int) -> None:
    if isinstance(value, bool) or int(value) != value or not 0 <= value < limit:
        raise ValueError(f"{name} {value} is not a whole number from 0 to {limit - 1}.")


def _hash(*parts: object) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _id(kind: str, index: int) -> int:
    leading = _OFFSETS[kind] // _SPACE * _SPACE
    return leading + (index * _MULTIPLIERS[kind] + _OFFSETS[kind]) % _SPACE


def _study_time(seed: int, scan: int) -> datetime:
    """A first day between 2110 and 2190, then one study after another, at any time of the day."""
    day = datetime(2110, 1, 1) + timedelta(days=_hash(seed, "first day") % (80 * 365))
    for k in range(1, scan + 1):
        day += timedelta(days=60 + _hash(seed, k, "gap") % 240)
    return day + timedelta(milliseconds=_hash(seed, scan, "time") % (24 * 3600 * 1000))
