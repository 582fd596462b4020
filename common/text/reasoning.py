"""What a prompt tells of a patient's record, and the reasoning from it that a model is taught.

    >>> [line.text for line in ehr_lines(record)]
    ['72-year-old woman', 'Chief complaint: Fever, Cough', 'Temperature 38.4 C (abnormal, 0.7 h before)',
     'WBC 15.2 K/uL (abnormal, 3.5 h before)', 'O2 device: Nasal cannula (1.2 h before)', 'History: COPD']
    >>> reasoning_target(record, "Right lower lobe pneumonia.", ["pneumonia"])
    ['pneumonia: WBC 15.2 K/uL (abnormal, 3.5 h before); Temperature 38.4 C (abnormal, 0.7 h before); the impression
     states Pneumonia']

Names, normal ranges of vital signs and what is evidence of which group stand in reasoning.yaml. A record is a line of
ehr.jsonl: ``age``, ``sex``, ``chief_complaint``, ``vitals``, ``labs``, ``o2_device``, ``chronic_conditions``; its
``icd``, the groups of the stay, is a target, and nothing here reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.text.cxr_labeller import label_cxr

__all__ = ["EHRLine", "ehr_lines", "evidence", "groups", "reasoning_target"]

_TOP_AGE = 91  # stands for every age above 89
_STATED = {1.0: "states", -1.0: "suspects"}


@dataclass(frozen=True)
class EHRLine:
    """A line of a prompt.

    Attributes:
        text: as it is read.
        kind: "person", "vital", "lab", "device" or "history".
        hours: from the value to the study, at least 0; None for what has no time.
    """

    text: str
    kind: str
    hours: float | None = None


@dataclass(frozen=True)
class _Value:
    """A value of the record: its name in a prompt, how it deviates ("", "high" or "low"), and its line."""

    name: str
    deviates: str
    line: EHRLine


def groups() -> tuple[str, ...]:
    """The ICD groups of an answer, in its order."""
    return tuple(_table()["groups"])


def ehr_lines(record: Mapping[str, Any]) -> list[EHRLine]:
    """What is known of a patient as lines for a prompt: person, complaint, vital signs, laboratory, device, history.

    Args:
        record: a line of ehr.jsonl; what is None or empty has no line.

    Raises:
        ValueError: for a value of an unknown name, or in another unit than the one of its name.
    """
    lines = [EHRLine(text, "person") for text in (_person(record), _complaint(record)) if text]
    lines += [value.line for value in _values(record)]
    device = record.get("o2_device")
    if device:
        hours = float(device["hours"])
        lines.append(EHRLine(f"O2 device: {' '.join(device['text'].split())} ({hours:.1f} h before)", "device", hours))
    if record.get("chronic_conditions"):
        lines.append(EHRLine(f"History: {', '.join(record['chronic_conditions'])}", "history"))
    return lines


def reasoning_target(record: Mapping[str, Any] | None, impression: str, icd: Sequence[str]) -> list[str]:
    """The reasoning that leads to ICD groups: a line for each, with the evidence that the model is given.

    Args:
        record: what the prompt tells; None where it tells nothing, so that only the impression is evidence.
        impression: of the report.
        icd: names in `groups`, in any order.

    Returns:
        Per group its abnormal values, written as in `ehr_lines`, and the labels that the impression states or
        suspects; a line that says so where there is no group, or no evidence for one.

    Raises:
        ValueError: for an unknown group, or a record that `ehr_lines` refuses.
    """
    unknown = [name for name in icd if name not in groups()]
    if unknown:
        raise ValueError(f"ICD group is {unknown[0]!r}, expected one of {', '.join(groups())}")
    values = [] if record is None else list(_values(record))
    labels = label_cxr(impression)
    told = []
    for name, rule in _table()["groups"].items():
        if name not in icd:
            continue
        found = [v.line.text for v in values if v.deviates and v.name in rule[v.deviates]]
        for value, verb in _STATED.items():
            stated = [label for label in rule["labels"] if labels[label] == value]
            found += [f"the impression {verb} {', '.join(stated)}"] if stated else []
        told.append(f"{name}: {'; '.join(found) or 'no direct evidence'}")
    return told or ["none of the groups"]


def evidence(reasoning: Sequence[str], lines: Sequence[str]) -> tuple[int, int, int]:
    """Compare the values that a reasoning names with those of its prompt.

    Args:
        reasoning: its lines.
        lines: texts of `ehr_lines`.

    Returns:
        How many values (a number with its unit) the reasoning names, how many of them stand in the prompt, and how many
        of these are right, which means named with the variable that has them there.
    """
    given = [value for line in lines for value in _named_values(line)]
    told = [value for line in reasoning for value in _named_values(line)]
    standing = [value for value in told if any(value[1:] == other[1:] for other in given)]
    return len(told), len(standing), sum(value in given for value in standing)


def _named_values(text: str) -> Iterator[tuple[str, str, float, str]]:
    """Name ("" for one that is not known), comparator, number and unit of each value in a text."""
    for match in _pattern().finditer(text):
        yield match["name"] or "", match["than"], float(match["number"]), match["unit"]


@cache
def _pattern() -> re.Pattern[str]:
    table = _table()
    rules = [*table["vitals"].values(), *table["labs"].values()]
    words, units = (
        "|".join(re.escape(text) for text in sorted({rule[key] for rule in rules} - {""}, key=len, reverse=True))
        for key in ("name", "unit")
    )
    return re.compile(
        rf"(?:\b(?P<name>{words}) )?(?<![\w.])(?P<than>[<>]?)(?P<number>\d+(?:\.\d+)?) ?(?P<unit>{units})(?![\w/])"
    )


def _values(record: Mapping[str, Any]) -> Iterator[_Value]:
    """The vital signs, then the laboratory values, in the order of the table."""
    table = _table()
    for kind in ("vitals", "labs"):
        given = {item["name"]: item for item in record.get(kind) or ()}
        for name, item in given.items():
            if name not in table[kind] or item["unit"] != table[kind][name]["unit"]:
                known = ", ".join(" ".join((key, rule["unit"])).strip() for key, rule in table[kind].items())
                raise ValueError(f"{kind} have {name!r} in {item['unit']!r}, expected {known}")
        for name, rule in table[kind].items():
            if name in given:
                yield _value(given[name], rule)


def _value(item: Mapping[str, Any], rule: Mapping[str, Any]) -> _Value:
    """A value judged as it is written, so that 38.04 is not above 38.0; a laboratory value by its own range."""
    is_lab = "digits" not in rule
    number = _number(item["value"]) if is_lab else f"{item['value']:.{rule['digits']}f}"
    limits, hours, than = item if is_lab else rule, float(item["hours"]), item.get("comparator", "")
    low, high = limits.get("low"), limits.get("high")
    deviates = "high" if high is not None and float(number) > high and than != "<" else ""
    deviates = "low" if low is not None and float(number) < low and than != ">" else deviates
    how = "abnormal, " if deviates or item.get("flag") == "abnormal" else ""
    text = f"{rule['name']} {than}{number} {item['unit']}".rstrip()
    line = EHRLine(f"{text} ({how}{hours:.1f} h before)", "lab" if is_lab else "vital", hours)
    return _Value(rule["name"], deviates, line)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _person(record: Mapping[str, Any]) -> str:
    who, age = {"F": "woman", "M": "man"}.get(record.get("sex") or "", "patient"), record.get("age")
    if age is None:
        return "" if who == "patient" else who.capitalize()
    return f"{who.capitalize()} over 89 years old" if age >= _TOP_AGE else f"{int(age)}-year-old {who}"


def _complaint(record: Mapping[str, Any]) -> str:
    text = " ".join((record.get("chief_complaint") or "").split())
    return f"Chief complaint: {text}" if text else ""


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("reasoning.yaml").read_text(encoding="utf-8"))
