"""Vital signs of MIMIC-IV(-ED): names, units, what a body can have, and where to find them.

Temperatures are charted in Fahrenheit, but some patients' are in Celsius under the same heading (cooled ones foremost,
whose monitors show Celsius). The two ranges that a body can have do not overlap, so the number itself tells the unit.
"""

from __future__ import annotations

from dataclasses import dataclass

_CELSIUS = (25.0, 44.0)
_FAHRENHEIT = (77.0, 111.2)


@dataclass(frozen=True)
class VitalSign:
    """One variable.

    Attributes:
        name: the column of MIMIC-IV-ED's triage and vitalsign tables, or our own where these have none.
        unit: unit of the values that are given out.
        low: lowest value that is believed, in that unit.
        high: highest value that is believed.
        in_ed: whether the two tables of MIMIC-IV-ED have it.
        item_labels: labels in d_items of the chartevents that hold it, lower case.
    """

    name: str
    unit: str
    low: float
    high: float
    in_ed: bool = True
    item_labels: tuple[str, ...] = ()


VITAL_SIGNS: dict[str, VitalSign] = {
    vital.name: vital
    for vital in (
        VitalSign("temperature", "C", *_CELSIUS, item_labels=("temperature fahrenheit", "temperature celsius")),
        VitalSign("heartrate", "/min", 10, 300, item_labels=("heart rate",)),
        VitalSign("resprate", "/min", 3, 80, item_labels=("respiratory rate",)),
        VitalSign("o2sat", "%", 40, 100, item_labels=("o2 saturation pulseoxymetry",)),
        VitalSign(
            "sbp", "mmHg", 30, 300,
            item_labels=("non invasive blood pressure systolic", "arterial blood pressure systolic"),
        ),
        VitalSign(
            "dbp", "mmHg", 10, 200,
            item_labels=("non invasive blood pressure diastolic", "arterial blood pressure diastolic"),
        ),
        VitalSign("pain", "of 10", 0, 10),
        VitalSign("o2_flow", "L/min", 0, 100, in_ed=False, item_labels=("o2 flow",)),
    )
}  # fmt: skip

O2_DEVICE_LABEL = "o2 delivery device(s)"
"""Label in d_items, lower case, of the chartevents that name the oxygen device."""

ED_VITALS = tuple(vital.name for vital in VITAL_SIGNS.values() if vital.in_ed)


def body_temperature(value: float) -> tuple[float, str] | None:
    """Return a charted temperature in Celsius, and the unit, "F" or "C", that it must have been in.

    Returns:
        None if no body has that temperature in either unit.
    """
    if _FAHRENHEIT[0] <= value <= _FAHRENHEIT[1]:
        return (value - 32) / 1.8, "F"
    if _CELSIUS[0] <= value <= _CELSIUS[1]:
        return value, "C"
    return None
