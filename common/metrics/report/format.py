"""Whether generated text has the form that was asked for: FINDINGS and IMPRESSION, 50 to 200 words, or strict JSON."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest

import numpy as np

from common.io.strict_json import parse_object
from common.metrics.report.corpus_metric import CorpusMetric, mean_metric

FORMAT_CHECKS = ("has_findings", "has_impression", "in_order", "word_count", "adherent")

_HEADER = re.compile(r"(?<![^\W_])(findings|impression)[ \t]*:", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]")


def format_checks(report: str, words: tuple[int, int] = (50, 200)) -> dict[str, bool]:
    """What holds of one report.

    Args:
        report: the generated text. A header is the word with a colon, in any case, anywhere: on a line of its own or as
            in `Findings: ... Impression: ...` on one line.
        words: fewest and most words of the whole report. A word is what stands between white space and holds a letter
            or digit; headers count as words.

    Returns:
        `has_findings` and `has_impression`: the header is there once, with text after it; `in_order`: both are there,
        findings first; `word_count`: within the limits; `adherent`: all of these.
    """
    headers = list(_HEADER.finditer(report))
    bodies: dict[str, list[bool]] = {"findings": [], "impression": []}
    for header, following in zip_longest(headers, headers[1:]):
        end = following.start() if following else len(report)
        bodies[header[1].lower()].append(bool(_WORD.search(report, header.end(), end)))
    checks = {f"has_{name}": found == [True] for name, found in bodies.items()}
    checks["in_order"] = all(checks.values()) and headers[0][1].lower() == "findings"
    checks["word_count"] = words[0] <= sum(bool(_WORD.search(word)) for word in report.split()) <= words[1]
    checks["adherent"] = all(checks.values())
    return checks


def format_adherence(reports: Sequence[str], words: tuple[int, int] = (50, 200)) -> CorpusMetric:
    """The shares of reports for which each of `FORMAT_CHECKS` holds, within [0, 1]; arguments as `format_checks`."""
    rows = [list(format_checks(report, words).values()) for report in reports]
    return mean_metric(FORMAT_CHECKS, np.array(rows, dtype=float))


def is_valid_json(text: str, keys: Collection[str] = ()) -> bool:
    """True if the text is one JSON object (RFC 8259) that holds the keys, with nothing around it but white space.

    Strict, because a program parses it next, see `common.io.strict_json.parse_object`.
    """
    value = parse_object(text)
    return value is not None and all(key in value for key in keys)


def valid_json_rate(texts: Sequence[str], keys: Collection[str] = ()) -> CorpusMetric:
    """Metric `valid_json`: the share of texts that `is_valid_json` accepts, within [0, 1]."""
    return mean_metric(["valid_json"], np.array([is_valid_json(text, keys) for text in texts], dtype=float))
