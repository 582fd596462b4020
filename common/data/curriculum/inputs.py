"""What `predict` and `evaluate` take for questions about X-rays: images with a record, or a curriculum."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.case_list import CaseList
from common.data.curriculum.cases import SPLITS, CurriculumStage, curriculum_cases
from common.data.ehr.record import check_record
from common.data.ehr.vital_signs import VITAL_SIGNS
from common.io.bad_input import BadInput, read_text
from common.io.table import is_table, read_rows
from common.text.reasoning import ehr_lines

__all__ = ["curriculum_to_score", "read_records", "with_records"]

_COLUMNS = ("case", "name", "value", "unit", "hours")
_VITALS = "vitals"


def with_records(cases: CaseList, ehr: str | os.PathLike[str] | None = None) -> CaseList:
    """Cases of `common.data.cxr.inputs.xray_cases` with what is asked of each.

    Args:
        cases: with an X-ray.
        ehr: file with records, see `read_records`; None asks for findings alone.

    Returns:
        The cases with `stage` and `lines`: reasoning and diagnoses ("b") of those with a record, findings ("a") of the
        others.

    Raises:
        BadInput: as `read_records`; if a record is of no case; if one case of several is not named.
    """
    records = {} if ehr is None else read_records(ehr)
    if set(records) == {""}:
        if len(cases) != 1:
            raise BadInput(ehr, f"names no case, expected a record that does, as there are {len(cases)} X-rays")
        records = {cases[0]["case"]: records[""]}
    unknown = [name for name in records if name not in {case["case"] for case in cases}]
    if unknown:
        raise BadInput(ehr, f"is about {unknown[0]!r}, expected a case that has an X-ray: {cases[0]['case']!r}, ...")
    return CaseList(
        [
            case
            | {"stage": "b" if case["case"] in records else "a"}
            | {"lines": ehr_lines(records[case["case"]]) if case["case"] in records else None}
            for case in cases
        ],
        cases.excluded,
        cases.other,
    )


def read_records(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Case -> record, as a line of ehr.jsonl (`common.data.ehr.record`); "" is one without a name.

    Args:
        path: JSON: a record, or a list of records, of which "case" names the X-ray. CSV: the columns case, name, value,
            unit and hours (before the X-ray), a row for each value: age, sex, chief_complaint, o2_device,
            chronic_condition, or a vital sign or laboratory test by its name.

    Raises:
        BadInput: for a file that is neither, or a record that `check_record` refuses.
    """
    path = Path(path)
    found: dict[str, dict[str, Any]] = {}
    for case, record in _of_table(path) if is_table(path) else _of_json(path):
        if case in found:
            raise BadInput(path, f"has two records of {case!r}, expected one")
        try:
            check_record(record)
            lines = ehr_lines(record)
        except ValueError as error:
            raise BadInput(path, f"has a record of {case or 'a case'} that cannot be used: {error}") from error
        if not lines:
            raise BadInput(path, f"has a record of {case or 'a case'} that tells nothing, expected one value or more")
        found[case] = record
    if not found:
        raise BadInput(path, "holds no record, expected one at least")
    if "" in found and len(found) > 1:
        raise BadInput(path, "has a record without a case among others, expected the case of each")
    return found


def _of_json(path: Path) -> list[tuple[str, dict[str, Any]]]:
    text = read_text(path, "a record")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInput(path, f"is no JSON ({error}), expected a record or a list of them") from error
    records = content if isinstance(content, list) else [content]
    if not all(isinstance(record, dict) for record in records):
        raise BadInput(path, "holds something else than records, expected JSON objects")
    return [
        (str(record.get("case", "")), _whole({k: v for k, v in record.items() if k != "case"})) for record in records
    ]


def _of_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    records: dict[str, dict[str, Any]] = defaultdict(lambda: _whole({}))
    vitals = {vital.name for vital in VITAL_SIGNS.values()}
    for line, row in read_rows(path, _COLUMNS):
        record, name, value = records[row["case"].strip()], row["name"].strip(), row["value"].strip()
        try:
            if name == "age":
                record["age"] = int(value)
            elif name in ("sex", "chief_complaint"):
                record[name] = value
            elif name == "chronic_condition":
                record["chronic_conditions"].append(value)
            elif name == "o2_device":
                record["o2_device"] = {"text": value, "hours": float(row["hours"])}
            else:
                item = {"name": name, "value": float(value), "unit": row["unit"].strip(), "hours": float(row["hours"])}
                record[_VITALS if name in vitals else "labs"].append(item)
        except ValueError as error:
            raise BadInput(
                path, f"line {line} has {name} {value!r} ({error}), expected a number and its hours"
            ) from error
    return list(records.items())


def _whole(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with what it does not tell, and with the keys that a laboratory value has."""
    empty: dict[str, Any] = {"age": None, "sex": None, "vitals": [], "labs": [], "o2_device": None}
    whole = empty | {"chronic_conditions": []} | dict(record)
    if isinstance(whole["labs"], list):
        more = {"flag": "", "low": None, "high": None}
        whole["labs"] = [more | item if isinstance(item, dict) else item for item in whole["labs"]]
    return whole


def curriculum_to_score(path: str, output_dir: str, options: Mapping[str, Any]) -> CaseList:
    """The cases of a curriculum, or of a prepared folder, of which one is made in `output_dir`.

    Raises:
        BadInput: as `CurriculumStage`.
    """
    folder = Path(path)
    if not (folder / "curriculum_test.jsonl").is_file():
        folder = Path(output_dir) / "curriculum"
        CurriculumStage(path, str(folder), output_dir, options).run()
    return CaseList([case for split in SPLITS for case in curriculum_cases(folder, split)])
