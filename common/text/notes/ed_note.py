"""The note of an emergency department as it stood when the X-ray was taken, written from structured data.

    72-year-old woman, arrived by ambulance 1.4 hours before the X-ray. Chief complaint: Fever, Cough.
    Triage: acuity 2 of 5, pain 3 of 10.
    Vital signs: temperature 38.4 C, heart rate 112 /min, blood pressure 98/61 mmHg, ...
    History: hypertension, COPD. Earlier hospital stays: 3.
    Home medicines: lisinopril, metformin.

It holds what its input holds and nothing else: no diagnosis of the current stay, no result, no identifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ed_note", "value_of", "without_template"]

MAX_MEDICINES = 20
_TOP_AGE = 91  # stands for every age above 89
_TRANSPORT = {
    "AMBULANCE": "arrived by ambulance", "HELICOPTER": "arrived by helicopter", "WALK IN": "walked in",
}  # fmt: skip
_VITALS = {
    "temperature": ("temperature", "C", 1), "heartrate": ("heart rate", "/min", 0),
    "resprate": ("respiratory rate", "/min", 0), "o2sat": ("oxygen saturation", "%", 0),
    "o2_flow": ("oxygen flow", "L/min", 1),
}  # fmt: skip
_MEASURED = "|".join([name for name, _, _ in _VITALS.values()] + ["blood pressure", "acuity", "pain"])
_HEADING = r"(?<!\S)[A-Z][a-z]+(?: [a-z]+)*:"
_TEMPLATE = re.compile(rf"{_HEADING}|\b(?:{_MEASURED})(?= [0-9])|\b(?:before the X-ray|oxygen by)\b")


def ed_note(context: Mapping[str, Any] | object) -> str:
    """Write the note.

    Args:
        context: what is known, `common.data.ehr.context.EHRContext`, or a mapping with some of its names and maybe
            `presentation`, free text on how the patient came. Vital signs are in the units of the note (C, /min, %,
            mmHg, of 10, L/min), as anything that `value_of` reads.

    Returns:
        Up to seven lines, "" if nothing is known.
    """

    def get(name: str) -> Any:
        return context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)

    vitals = {name: value_of(series) for name, series in (get("vitals") or {}).items()}
    lines = [
        " ".join(filter(None, (_arrival(get), _sentence("Chief complaint", get("chief_complaint"))))),
        " ".join((get("presentation") or "").split()),
        _sentence("Triage", _triage(get("acuity"), vitals.get("pain"))),
        _sentence("Vital signs", _vital_signs(vitals, get("o2_device"))),
        " ".join(filter(None, (_history(get), _body(get("body") or {})))),
        _sentence("Home medicines", _listed(get("home_medicines"))),
        _sentence("Given so far", _listed(get("given_medicines"))),
    ]
    return "\n".join(filter(None, lines))


def without_template(note: str) -> str:
    """Return a note without the words that stand in every note: headings, names of measurements, "before the X-ray"."""
    return _TEMPLATE.sub("", note)


def value_of(item: Any) -> float | None:
    """The number in a number, a measurement, or the latest of a series; None in None."""
    if item is None or isinstance(item, int | float):
        return item
    for name in ("latest", "value"):
        inner = item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
        if inner is not None:
            return value_of(inner)
    raise ValueError(f"{item!r} holds no value, expected a number, a measurement or a series.")


def _arrival(get: Any) -> str:
    person = {"F": "woman", "M": "man"}.get(get("sex"), "")
    age = get("age")
    if age is not None:
        years = "over 89 years old" if age >= _TOP_AGE else f"{int(age)}-year-old"
        if age >= _TOP_AGE:
            person = f"{person.capitalize() or 'Patient'} {years}"
        else:
            person = f"{years} {person or 'patient'}"
    else:
        person = person.capitalize()
    how = _TRANSPORT.get((get("arrival_transport") or "").strip().upper(), "")
    hours = get("hours_since_arrival")
    if hours is not None:
        how = f"{how or 'arrived'} {hours:.1f} hours before the X-ray"
    if not (person or how):
        return ""
    return (f"{person}, {how}" if person and how else person or how[0].upper() + how[1:]) + "."


def _triage(acuity: Any, pain: float | None) -> str:
    parts = [f"acuity {int(acuity)} of 5"] if acuity is not None else []
    return ", ".join(parts + ([f"pain {pain:.0f} of 10"] if pain is not None else []))


def _vital_signs(vitals: Mapping[str, float | None], device: Any) -> str:
    parts = [
        f"{name} {vitals[key]:.{digits}f} {unit}"
        for key, (name, unit, digits) in _VITALS.items()
        if vitals.get(key) is not None
    ]
    high, low = vitals.get("sbp"), vitals.get("dbp")
    if high is not None and low is not None:
        parts.append(f"blood pressure {high:.0f}/{low:.0f} mmHg")
    elif high is not None or low is not None:
        which, value = ("systolic", high) if low is None else ("diastolic", low)
        parts.append(f"{which} blood pressure {value:.0f} mmHg")
    text = device if isinstance(device, str) else getattr(device, "text", None)
    if isinstance(device, Mapping):
        text = device.get("text")
    return ", ".join(parts + ([f"oxygen by {text.lower()}"] if text else []))


def _history(get: Any) -> str:
    conditions = _listed(get("chronic_conditions"))
    stays = get("n_earlier_stays")
    told = _sentence("Earlier hospital stays", str(int(stays))) if stays else ""
    return " ".join(filter(None, (_sentence("History", conditions), told)))


def _body(body: Mapping[str, Any]) -> str:
    bmi = value_of(body.get("bmi"))
    return "" if bmi is None else f"BMI {bmi:.0f} kg/m2."


def _listed(names: Sequence[str] | None) -> str:
    names = list(names or ())
    more = f" and {len(names) - MAX_MEDICINES} more" if len(names) > MAX_MEDICINES else ""
    return ", ".join(names[:MAX_MEDICINES]) + more


def _sentence(title: str, text: str | None) -> str:
    text = " ".join((text or "").split()).rstrip(".")
    return f"{title}: {text}." if text else ""
