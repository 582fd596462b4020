import json
import random
from pathlib import Path

import pytest

from common.text.sections import Section, conclusion, normalise, report_sections, split_sections

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "oracles" / "mimic_sections"
TITLE = " " * 33 + "FINAL REPORT\n"
RULE = " " + "_" * 78 + "\n"


def names(text):
    return [section.name for section in split_sections(text)]


def test_the_example_of_mit_lcp_exactly():
    if not ORACLE.is_dir():
        pytest.skip("the example of MIT-LCP is not there")
    report = (ORACLE / "docs_example_report.txt").read_bytes().decode()
    expected = json.loads((ORACLE / "expected.json").read_text(encoding="utf-8"))["docs_example_parse"]
    found = split_sections(report)
    assert [{"name": s.name, "start": s.start, "text": s.text} for s in found] == expected
    assert all(report[s.start : s.end] == s.text for s in found)


def test_places():
    text = TITLE + " INDICATION:  Cough.\n \n FINDINGS: \n \n Clear\n lungs.\n"
    assert split_sections(text) == [
        Section("preamble", TITLE + " ", 0, 47),
        Section("indication", " Cough.\n ", 59, 68),
        Section("findings", "\n \n Clear\n lungs.\n", 80, 98),
    ]


def test_the_last_one_with_text_wins():
    text = " IMPRESSION: First.\n \n FINDINGS: A.\n \n IMPRESSION: Second.\n \n COMPARISON: One.\n \n COMPARISON:\n"
    assert report_sections(text) == {"impression": "Second.", "findings": "A.", "comparison": "One."}
    assert names(text).count("impression") == 2


def test_a_title_in_the_place_of_findings_is_left_out():
    text = TITLE + " CHEST, PA AND LATERAL:\n \n HISTORY: Cough.\n \n IMPRESSION: Normal.\n"
    assert names(text) == ["preamble", "history", "impression"]
    text = TITLE + " HISTORY: Cough.\n \n AP CHEST, 10:42 A.M., ___:\n \n Clear.\n \n Normal heart.\n"
    assert report_sections(text) == {"findings": "Clear. Normal heart.", "history": "Cough."}


def test_findings_and_impression_in_one():
    assert report_sections(TITLE + " FINDINGS AND IMPRESSION:  Clear.\n") == {"impression": "Clear."}


def test_the_order_of_the_columns_and_the_conclusion():
    text = " INDICATION: I.\n \n COMPARISON: C.\n \n FINDINGS: F.\n \n IMPRESSION: M.\n"
    sections = report_sections(text)
    assert list(sections) == ["impression", "findings", "comparison", "indication"]
    for name, expected in (("impression", "M."), ("findings", "F."), ("comparison", "C."), ("indication", "")):
        assert conclusion(sections) == expected
        del sections[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The last section ends after its first paragraph.
        (" INDICATION: Cough.\n \n Clear.\n \n Normal heart.\n", {"indication": "Cough."}),
        (" COMPARISON: \n \n ___\n \n Clear.\n \n Normal heart.\n", {"comparison": "___"}),
        (" COMPARISON:  ___\r\n\r\n Clear.\r\n\r\n Normal heart.\r\n", {"comparison": "___"}),
        # What is told to whom comes after the text.
        (
            " COMPARISON: ___\n \n Clear.\n \n Normal heart.\n \n NOTIFICATION: Dr. ___ at 5:32 PM.\n",
            {"comparison": "___", "notification": "Dr. ___ at 5:32 PM."},
        ),
        # No headers at all.
        ("Clear.\n\nNormal heart.", {}),
        ("Clear. Normal heart.", {}),
        (TITLE + " Clear.\n \n Normal heart.\n", {}),
        (TITLE + " AP CHEST RADIOGRAPH ___\n \n Clear.\n \n Normal heart.\n", {"preamble": "AP CHEST RADIOGRAPH ___"}),
    ],
)
def test_last_paragraph(text, expected):
    sections = report_sections(text)
    assert sections.pop("last_paragraph") == "Clear. Normal heart."
    assert sections == expected


def test_a_report_in_its_comparison():
    assert report_sections(" COMPARISON: Clear since then.\n") == {"comparison": "Clear since then."}


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\ufeff", "FINDINGS:\nIMPRESSION:\n"])
def test_nothing(text):
    assert report_sections(text) == {}


def test_preliminary_reading_and_addendum():
    text = (
        " WET READ: ___ ___ 5:32 PM\n  Effusion.\n"
        + RULE
        + TITLE
        + " INDICATION: Cough.\n \n FINDINGS: Clear.\n"
        + RULE
    )
    assert report_sections(text) == {
        "wet read": "___ ___ 5:32 PM Effusion.",
        "indication": "Cough.",
        "findings": "Clear.",
    }
    text = " " * 33 + "FINAL ADDENDUM\n ADDENDUM:  A slip.\n" + RULE + TITLE + " IMPRESSION: Normal.\n"
    assert report_sections(text) == {"addendum": "A slip.", "impression": "Normal."}
    text = TITLE + " PFI:  No change.\n \n IMPRESSION: Normal.\n"
    assert report_sections(text) == {"history": "No change.", "impression": "Normal."}


def test_words_broken_at_the_end_of_a_line():
    assert normalise("well-\n defined, air-\r\nfilled") == "well-defined, air-filled"
    assert normalise("right- \n and left-sided; right-\nto-left; 3-\n4; air- filled") == (
        "right- and left-sided; right-to-left; 3- 4; air- filled"
    )
    assert normalise(f"Clear.\n{RULE}") == "Clear."


PIECES = (
    "FINDINGS:|IMPRESSION:|Findings|Impression: |INDICATION|CHEST, PA:|AP CHEST, 10:42 A.M., ___:|XXXX|___|"
    "FINAL REPORT|\n|\n |\n \n|\r\n|\r| |  |\t|\u00a0|\u2028|a|A|.|:|- |1. |**|## |_________|-----|"
    "no effusion|finding|\u0130|\ufb01|\u6f22|\0|\U0001f600|(|)|/|&|FINDINGS AND IMPRESSION|WET READ: 5:32 PM|"
    "RECOMMENDATION(S):|LUNGS:|well-\n defined"
).split("|")


def test_anything_is_cut_into_places_of_the_text():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(40)))
        end = 0
        for section in split_sections(text):
            assert text[section.start : section.end] == section.text, repr(text)
            assert end <= section.start <= section.end, repr(text)
            end = section.end
        assert all(value and value == " ".join(value.split()) for value in report_sections(text).values())


@pytest.mark.parametrize(
    "unit",
    [
        "\n", " ", ":", "A", " \n", "\r\n", "_", "-", "*", "#", "A:\n", "A ", "a-\n", "1:11", "\n CHEST:", "\n\n ABC: ",
        "FINDINGS: ", "findings: ", "FINDINGS\n", "Findings: a. ", "FINAL REPORT\n", "__________\nFINAL REPORT\n",
        "Findings: no effusion. Impression: normal. ", " FINDINGS:  Clear.\n \n IMPRESSION: Normal.\n \n",
    ],
)  # fmt: skip
def test_a_megabyte_is_read(unit):
    """How long that takes is measured by benchmarks/text_fuzz.py."""
    values = report_sections(unit * (1_000_000 // len(unit))).values()
    assert all(value and value == " ".join(value.split()) for value in values)
