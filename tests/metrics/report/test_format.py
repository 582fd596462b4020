import json

import pytest

from common.metrics.report.format import format_adherence, format_checks, is_valid_json, valid_json_rate

BODY = "word " * 60


@pytest.mark.parametrize(
    "report",
    [
        f"FINDINGS: {BODY} IMPRESSION: none",
        f"Findings:\n{BODY}\n\nImpression:\n1. none",
        f"Technique: CT.\nfindings : {BODY}. impression: none",
    ],
)
def test_adherent(report):
    assert all(format_checks(report).values())


@pytest.mark.parametrize(
    ("report", "failing"),
    [
        ("", {"has_findings", "has_impression", "in_order", "word_count"}),
        (BODY, {"has_findings", "has_impression", "in_order"}),
        (f"IMPRESSION: none. FINDINGS: {BODY}", {"in_order"}),
        (f"FINDINGS: {BODY} IMPRESSION: .", {"has_impression", "in_order"}),
        (f"FINDINGS: {BODY} IMPRESSION: a FINDINGS: b", {"has_findings", "in_order"}),
        ("FINDINGS: clear IMPRESSION: none", {"word_count"}),
        (f"FINDINGS: {BODY * 4} IMPRESSION: none", {"word_count"}),
        (f"Nonfindings: {BODY} IMPRESSION: none", {"has_findings", "in_order"}),
    ],
)
def test_what_fails_is_named(report, failing):
    assert {name for name, passed in format_checks(report).items() if not passed} == failing | {"adherent"}


@pytest.mark.parametrize(("words", "passes"), [(49, False), (50, True), (200, True), (201, False)])
def test_limits_are_within(words, passes):
    report = "FINDINGS: " + "w " * (words - 3) + "- ... IMPRESSION: w"
    assert format_checks(report)["word_count"] is passes


def test_rates():
    value = format_adherence([f"FINDINGS: {BODY} IMPRESSION: none", "", BODY, f"FINDINGS: {BODY}"]).value()
    assert value == {
        "has_findings": 0.5,
        "has_impression": 0.25,
        "in_order": 0.25,
        "word_count": 0.75,
        "adherent": 0.25,
    }


@pytest.mark.parametrize("text", ['{"a": 1}', ' \n{"a": {"b": [null, "\\u00e9"]}}\n', "{}"])
def test_valid_json(text):
    assert is_valid_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[1]", '"text"', '{"a": 1', "{'a': 1}", '{"a": NaN}', '{"a": 1} thanks', '```json\n{"a": 1}\n```',
        '{"a": 1, "a": 2}', '{"a": 1,}', "[" * 100_000, '{"a":' * 100_000,
    ],
)  # fmt: skip
def test_invalid_json(text):
    assert not is_valid_json(text)


def test_keys_are_asked_for():
    text = json.dumps({"impression": "", "labels": {}})
    assert is_valid_json(text, ["impression", "labels"])
    assert not is_valid_json(text, ["impression", "icd"])
    assert valid_json_rate([text, "no", text, "{}"], ["labels"]).value() == {"valid_json": 0.5}
