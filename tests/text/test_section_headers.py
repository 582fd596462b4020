import json
from pathlib import Path

import pytest

from common.text.section_headers import SECTION_OF, is_anatomy, is_generic, known_section, section_of_capitals

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "oracles" / "mimic_sections" / "expected.json"
# Slips of the official table, corrected on purpose.
CORRECTED = {"ndication": "indication"}


@pytest.fixture(scope="module")
def official():
    if not ORACLE.is_file():
        pytest.skip(f"{ORACLE.name} of MIT-LCP is not there")
    return json.loads(ORACLE.read_text(encoding="utf-8"))


def test_the_official_spellings(official):
    spellings = {name: section for name, section in official["frequent_sections"].items() if name != "preamble"}
    assert len(spellings) > 50
    for name, section in spellings.items():
        assert section_of_capitals(name.upper()) == CORRECTED.get(name, section), name


def test_a_header_that_contains_a_main_section(official):
    for name in official["main_sections"]:
        assert section_of_capitals(f"PRIOR CT {name.upper()}") == name


def test_a_header_that_names_the_radiograph(official):
    for part in official["findings_if_contains"]:
        assert section_of_capitals(part.upper()) == "findings", part
        assert section_of_capitals(f"SUPINE {part.upper()}, ___") == "findings", part


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("AP CHEST, 10:42 A.M., ___", "findings"),
        ("PORTABLE CHEST RADIOGRAPH PERFORMED ON ___ AT 5:30 PM", "findings"),
        ("CHEST, PA AND LATERAL", "findings"),
        ("RECOMMENDATION(s)", "recommendations"),
        ("FINDINGS  (CT CHEST)", "findings"),
        ("COMPARISON(S)", "comparison"),
        ("REASON FOR CHEST X-RAY", "indication"),
        ("NOTIFICATION OF CRITICAL FINDINGS", "notification"),
        ("IMPRESSION AND RECOMMENDATION", "impression"),
        ("FINDINGS & OPINION", "findings"),
        ("INDICATON", "indication"),  # one letter lost, added, changed, swapped
        ("FINNDINGS", "findings"),
        ("TECHNIQVE", "technique"),
        ("EXAMINATOIN", "examination"),
        ("XXXX", None),
        ("___", None),
        ("CHEST PAIN", None),
        ("THE CHEST SHOWS", None),
        ("THERE ARE NO FINDINGS", None),
        ("PICC", None),
        ("*", None),
        ("", None),
    ],
)
def test_capitals(name, section):
    assert section_of_capitals(name) == section


def test_listed_names_in_any_case():
    assert known_section("Clinical  History") == "history"
    assert known_section("Finding(s)") == "findings"
    assert known_section("findings are") is None
    assert all(spelling == spelling.lower() for spelling in SECTION_OF)


def test_body_parts_are_no_sections():
    assert is_anatomy("LINES AND TUBES") and is_anatomy("CHEST WALL") and is_anatomy("HEART/MEDIASTINUM")
    assert not is_anatomy("CHEST, TWO VIEWS") and not is_anatomy("IMPRESSION")


def test_generic_headers():
    assert is_generic("CLINICAL CORRELATE") and is_generic("DOSE")
    assert not is_generic("XXXX") and not is_generic("HE") and not is_generic("There") and not is_generic("L5")
    assert not is_generic("THERE IS ONE FINDING")
