"""What a study's context becomes in ehr.jsonl: the latest value of each variable, and the ICD groups of the stay."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from common.data.ehr.context import EHRContext, EHRTarget, Measurement, Observation, Series
from common.data.ehr.icd import CHRONIC_CONDITIONS, ICD_GROUPS, normalise_icd
from common.data.ehr.mimic_items import LAB_TESTS
from common.data.ehr.vital_signs import VITAL_SIGNS
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.reasoning import ehr_lines
from common.text.redaction import REDACTED, find_leaks, redact

__all__ = ["check_record", "diagnoses_in", "ehr_record"]

_TERMS = (*CHEXPERT_LABELS, "Pulmonary Embolism")
_KEYS = (
    "study", "patient", "age", "sex", "chief_complaint", "vitals", "labs", "o2_device", "chronic_conditions", "icd",
)  # fmt: skip
_BOUNDS = {
    "vitals": {vital.name: (vital.low, vital.high) for vital in VITAL_SIGNS.values()},
    "labs": {test.name: (test.low, test.high) for test in LAB_TESTS},
}
_WORD = re.compile(r"[A-Za-z]?\d[\w.]*")
_PREFIXES = tuple(
    prefix
    for groups in (ICD_GROUPS, CHRONIC_CONDITIONS)
    for versions in groups.values()
    for prefixes in versions.values()
    for prefix in prefixes
)


def ehr_record(context: EHRContext, target: EHRTarget | None) -> dict[str, Any]:
    """A line of ehr.jsonl, but for the study and patient that it begins with.

    Args:
        context: what was known.
        target: diagnoses of the stay.

    Returns:
        ``age``, ``sex``, ``chief_complaint`` (if one is charted; terms of diagnoses and codes are [REDACTED]),
        ``vitals`` and ``labs`` (name, value, unit, hours before the study; of a test its flag and reference range, and
        the comparator of a limit), ``o2_device``, ``chronic_conditions``, and ``icd``: groups of the stay, None if it
        has no codes. Only ``icd`` was not known at the time of the study.

    Raises:
        ValueError: if anything in the context was charted after the study.
    """
    record: dict[str, Any] = {"age": context.age, "sex": context.sex}
    if context.chief_complaint:
        record["chief_complaint"] = _without_diagnoses(context.chief_complaint)
    record["vitals"] = [_latest(context, name, series) for name, series in context.vitals.items()]
    record["labs"] = [
        _latest(context, name, series) | {key: getattr(series.latest, key) for key in ("flag", "low", "high")}
        for name, series in context.labs.items()
    ]
    device = context.o2_device
    if device is not None:
        _check_time(context, "o2_device", device)
    record["o2_device"] = None if device is None else {"text": device.text, "hours": round(device.hours, 2)}
    record["chronic_conditions"] = list(context.chronic_conditions)
    record["icd"] = None if target is None else [name for name in ICD_GROUPS if target.icd_groups[name]]
    return record


def check_record(record: Mapping[str, Any]) -> None:
    """Refuse a record that is no line of ehr.jsonl, whoever wrote it; what is not known may be missing.

    Raises:
        ValueError: for another key, an unknown name or unit, a name that occurs twice, a value that no body can have,
            or one of after the study.
    """
    unknown = [key for key in record if key not in _KEYS]
    if unknown:
        raise ValueError(f"record has {unknown[0]!r}, expected some of {', '.join(_KEYS)}")
    age, sex, conditions = record.get("age"), record.get("sex"), record.get("chronic_conditions") or ()
    if age is not None and not (isinstance(age, int) and not isinstance(age, bool) and 0 <= age <= 120):
        raise ValueError(f"age is {age!r}, expected a whole number from 0 to 120")
    if sex not in (None, "F", "M"):
        raise ValueError(f"sex is {sex!r}, expected F or M")
    for name in conditions:
        if name not in CHRONIC_CONDITIONS:
            raise ValueError(f"chronic condition is {name!r}, expected some of {', '.join(CHRONIC_CONDITIONS)}")
    try:
        _check_values(record)
    except (KeyError, TypeError, AttributeError) as error:
        expected = "expected name, value, unit and hours, or a text with hours"
        raise ValueError(f"record has a value that is not complete ({error}), {expected}") from error


def _check_values(record: Mapping[str, Any]) -> None:
    values = {kind: list(record.get(kind) or ()) for kind in _BOUNDS}
    for item in (*values["vitals"], *values["labs"]):
        if not isinstance(item["value"], int | float):
            raise ValueError(f"{item['name']} is {item['value']!r}, expected a number")
        if not isinstance(item["hours"], int | float) or not math.isfinite(item["hours"]):
            raise ValueError(f"{item['name']} was taken {item['hours']!r} hours before, expected a number")
    ehr_lines(record)  # knows names and units
    for kind, bounds in _BOUNDS.items():
        names = [item["name"] for item in values[kind]]
        if len(set(names)) < len(names):
            raise ValueError(f"{kind} have {max(names, key=names.count)!r} twice, expected the latest value of each")
        for item in values[kind]:
            low, high = bounds[item["name"]]
            if not low <= item["value"] <= high:
                raise ValueError(f"{item['name']} is {item['value']}, expected {low:g} to {high:g} {item['unit']}")
    device = record.get("o2_device")
    for item in (*values["vitals"], *values["labs"], *([device] if device else [])):
        if not item["hours"] >= 0:
            before = f"{item.get('name', 'o2_device')} is of {item['hours']} hours before the study"
            raise ValueError(f"{before}, expected 0 or more, as nothing later was known")


def diagnoses_in(text: str) -> list[str]:
    """Words of a text that name a diagnosis or are a code of one, which no prompt may hold."""
    return [leak.text for leak in find_leaks(text, _TERMS)] + [word for word in _WORD.findall(text) if _is_code(word)]


def _without_diagnoses(text: str) -> str:
    text = redact(" ".join(text.split()), _TERMS)
    return _WORD.sub(lambda word: REDACTED if _is_code(word[0]) else word[0], text)


def _is_code(word: str) -> bool:
    return normalise_icd(word.rstrip(".")).startswith(_PREFIXES)


def _check_time(context: EHRContext, name: str, value: Measurement | Observation) -> None:
    if value.charted > context.study_time:
        raise ValueError(f"study {context.study_id} has {name} of {value.charted}, expected nothing after its time")


def _latest(context: EHRContext, name: str, series: Series) -> dict[str, Any]:
    value = series.latest
    _check_time(context, name, value)
    found = {"name": name, "value": float(f"{value.value:.6g}"), "unit": value.unit, "hours": round(value.hours, 2)}
    return found | ({"comparator": value.comparator} if value.comparator else {})
