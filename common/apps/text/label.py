"""`label`: the findings that the reports of a table state, one column per label."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.apps.run.bundle import UsageError, hint
from common.io.bad_input import BadInput
from common.io.inputs import is_same, reading
from common.io.output_folder import atomic_text, csv_text, csv_writer, write_text
from common.io.table import iter_rows, read_columns
from common.text.ct_labeller import explain_ct, label_ct
from common.text.ct_labels import CT_RATE_LABELS
from common.text.cxr_labeller import CHEXPERT_LABELS, explain_cxr, label_cxr
from common.text.finding_reader import Evidence
from common.text.plain_text import has_text, is_english

KINDS = {"cxr": (CHEXPERT_LABELS, label_cxr, explain_cxr), "ct": (CT_RATE_LABELS, label_ct, explain_ct)}
_BETWEEN = "\n\n"


def label_table(
    kind: str,
    table: str | os.PathLike[str],
    text_columns: str | Sequence[str],
    out: str | os.PathLike[str],
    explain: bool = False,
) -> dict[str, Any]:
    """Read which findings the reports of a table state, by rules that explain themselves.

    cxr gives the 14 findings of CheXpert as 1.0 (there), 0.0 (said not to be there), -1.0 (uncertain) or blank (not
    mentioned); ct the 18 of CT-RATE as 1 or 0. A report that says nothing (blank, "nan", "N/A") or is not in English is
    counted and all its labels are blank. The input's columns come first; one with a label's name becomes input_<name>.
    The input is read row by row and never changed; rows that cannot be read go to OUT.excluded.csv (path,reason).

    Args:
        kind: cxr or ct
        table: TABLE T.csv, a report per row
        text_columns: A,B columns that hold the report; they are read in this order, as one text
        out: FILE O.csv, written, its folder is created
        explain: also write OUT.spans.jsonl, with the row, column, characters, value and rule of every mention

    Returns:
        `rows`, `without_text`, `not_english` and `excluded` (numbers), `out`, `excluded_file` and `spans` (paths or
        None), `counts`: label -> value -> rows.

    Raises:
        UsageError: for an unknown kind, no text column, or an output that is the input.
        BadInput: if the table lacks a text column, or none of its rows can be read.

    Examples:
        python -m common label cxr reports.csv --text_columns findings,impression --out labels.csv --explain
        python -m common label ct reports.csv --text_columns report_text --out labels.csv
    """
    if kind not in KINDS:
        raise UsageError(f"label {kind!r} is unknown, expected {' or '.join(KINDS)}{hint(kind, KINDS)}")
    labels, label, explained = KINDS[kind]
    table, out = Path(table), Path(out)
    if isinstance(text_columns, str):
        text_columns = [name.strip() for name in text_columns.split(",")]
    if not text_columns or not all(text_columns):
        given = repr(",".join(text_columns)) if text_columns else "empty"
        raise UsageError(f"--text_columns is {given}, expected names of columns with commas between them")
    if is_same(out, table):
        raise UsageError(f"--out is {out}, which is the input, expected another file")
    columns = read_columns(table)
    renamed = {name: f"input_{name}" if name in labels else name for name in columns}
    taken = [name for name, new in renamed.items() if new != name and new in columns]
    if taken:
        raise BadInput(table, f"has the columns {taken[0]!r} and 'input_{taken[0]}', expected one of them")
    out.parent.mkdir(parents=True, exist_ok=True)
    spans = out.with_suffix(".spans.jsonl") if explain else None
    counts: dict[str, Counter[str]] = {name: Counter() for name in labels}
    rows = without_text = not_english = 0
    excluded = []
    with ExitStack() as stack:
        stack.enter_context(reading(table))
        file = stack.enter_context(atomic_text(out))
        spans_file = stack.enter_context(atomic_text(spans)) if spans else None
        writer = csv_writer(file)
        writer.writerow([*renamed.values(), *labels])
        for found_row in iter_rows(table, text_columns):
            if isinstance(found_row, BadInput):
                excluded.append({"path": str(found_row.path), "reason": found_row.reason})
                continue
            row, rows = found_row[1], rows + 1
            text = _BETWEEN.join(row[name] for name in text_columns)
            says, english = has_text(text), is_english(text)
            without_text, not_english = without_text + (not says), not_english + (says and not english)
            found = label(text) if says and english else dict.fromkeys(labels)
            values = [_cell(found[name]) for name in labels]
            writer.writerow([*row.values(), *values])
            for name, value in zip(labels, values, strict=True):
                counts[name][value] += 1
            if spans_file:
                for item in _in_columns(explained(text), row, text_columns):
                    spans_file.write(json.dumps({"row": rows} | item, ensure_ascii=False) + "\n")
        if excluded and not rows:
            raise BadInput(**excluded[0])
    excluded_file = out.with_suffix(".excluded.csv")
    if excluded:
        write_text(excluded_file, csv_text(("path", "reason"), excluded))
    else:  # that of an earlier call would be taken for this one's
        excluded_file.unlink(missing_ok=True)
    return {
        "rows": rows,
        "without_text": without_text,
        "not_english": not_english,
        "excluded": len(excluded),
        "excluded_file": str(excluded_file) if excluded else None,
        "out": str(out),
        "spans": None if spans is None else str(spans),
        "counts": {name: dict(sorted(count.items())) for name, count in counts.items()},
    }


def _cell(value: float | int | None) -> str:
    return "" if value is None else str(value)


def _in_columns(evidence: Sequence[Evidence], row: dict[str, str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Evidence with its place in the column that it stands in."""
    starts, start = [], 0
    for name in columns:
        starts.append(start)
        start += len(row[name]) + len(_BETWEEN)
    for item in evidence:
        k = max(i for i, start in enumerate(starts) if start <= item.start)
        place = {"column": columns[k], "start": item.start - starts[k], "end": item.end - starts[k]}
        yield place | {"label": item.label, "value": item.value, "text": item.text, "rule": item.rule}
