"""What a vision-language model is asked for a chest X-ray, and its answers: one JSON object, written and read strictly.

    stage a   {"impression":"..","chexpert":{"Edema":"positive","Pneumothorax":"negative"}}
    stage b   {"reasoning":[".."],"impression":"..","icd":["heart_failure"]}

The texts stand in report_prompts.yaml. Nothing in an answer is repaired: one that is not of this form is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.io.strict_json import parse_object
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.reasoning import groups

__all__ = ["Answer", "answer_a", "answer_b", "instruction", "parse_answer"]

STAGES = ("a", "b")
_KEYS = {"a": {"impression", "chexpert"}, "b": {"reasoning", "impression", "icd"}}


@dataclass(frozen=True)
class Answer:
    """An answer of either stage; what is not asked for in its stage is empty.

    Attributes:
        impression: of the report.
        labels: CheXpert label -> 1.0 positive, 0.0 negative, -1.0 uncertain; one that is not mentioned is not there.
        reasoning: its lines.
        icd: names of ICD groups.
    """

    impression: str
    labels: Mapping[str, float] = field(default_factory=dict)
    reasoning: tuple[str, ...] = ()
    icd: tuple[str, ...] = ()


def instruction(stage: str, lines: Sequence[str] | None = None) -> str:
    """The prompt of a stage, without a model's own marks around it.

    Args:
        stage: "a" (impression and labels) or "b" (reasoning, impression and ICD groups).
        lines: of the record, see `common.text.reasoning.ehr_lines`; None asks without a record, and says so.

    Returns:
        A text that begins with ``<image>`` and a newline.

    Raises:
        ValueError: for an unknown stage, or a record without a line.
    """
    texts = _texts()
    _check_stage(stage)
    if lines is not None and not lines:
        raise ValueError("the record has no line, expected one at least, or None where there is no record")
    record = texts["without_ehr"] if lines is None else texts["with_ehr"].replace("LINES", "\n".join(lines))
    asked = texts[stage].replace("LABELS", ", ".join(CHEXPERT_LABELS)).replace("GROUPS", ", ".join(groups()))
    return f"{texts['image']}\n{asked.replace('RECORD', record)}"


def answer_a(impression: str, labels: Mapping[str, float | None]) -> str:
    """The answer of stage a.

    Args:
        impression: of the report.
        labels: CheXpert label -> 1.0, 0.0, -1.0, or None for one that is not mentioned.

    Raises:
        ValueError: for an unknown label or value.
    """
    words = {value: word for word, value in _texts()["values"].items()}
    for name, value in labels.items():
        if name not in CHEXPERT_LABELS or (value is not None and value not in words):
            raise ValueError(f"label {name!r} is {value!r}, expected 1.0, 0.0, -1.0 or None of a CheXpert label")
    told = {name: words[labels[name]] for name in CHEXPERT_LABELS if labels.get(name) is not None}
    return _compact({"impression": impression, "chexpert": told})


def answer_b(reasoning: Sequence[str], impression: str, icd: Sequence[str]) -> str:
    """The answer of stage b; groups are written in the order of `common.text.reasoning.groups`.

    Raises:
        ValueError: for an unknown group.
    """
    unknown = [name for name in icd if name not in groups()]
    if unknown:
        raise ValueError(f"ICD group is {unknown[0]!r}, expected one of {', '.join(groups())}")
    ordered = [name for name in groups() if name in icd]
    return _compact({"reasoning": list(reasoning), "impression": impression, "icd": ordered})


def parse_answer(text: str, stage: str) -> Answer | None:
    """Read an answer.

    Args:
        text: what a model wrote, without its end token.
        stage: "a" or "b".

    Returns:
        None if it is not exactly one JSON object of the form of the stage: other keys, a blank impression, a label,
        value or group that is not known or named twice, another type.

    Raises:
        ValueError: for an unknown stage.
    """
    _check_stage(stage)
    found = parse_object(text)
    if found is None or found.keys() != _KEYS[stage] or not _is_text(found["impression"]):
        return None
    if stage == "a":
        labels, values = found["chexpert"], _texts()["values"]
        known = isinstance(labels, dict) and all(
            name in CHEXPERT_LABELS and isinstance(word, str) and word in values for name, word in labels.items()
        )
        return Answer(found["impression"], {name: values[word] for name, word in labels.items()}) if known else None
    reasoning, icd = found["reasoning"], found["icd"]
    known = isinstance(reasoning, list) and all(map(_is_text, reasoning)) and isinstance(icd, list)
    if not known or any(name not in groups() for name in icd) or len(set(icd)) < len(icd):
        return None
    return Answer(found["impression"], reasoning=tuple(reasoning), icd=tuple(icd))


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}, expected {' or '.join(STAGES)}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _compact(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


@cache
def _texts() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("report_prompts.yaml").read_text(encoding="utf-8"))
