import random

import pytest

from common.text.mimic_report import COLUMNS, render_mimic
from common.text.sections import report_sections

WORDS = (
    "The lungs are clear. No pleural effusion or pneumothorax is seen. XXXX ___ 1. 2) right- well-defined CHEST: "
    "LUNGS: XXXX: ___: HISTORY AP, 10:42 A.M. (cough); heart size is normal, AND LATERAL note: Chest: FINAL"
).split()
NAMES = ("examination", "indication", "history", "technique", "comparison", "findings", "impression", "recommendations")


def test_layout():
    report = render_mimic({"indication": "Cough.", "comparison": " ", "findings": "Clear \n lungs. " * 12})
    lines = report.split("\n")
    assert lines[0] == " " * 33 + "FINAL REPORT" and lines[1] == " INDICATION:  Cough." and lines[2] == " "
    assert lines[3].startswith(" FINDINGS:  Clear lungs. Clear")
    assert all(line == "" or line[0] == " " for line in lines) and max(map(len, lines)) <= COLUMNS
    assert report_sections(report) == {"findings": " ".join(["Clear lungs."] * 12), "indication": "Cough."}


def test_text_without_header():
    sections = {"comparison": "None.", "last_paragraph": "The lungs are clear. " * 10}
    report = render_mimic(sections)
    assert report_sections(report) == {name: " ".join(text.split()) for name, text in sections.items()}


def test_whatever_is_written_is_read_back():
    rng = random.Random(0)
    for _ in range(100):
        chosen = sorted(rng.sample(NAMES, rng.randrange(2, 7)), key=NAMES.index)
        body = [] if {"findings", "impression"} & set(chosen) else ["findings"]
        sections = {
            name: "Seen. " + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(60))) + " end."
            for name in chosen + body
        }
        report = render_mimic(sections)
        assert report_sections(report) == {name: " ".join(text.split()) for name, text in sections.items()}
        assert max(map(len, report.split("\n"))) <= COLUMNS


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"nonsense": "a"}, "section is 'nonsense'"),
        ({"preamble": "a"}, "section is 'preamble'"),
        ({"indication": "Cough.", "findings": "Clear. IMPRESSION: Normal."}, "'findings' reads back as 'Clear.'"),
        ({"findings": "Clear.", "last_paragraph": "More."}, "reads back as"),
    ],
)
def test_what_cannot_be_read_back_is_refused(sections, says):
    with pytest.raises(ValueError, match=says):
        render_mimic(sections)
