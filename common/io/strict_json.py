"""JSON as its standard (RFC 8259) has it, which Python's own parser is more generous than."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["parse_object"]


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, with nothing around it but white space; None if it is anything else.

    NaN and Infinity, which Python's parser would accept, are no JSON; a code fence or a sentence around the object
    fails, and so does an object that names a key twice.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key is there twice")
    return result
