import csv
import random
from pathlib import Path

import pytest

from common.text.plain_text import PlainText, has_text, is_english

REPORTS = Path(__file__).parents[3] / "shared" / "data" / "reports"


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ("No effusion.", "No effusion."),
        ("a<br>b<BR/>c<p class='x'>d</p>", "a\nb\nc\nd\n"),
        ("<b>No</b> <span style=\"color: red\">effusion</span>", "No effusion"),
        ("<td>Effusion</td><td>None</td>", " Effusion  None "),
        ("<!-- a --><style>p {}</style>Clear", "Clear"),
        ("5&nbsp;mm &lt; 1 cm &amp; &#40;x&#x29;", "5 mm < 1 cm & (x)"),
        ("&amp;lt;br&amp;gt;A", "\nA"),
        ("a <5 mm, [<The heart>], <PERSON>, <A nodule>, a < b", "a <5 mm, [<The heart>], <PERSON>, <A nodule>, a < b"),
        ("R&D &unknownname; AT&T", "R&D &unknownname; AT&T"),
        ("pneumo\u00adthorax \u200bin\u2060 the \ufb01ssure", "pneumothorax in the fissure"),
        ("a\u2028b\x85c\x0bd\r\ne\rf", "a\nb\nc\nd \ne\nf"),
        ("a\u00a0b\tc", "a b c"),
        (r"a\.br\b\nc\r\nd", "a\nb\nc\nd"),
        ("isn\u2019t \u2013 x\uff1a", "isn't - x:"),
    ],
)  # fmt: skip
def test_text_is_what_people_read(report, text):
    assert PlainText(report).text == text


def test_signs_stay_where_they_are_wanted():
    assert PlainText("a \u2013 b\u2019s&nbsp;\u201cc\u201d", signs=False).text == "a \u2013 b\u2019s \u201cc\u201d"


def test_every_place_is_known():
    report = "<p>Small pneumo\u00adthorax&nbsp;or e\ufb00usion</p>"
    plain = PlainText(report)
    for word, own in (("pneumothorax", "pneumo\u00adthorax"), ("effusion", "e\ufb00usion"), ("Small", "Small")):
        start = plain.text.index(word)
        first, last = plain.span(start, start + len(word))
        assert report[first:last] == own


def test_any_text_keeps_its_order():
    rng = random.Random(0)
    pieces = "<br>|&amp;|&lt;p&gt;|\u00ad|\ufb01|\u0130|a|effusion|.|\n|\r\n|\\n|<|>|&|;|\u2028|<b>|\ud800| ".split("|")
    for _ in range(2000):
        report = "".join(rng.choices(pieces, k=rng.randrange(25)))
        plain = PlainText(report)
        spans = [plain.span(k, k + 1) for k in range(len(plain.text))]
        assert all(0 <= first <= last <= len(report) for first, last in spans)
        assert spans == sorted(spans)
        assert plain.span(len(plain.text), len(plain.text))[0] <= len(report)


@pytest.mark.parametrize("report", ["", None, " ", "nan", "None.", "N/A", "n.a.", "<NA>", "#N/A", "NULL", "-", "---",
    "___", "XXXX", "Not given.", "No report available", "[no text]", "nan\n\nnan", "FINDINGS: None. IMPRESSION:",
    "See report.", "Dictation pending", "1.", "\u00a0"])  # fmt: skip
def test_spellings_of_no_text(report):
    assert not has_text(report)


@pytest.mark.parametrize("report", ["No findings.", "Normal.", "No acute abnormality", "Pneumothorax: none", "x" * 300])
def test_what_says_something(report):
    assert has_text(report)


@pytest.mark.parametrize("report", ["Pas de pneumothorax.", "Kein Pneumothorax.", "Cardiomegalia.", "Derrame pleural",
    "Sem derrame pleural. Não há pneumotórax.", "Nessun versamento.", "Geen pneumothorax.", "Plevral efüzyon yok.",
    "Нет пневмоторакса", "胸腔积液", "FINDINGS: Derrame pleural izquierdo. IMPRESSION: Derrame."])  # fmt: skip
def test_other_languages(report):
    assert not is_english(report)


@pytest.mark.parametrize("report", ["Pneumothorax.", "Normal", "Nil effusion", "de novo nodule",
    "Cardiomegaly, Sjögren.", "Effusion 5 µm", "Small pleural effusion on the left.", "", "5 mm"])  # fmt: skip
def test_english(report):
    assert is_english(report)


def test_real_reports_are_english():
    if not REPORTS.is_dir():
        pytest.skip("the real reports are not here")
    for name, columns in (
        ("indiana_reports.csv", ("findings", "impression")),
        ("ctclip_text_classifier_train.csv", ("report_text",)),
    ):
        with (REPORTS / name).open(encoding="utf-8") as file:
            reports = [" ".join(row[column] for column in columns) for row in csv.DictReader(file)]
        assert all(is_english(report) for report in reports)
