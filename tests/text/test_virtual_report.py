import pytest

from common.text.template_phrases import expand
from common.text.virtual_report import assemble


@pytest.fixture
def report():
    import random

    def marked(text, label, value):
        return expand(text, random.Random(0), {}, label, value)

    sections = {
        "impression": marked("1. <Large pleural effusion>.", "Pleural Effusion", 1.0),
        "findings": marked("There is no <pneumothorax>. " + "Word " * 30 + "a <big effusion>.", "Pneumothorax", 0.0),
        "indication": "Cough.",
        "technique": "One view.",
        "comparison": "None.",
    }
    return assemble(sections, {"Pleural Effusion": 1.0})


def test_sections_stand_in_the_order_of_a_report(report):
    assert list(report.sections) == ["indication", "technique", "comparison", "findings", "impression"]
    assert report.text.splitlines()[0].strip() == "FINAL REPORT"
    assert all(line.startswith(" ") for line in report.text.splitlines())
    assert report.text.endswith("IMPRESSION: 1. Large pleural effusion.\n")


def test_spans_point_at_their_words(report):
    assert [report.text[s.start : s.end] for s in report.spans] == [
        "pneumothorax",
        "big effusion",
        "Large pleural effusion",
    ]
    assert [s.value for s in report.spans] == [0.0, 0.0, 1.0]


def test_wrapping_keeps_the_words(report):
    lines = report.wrapped().splitlines()
    assert " ".join(lines).split() == report.text.split() and len(lines) > len(report.text.splitlines())
    assert max(len(line) for line in lines) <= 79 and all(line.startswith(" ") for line in lines)
