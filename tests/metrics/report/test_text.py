import random
import re

import pytest

from common.metrics.report.text import clean_report


def r2gen(report):
    """R2Gen's chain for MIMIC-CXR as its paper's code applies it, step by step, then its tokenizer's round trip."""
    text = report.replace("\n", " ")
    for _ in range(8):
        text = text.replace("__", "_")
    for _ in range(10):
        text = text.replace("  ", " ")
    for _ in range(10):
        text = text.replace("..", ".")
    text = text.replace("1. ", "")
    for form in (". {}. ", " {}. "):
        for n in (2, 3, 4, 5):
            text = text.replace(form.format(n), ". ")
    sentences = [
        re.sub(r"[.,?;*!%^&_+():-\[\]{}]", "", re.sub(r"[\"/\\']", "", sentence).strip().lower())
        for sentence in text.strip().lower().split(". ")
    ]
    return " ".join((" . ".join(sentences) + " .").split())


@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("The lungs are clear. Heart size is normal.", "the lungs are clear . heart size is normal ."),
        ("FINDINGS:\nLow   volumes..\n\nNo effusion", "findings low volumes . no effusion ."),
        ("1. Clear lungs. 2. No effusion.", "clear lungs . no effusion ."),
        ("AP/PA [view] (portable); 50% \"film\"", "appa view portable 50 film ."),
        ("Follow-up as needed", "follow-up as needed ."),
        ("A 1.5 cm nodule", "a 15 cm nodule ."),
        ("Fracture at T11. The rest is well.", "fracture at t1the rest is well ."),
        ("Ödem. Größe 3 µm", "ödem . größe 3 µm ."),
    ],
)  # fmt: skip
def test_cleaned(report, cleaned):
    assert clean_report(report) == cleaned == r2gen(report)


@pytest.mark.parametrize("blank", ["", " ", "\n\n", ".", " . . ", "?!", "___", "-"])
def test_what_holds_no_word_is_cleaned_to_nothing(blank):
    assert clean_report(blank) == ""


def test_equal_to_the_lineage_on_random_text():
    rng = random.Random(0)
    for _ in range(3000):
        report = "".join(
            rng.choice(["ab", "Cd", "1", "2", "3", ". ", ".", " ", "\n", "_", ":", "x-y", "("]) for _ in range(30)
        )
        if any(character.isalnum() for character in r2gen(report)):
            assert clean_report(report) == r2gen(report)


def test_cleaning_twice_changes_nothing_more_than_once():
    once = clean_report("Heart size: normal. No effusion, no pneumothorax.")
    assert clean_report(once) == once
