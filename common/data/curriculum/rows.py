"""The last step: studies become the rows of the two stages, in the conversation format of LLaVA, each row checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data import splits
from common.data.curriculum.subset import PHASE_A, RECORDS, StepResult, json_lines, read_json_lines
from common.data.ehr.record import check_record, diagnoses_in
from common.data.splits import SPLITS
from common.io.bad_input import BadInput
from common.text.reasoning import ehr_lines, reasoning_target
from common.text.report_answers import answer_a, answer_b, instruction, parse_answer

__all__ = ["CURRICULUM", "check_row", "curriculum", "study_rows"]

CURRICULUM = {split: f"curriculum_{split}.jsonl" for split in SPLITS}
_IMAGE = "<image>"
_KEYS = ("id", "image", "conversations", "stage", "study", "patient", "split", "ehr", "impression", "labels", "icd")

Study = dict[str, Any]
"""A line of phase_a.jsonl, with `ehr`, the line of ehr.jsonl, or None."""


def curriculum(
    source: Path, out: Path, stage_a_share: float, without_ehr: float, split_by_patient: float | None, seed: int
) -> StepResult:
    """Write the rows of each split.

    Args:
        source: not read.
        out: holds phase_a.jsonl and ehr.jsonl.
        stage_a_share: of stage a among the rows of training, between 0 and 1.
        without_ehr: share of the rows of stage b in training that come without their record.
        split_by_patient: share of the patients for training, the others validate; None takes the official split.
        seed: of what is drawn.

    Raises:
        BadInput: if the shares cannot be met, or a row is not as `check_row` expects.
        ValueError: for a share outside its range.
    """
    _check_shares(stage_a_share, without_ehr, split_by_patient)
    studies = _studies(out, split_by_patient, seed)
    files, counts = {}, {}
    for split in SPLITS:
        own = [study for study in studies if study["split"] == split]
        if split == "train":
            rows, counts[split] = _training_rows(out, own, stage_a_share, without_ehr, seed)
        else:
            rows = [_row_a(study) for study in own] + [_row_b(study, True) for study in own if _has_target(study)]
            counts[split] = _counts(rows)
        for number, row in enumerate(rows, 1):
            check_row(out / CURRICULUM[split], number, row)
        files[CURRICULUM[split]] = json_lines(rows)
    sizes = {name: len(text.encode()) for name, text in files.items()}
    counts["mb"] = round(sum(sizes.values()) / 1e6, 2)
    return StepResult(files, counts)


def check_row(path: Path, number: int, row: Mapping[str, Any]) -> None:
    """Refuse a row that a model must not be trained on.

    Args:
        path: of the file, for the sentence.
        number: of the row, from 1.
        row: of a curriculum.

    Raises:
        BadInput: for a row that lacks a key, whose prompt is not that of its stage and record, whose answer is not
            exactly its target, or whose record holds a value of after the study or a diagnosis.
    """

    def refused(reason: str) -> BadInput:
        return BadInput(path, f"row {number} ({row.get('id')!r}) {reason}")

    lacking = [key for key in _KEYS if key not in row]
    if lacking:
        raise refused(f"has no {lacking[0]!r}, expected {', '.join(_KEYS)}")
    stage, record, turns = row["stage"], row["ehr"], row["conversations"]
    try:
        told = [turn["value"] for turn in turns]
        if record is not None:
            check_record(record)
        lines = None if record is None else [line.text for line in ehr_lines(record)]
        expected = instruction(stage, lines)
        answer = parse_answer(told[1], stage)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"has no prompt, record and answer that can be used: {error}") from error
    if [turn.get("from") for turn in turns] != ["human", "gpt"] or told[0] != expected:
        raise refused("has another prompt than its stage and record give, expected a human's and a model's turn")
    if answer is None:
        raise refused("has an answer outside the format of its stage")
    if answer.impression != row["impression"] or (stage == "a" and answer.labels != row["labels"]):
        raise refused("has an answer that is not its impression and labels")
    if stage == "b" and list(answer.icd) != row["icd"]:
        raise refused("has an answer that is not its ICD groups")
    if told[0].count(_IMAGE) != 1 or _IMAGE in told[1]:
        raise refused(f"has {_IMAGE} in a text, expected it once, before the prompt")
    named = diagnoses_in((record or {}).get("chief_complaint") or "")
    if named:
        raise refused(f"has the diagnosis or code {named[0]!r} in its prompt, which must not tell what is asked for")


def _check_shares(stage_a_share: float, without_ehr: float, split_by_patient: float | None) -> None:
    for name, value in (("stage_a_share", stage_a_share), ("without_ehr", without_ehr)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected a number from 0 to 1")
    if split_by_patient is not None and not 0 < split_by_patient < 1:
        raise ValueError(f"split_by_patient is {split_by_patient}, expected a number between 0 and 1")


def _studies(out: Path, share: float | None, seed: int) -> list[Study]:
    """The studies with a target, each in its split; nobody is in two."""
    records = {row["study"]: row for row in read_json_lines(out / RECORDS)}
    studies = [row | {"ehr": records.get(row["study"])} for row in read_json_lines(out / PHASE_A)]
    if share is not None:
        split_of = splits.split_by_patient({s["study"]: s["patient"] for s in studies}, (share, 1 - share, 0), seed)
        studies = [study | {"split": split_of[study["study"]]} for study in studies]
        if len({study["split"] for study in studies}) < 2:
            raise BadInput(out / PHASE_A, "has one patient, expected two at least for --split_by_patient")
    seen: dict[str, str] = {}
    for study, times in Counter(study["study"] for study in studies).items():
        if times > 1:
            raise BadInput(out / PHASE_A, f"has study {study} {times} times, expected each once")
    for study in studies:
        if seen.setdefault(study["patient"], study["split"]) != study["split"]:
            both = f"{seen[study['patient']]} and {study['split']}"
            raise BadInput(out / PHASE_A, f"has patient {study['patient']} in {both}, expected one split")
        if study["ehr"] is not None and study["ehr"]["patient"] != study["patient"]:
            reason = f"has study {study['study']} of patient {study['ehr']['patient']}, expected {study['patient']}"
            raise BadInput(out / RECORDS, reason)
    return studies


def _training_rows(
    out: Path, studies: Sequence[Study], share: float, without: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """As many rows as the shares allow. Stage a takes studies first that stage b cannot: few images are left."""

    def drawn(study: Study, what: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{what}\n{study['study']}".encode()).digest()

    able = sorted((study for study in studies if _has_target(study)), key=lambda study: drawn(study, "b"))
    n_a, n_b = _numbers(out, len(studies), len(able), share)
    stage_b = able[:n_b]
    taken = {study["study"] for study in stage_b}
    stage_a = sorted(studies, key=lambda study: (study["study"] in taken, drawn(study, "a")))[:n_a]
    blind = {study["study"] for study in sorted(stage_b, key=lambda s: drawn(s, "ehr"))[: round(without * n_b)]}
    if stage_b and len(blind) == n_b:
        raise BadInput(out / PHASE_A, f"has {n_b} rows of stage b, none with a record by --without_ehr {without}")
    in_a = {study["study"] for study in stage_a}
    rows = [_row_a(study) for study in studies if study["study"] in in_a]
    rows += [_row_b(study, study["study"] not in blind) for study in studies if study["study"] in taken]
    asked = {"stage_a_share": round(n_a / (n_a + n_b), 4), "studies_in_both_stages": len(in_a & taken)}
    left = {"studies_without_a_row": len(studies) - len(in_a | taken), "stage_b_not_taken": len(able) - n_b}
    return rows, _counts(rows) | asked | left


def _numbers(out: Path, n_studies: int, n_able: int, share: float) -> tuple[int, int]:
    """Rows of stage a and of stage b: as many as there are studies for, in the share that is asked for, to a row."""
    total = min(n_studies / share if share else float("inf"), n_able / (1 - share) if share < 1 else float("inf"))
    n_a, n_b = min(n_studies, round(total * share)), min(n_able, round(total * (1 - share)))
    if (n_a == 0) != (share == 0) or (n_b == 0) != (share == 1):
        have = f"{n_studies} studies for training, {n_able} of them with a record and ICD codes"
        raise BadInput(out / PHASE_A, f"has {have}, expected enough for --stage_a_share {share}")
    return n_a, n_b


def _has_target(study: Study) -> bool:
    record = study["ehr"]
    return record is not None and record["icd"] is not None and bool(ehr_lines(record))


def study_rows(study: Study) -> list[dict[str, Any]]:
    """The rows of a study: stage a, and stage b with its record where the stay has diagnoses."""
    return [_row_a(study)] + ([_row_b(study, True)] if _has_target(study) else [])


def _row_a(study: Study) -> dict[str, Any]:
    return _row(study, "a", None, answer_a(study["impression"], study["labels"]), [])


def _row_b(study: Study, with_ehr: bool) -> dict[str, Any]:
    record, impression, icd = study["ehr"] if with_ehr else None, study["impression"], study["ehr"]["icd"]
    return _row(study, "b", record, answer_b(reasoning_target(record, impression, icd), impression, icd), icd)


def _row(study: Study, stage: str, record: Study | None, answer: str, icd: Sequence[str]) -> dict[str, Any]:
    lines = None if record is None else [line.text for line in ehr_lines(record)]
    turns = [{"from": "human", "value": instruction(stage, lines)}, {"from": "gpt", "value": answer}]
    return {
        "id": f"{study['study']}_{stage}", "image": study["image"], "conversations": turns, "stage": stage,
        "study": study["study"], "patient": study["patient"], "split": study["split"], "ehr": record,
        "impression": study["impression"], "labels": study["labels"], "icd": list(icd),
    }  # fmt: skip


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stages = {f"stage_{stage}": sum(row["stage"] == stage for row in rows) for stage in "ab"}
    blind = sum(row["stage"] == "b" and row["ehr"] is None for row in rows)
    people = {"patients": len({row["patient"] for row in rows}), "studies": len({row["study"] for row in rows})}
    return {"rows": len(rows)} | stages | {"stage_b_without_ehr": blind} | people
