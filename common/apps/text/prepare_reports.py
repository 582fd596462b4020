"""`prepare reports`: give every CT-RATE case a report, a template one where it has none of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.apps.run.bundle import missing
from common.data.ct.ct_rate import CT_RATE_REPORT, FOLDERS, list_ct_rate
from common.data.ct.lesion_findings import read_lesion_findings
from common.data.manifest import read_manifest
from common.io.bad_input import BadInput
from common.io.inputs import reading, refuse_output_folder
from common.io.output_folder import csv_text, locked, write_text
from common.io.table import iter_rows
from common.text.ct_labels import CT_RATE_LABELS
from common.text.ct_template import ct_report
from common.text.plain_text import has_text
from common.text.template_facts import FindingLike

__all__ = ["prepare_reports"]

COLUMNS = ("VolumeName", *CT_RATE_REPORT, "source")
"""Of the tables written; `source` is "real" or "template"."""

NOT_GIVEN = "Not given."
_FILE_OF_SPLIT = {split: f"{word}_reports.csv" for split, word in FOLDERS.values()} | {"test": "test_reports.csv"}
_LABELS_BESIDE = "labels.csv"


@dataclass(frozen=True)
class _Case:
    """One row to write."""

    name: str
    scan: str  # its reconstructions share a report
    split: str
    labels: dict[str, int]  # all 18
    report: dict[str, str | None]  # column -> text
    sex: str | None
    age: int | None
    maps: tuple[Path, Path] | None = None  # of lesions and of regions


def prepare_reports(input: str | os.PathLike[str], output_dir: str | os.PathLike[str], seed: int = 0) -> dict[str, Any]:
    """Write template reports for the CT-RATE scans that have none.

    A scan has a real report if any of its four columns holds text; it is copied as it is. The column `source` says
    which are real and which are templates. A template states the labels of the scan with a severity. Place, side and
    size come from the lesion and region maps of a manifest (columns `lesions` and `regions`); without them the severity
    is drawn by the seed, and neither place nor size is named.

    Args:
        input: PATH the tree of CT-RATE, or a manifest (the file or its folder) with the 18 label columns, or with a
            labels.csv (case and the 18 labels) beside it; never changed
        output_dir: DIR created, outside the input: {train,validation}_reports.csv, excluded.csv (path,reason),
            prepare.json
        seed: N of wording and severities

    Returns:
        The content of prepare.json, and the paths of `reports` and `excluded`.

    Raises:
        BadInput: if the input does not exist, is neither of the two, or holds no usable case.

    Examples:
        python -m common prepare reports --input data/ct_rate --output_dir data/reports
    """
    # Not resolved, since the target of a link may carry another name.
    source, out = Path(os.path.abspath(input)), Path(os.path.abspath(output_dir))
    if not source.exists():
        raise missing(source, "a CT-RATE tree or a manifest")
    with reading(source):
        refuse_output_folder(out)
    problems: list[BadInput] = []
    # Virtual CT-RATE data has a manifest beside its tree, which knows more: real reports, sex and age.
    is_tree = (source / "dataset" / "multi_abnormality_labels").is_dir()
    is_manifest = not is_tree and (source.is_file() or (source / "manifest.csv").is_file())
    cases = _manifest_cases(source, problems) if is_manifest else _tree_cases(source, problems)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        rows, counts = _write_rows(cases, seed, problems)
        counts["excluded"] = len(problems)
        listing = [{"path": str(problem.path), "reason": problem.reason} for problem in problems]
        write_text(out / "excluded.csv", csv_text(["path", "reason"], sorted(listing, key=lambda row: row["path"])))
        files = {file: out / file for file in sorted(set(_FILE_OF_SPLIT.values()))}
        for file in (*files.values(), out / "prepare.json"):  # of an earlier run, maybe with other splits
            file.unlink(missing_ok=True)
        if not counts["cases"]:
            raise BadInput(source, f"has no usable case, see {out / 'excluded.csv'}")
        tables = {files[_FILE_OF_SPLIT[split]]: csv_text(COLUMNS, rows[split]) for split in rows}
        for path, text in tables.items():
            write_text(path, text)
        summary = {
            "layout": "reports",
            "input": str(source),
            "seed": seed,
            "counts": counts,
            "versions": {name: version(name) for name in ("numpy", "nibabel", "PyYAML")},
            "data_hash": hashlib.sha256("".join(tables.values()).encode()).hexdigest(),
        }
        write_text(out / "prepare.json", json.dumps(summary, indent=1) + "\n")
    return summary | {"reports": [str(path) for path in tables], "excluded": str(out / "excluded.csv")}


def _tree_cases(root: Path, problems: list[BadInput]) -> list[_Case]:
    images, found = list_ct_rate(root)
    problems += found
    cases: dict[str, _Case] = {}
    for image in images:  # the copy of a plain folder comes after that of the `_fixed` one
        row = image.metadata or {}
        sex, age = _person(row.get("PatientSex"), row.get("PatientAge"))
        case = _Case(image.case, image.scan, image.split, dict(image.labels), dict(image.report), sex, age)
        cases.setdefault(image.case, case)
    return list(cases.values())


def _manifest_cases(source: Path, problems: list[BadInput]) -> list[_Case]:
    manifest = source / "manifest.csv" if source.is_dir() else source
    rows = read_manifest(manifest)
    beside = manifest.parent / _LABELS_BESIDE
    has_columns = set(CT_RATE_LABELS) <= rows[0].keys()
    if not has_columns and not beside.is_file():
        lacking = next(name for name in CT_RATE_LABELS if name not in rows[0])
        raise BadInput(
            manifest, f"has no column {lacking!r}, expected the 18 labels of CT-RATE, or {beside.name} beside it"
        )
    labelled = rows
    if not has_columns:
        found = list(iter_rows(beside, ["case", *CT_RATE_LABELS]))
        problems += [row for row in found if isinstance(row, BadInput)]
        labelled = [row[1] for row in found if not isinstance(row, BadInput)]
    tables = {row["case"]: row for row in labelled}
    cases = []
    for row in rows:
        try:
            cases.append(_manifest_case(manifest, row, tables.get(row["case"])))
        except BadInput as problem:
            problems.append(problem)
    return cases


def _manifest_case(manifest: Path, row: Mapping[str, str], labels: Mapping[str, str] | None) -> _Case:
    case = row["case"]
    if row["split"] not in _FILE_OF_SPLIT:
        raise BadInput(manifest, f"row {case!r} has the split {row['split']!r}, expected {', '.join(_FILE_OF_SPLIT)}")
    if labels is None:
        raise BadInput(manifest, f"row {case!r} has no labels in {_LABELS_BESIDE}")
    unknown = [f"{name} = {labels[name]!r}" for name in CT_RATE_LABELS if labels[name] not in ("0", "1", "0.0", "1.0")]
    if unknown:
        raise BadInput(manifest, f"row {case!r} has {unknown[0]}, expected 0 or 1")
    sex, age = _person(row.get("sex"), row.get("age"))
    maps = (Path(row["lesions"]), Path(row["regions"])) if row.get("lesions") and row.get("regions") else None
    report = {column: _text(row.get(column)) for column in CT_RATE_REPORT}
    values = {name: int(float(labels[name])) for name in CT_RATE_LABELS}
    return _Case(case, row.get("scan") or case, row["split"], values, report, sex, age, maps)


def _write_rows(
    cases: Iterable[_Case], seed: int, problems: list[BadInput]
) -> tuple[dict[str, list[dict[str, str]]], dict[str, int]]:
    """Rows by split, and counts."""
    rows: dict[str, list[dict[str, str]]] = {}
    counts = dict.fromkeys(("cases", "scans", "real", "template", "with_lesions", "unknown_sex_or_age"), 0)
    templates: dict[str, dict[str, str]] = {}
    scans = set()
    for case in cases:
        if any(case.report.values()):
            text, origin = {column: case.report[column] or NOT_GIVEN for column in CT_RATE_REPORT}, "real"
        else:
            try:
                findings = _findings(case, problems)
            except BadInput as problem:
                problems.append(problem)
                continue
            if case.scan not in templates:
                templates[case.scan] = _template(case, findings, seed)
                counts["with_lesions"] += bool(findings)
                counts["unknown_sex_or_age"] += case.sex is None or case.age is None
            text, origin = templates[case.scan], "template"
        scans.add(case.scan)
        counts["cases"] += 1
        counts[origin] += 1
        rows.setdefault(case.split, []).append({"VolumeName": f"{case.name}.nii.gz"} | text | {"source": origin})
    counts["scans"] = len(scans)
    return rows, counts


def _findings(case: _Case, problems: list[BadInput]) -> list[FindingLike]:
    """Lesions of the labels that are 1; one that its label denies is listed and not described."""
    if case.maps is None:
        return []
    found = read_lesion_findings(*case.maps)
    for name in sorted({finding.label for finding in found if not case.labels[finding.label]}):
        problems.append(
            BadInput(
                case.maps[0], f"shows {name.lower()}, which the labels of {case.name} deny, so it is not described"
            )
        )
    return [finding for finding in found if case.labels[finding.label]]


def _template(case: _Case, findings: list[FindingLike], seed: int) -> dict[str, str]:
    # Hashed, so that a scan keeps its report whatever else is prepared with it.
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{case.scan}".encode()).digest()[:6], "big")
    return ct_report(findings, case.labels, case.sex, case.age, own_seed, incidental=False).ct_rate_columns()


def _person(sex: str | None, age: str | None) -> tuple[str | None, int | None]:
    """Sex and age in years as CT-RATE (`F`, `036Y`) or a manifest (`F`, `36`) writes them; None if unknown."""
    match = re.fullmatch(r"0*(\d{1,3})Y?", (age or "").strip())
    years = int(match[1]) if match and int(match[1]) <= 120 else None
    return (sex or "").strip() if (sex or "").strip() in ("F", "M") else None, years


def _text(value: str | None) -> str | None:
    text = (value or "").strip()
    return text if has_text(text) else None
