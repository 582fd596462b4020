"""`sections`: the sections of radiology reports as a table, and where they stand."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.apps.run.bundle import UsageError
from common.data.report_files import SectionedReport, iter_reports
from common.io.bad_input import BadInput
from common.io.inputs import is_same, reading
from common.io.output_folder import atomic_text, csv_writer
from common.text.section_lines import PREAMBLE
from common.text.sections import CONCLUSION_ORDER, sections_text

SECTION_COLUMNS = (
    *CONCLUSION_ORDER,
    "indication", "history", "technique", "examination", "recommendations", "notification", "wet read", "addendum",
    "comment", "date", "signature", PREAMBLE,
)  # fmt: skip
"""Columns after `study`; `other` follows, with the sections whose header is none of these, as `header: text | ...`."""


def write_sections(
    path: str | os.PathLike[str], out: str | os.PathLike[str], text_column: str | None = None
) -> dict[str, Any]:
    """Cut radiology reports into their sections.

    Writes study,impression,findings,last_paragraph,comparison and further sections, a row per report, with single
    blanks, blank where there is none; where each stands in its report goes to OUT.spans.jsonl (study, name, first
    character, the one after the last, text; of a table also the column, whose cell is counted from), and what could not
    be read to OUT.excluded.csv (path, reason). Reports are read one by one and never changed.

    Args:
        path: PATH a report, a table of reports (Open-i, CT-RATE, or any with --text_column), or a folder of either
        out: FILE O.csv, written, its folder is created
        text_column: NAME of the column that holds the report, in a table of an unknown layout

    Returns:
        `reports` and `excluded` (numbers), `other_files` (kind -> number), `out`, `spans` and `excluded_file` (paths),
        `sections`: column -> reports.

    Raises:
        BadInput: if nothing in the input is usable.
        UsageError: if the output would replace a report.

    Examples:
        python -m common sections mimic-cxr/files --out sections.csv
        python -m common sections indiana_reports.csv --out sections.csv
        python -m common sections reports.csv --text_column text --out sections.csv
    """
    source, out = Path(path), Path(out)
    if out.is_dir():
        raise UsageError(f"--out is {out}, which is a folder, expected a file O.csv")
    if is_same(out, source):
        raise UsageError(f"--out is {out}, which is the input, expected another file")
    if source.is_dir() and out.exists() and out.suffix.lower() in (".txt", ".xml"):
        raise UsageError(f"--out is {out}, which may be a report, expected a file O.csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    spans, excluded = out.with_suffix(".spans.jsonl"), out.with_suffix(".excluded.csv")
    counts: Counter[str] = Counter(dict.fromkeys(SECTION_COLUMNS, 0))
    reports = 0
    other: Counter[str] = Counter()
    problems: list[BadInput] = []
    with reading(source), atomic_text(out) as table_file, atomic_text(spans) as spans_file:
        table = csv_writer(table_file)
        table.writerow(["study", *SECTION_COLUMNS, "other"])
        for report in iter_reports(source, text_column, other):
            if isinstance(report, BadInput):
                problems.append(report)
                continue
            reports += 1
            cells = _cells(report)
            counts.update(name for name, text in cells.items() if text)
            table.writerow([report.study, *cells.values()])
            for span in _spans(report):
                spans_file.write(json.dumps(span, ensure_ascii=False) + "\n")
        with atomic_text(excluded) as file:
            rows = [["path", "reason"], *([str(problem.path), problem.reason] for problem in problems)]
            csv_writer(file).writerows(rows)
        if not reports:
            raise _nothing_left(source, problems)
    return {
        "reports": reports,
        "excluded": len(problems),
        "other_files": dict(sorted(other.items())),
        "out": str(out),
        "spans": str(spans),
        "excluded_file": str(excluded),
        "sections": dict(counts),
    }


def _nothing_left(source: Path, problems: Sequence[BadInput]) -> BadInput:
    if not problems:
        return BadInput(source, "has no rows, expected a report in each")
    if len(problems) == 1:
        return problems[0]
    return BadInput(source, f"holds no usable report, the first of {len(problems)} reasons: {problems[0]}")


def _cells(report: SectionedReport) -> dict[str, str]:
    texts = sections_text(report.sections)
    other = " | ".join(f"{name}: {text}" for name, text in texts.items() if name not in SECTION_COLUMNS)
    return {name: texts.get(name, "") for name in SECTION_COLUMNS} | {"other": other}


def _spans(report: SectionedReport) -> Iterator[dict[str, Any]]:
    for place, section in enumerate(report.sections):
        column = {} if report.columns is None else {"column": report.columns[place]}
        where = {"name": section.name, "start": section.start, "end": section.end}
        yield {"study": report.study} | column | where | {"text": section.text}
