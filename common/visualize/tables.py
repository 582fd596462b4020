"""Numbers as text: aligned tables for the terminal, and the same rounding for the page of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

MISSING = "-"


def column_texts(values: Sequence[object]) -> list[str]:
    """Text of the values of one column: floats with the same decimals, chosen by the largest; None as a dash.

    Two decimals from 10 up, three from 1 up, four below, and powers of ten if all are below 0.001.
    """
    if is_number_column(values) and any(isinstance(value, float) for value in values):
        values = [None if value is None else float(value) for value in values]  # 28 among 28.5 is 28.0
    floats = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
    largest = max(floats, default=0.0)
    form = ".2f" if largest >= 10 else ".3f" if largest >= 1 else ".4f" if largest >= 1e-3 or not largest else ".2e"
    return [cell_text(value, form) for value in values]


def cell_text(value: object, form: str = ".4g") -> str:
    """Text of one value; whole numbers get thousands separators from five digits up."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return format(value, form)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(item, form) for item in value)
    return str(value)


def format_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned plain text: a head, a rule, a line per row; text to the left, numbers to the right.

    Args:
        rows: column -> value; a missing one is a dash.
        columns: which, in order; by default all of them in the order of their appearance.

    Returns:
        The lines, without a newline at the end.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else list(columns)
    lines: list[list[str]] = [names, ["-"] * len(names), *([] for _ in rows)]
    for i, name in enumerate(names):
        values = [row.get(name) for row in rows]
        texts = column_texts(values)
        width = max(len(text) for text in [name, *texts])
        to_right = is_number_column(values)
        lines[0][i] = name.rjust(width) if to_right else name.ljust(width)
        lines[1][i] = "-" * width
        for line, text in zip(lines[2:], texts, strict=True):
            line.append(text.rjust(width) if to_right else text.ljust(width))
    return "\n".join("  ".join(line).rstrip() for line in lines)


def is_number_column(values: Sequence[object]) -> bool:
    """Whether a column holds numbers only, apart from missing ones."""
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in present)


def parsed(text: str) -> object:
    """A CSV field as what it says: an int, a float, None if blank, else the text; `000123` and `1_000` stay text."""
    if not text:
        return None
    plain = text.lstrip("+-")
    if plain.isascii() and plain.isdigit():
        return text if plain != "0" and plain.startswith("0") else int(text)
    if text.lower() in ("nan", "inf", "-inf") or (
        set(text) <= set("0123456789.eE+-") and any(c.isdigit() for c in text)
    ):
        try:
            return float(text)
        except ValueError:  # 1.2.840 or 2026-01-01
            return text
    return text


def json_text(value: object, indent: int | None = None) -> str:
    """JSON with a newline at the end; JSON has no NaN and no infinity, so they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
