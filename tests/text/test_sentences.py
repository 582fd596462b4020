import random

import pytest

from common.text.plain_text import PlainText
from common.text.sentences import split_sentences, statement_starts


def texts(report: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(report)]


@pytest.mark.parametrize(
    ("report", "sentences"),
    [
        ("", []),
        (" \n \n", []),
        ("No effusion", ["No effusion"]),
        ("Lungs clear. Heart normal.", ["Lungs clear", "Heart normal"]),
        ("apex.There are streaks", ["apex", "There are streaks"]),
        ("A 1.5 cm nodule. Seen by Dr. Smith at 3.4 mm.", ["A 1.5 cm nodule", "Seen by Dr. Smith at 3.4 mm"]),
        ("1. Effusion. 2. Edema", ["Effusion", "Edema"]),
        ("1) Effusion\n2) Edema", ["Effusion", "Edema"]),
        ("- Effusion\n- No edema", ["- Effusion", "- No edema"]),
        ("a wrapped line of a report that goes on and on until it\nends here. Next", None),
        ("Effusion\n\nEdema", ["Effusion", "Edema"]),
        ("Lungs are clear\nHeart is enlarged", ["Lungs are clear", "Heart is enlarged"]),
        ("no effusion,\nEdema or mass", ["no effusion,\nEdema or mass"]),
        ("No effusion; cardiomegaly", ["No effusion", "cardiomegaly"]),
        ("Findings in brief\nIMPRESSION: none", ["Findings in brief", "IMPRESSION: none"]),
        ("Is there effusion? No!", ["Is there effusion? No"]),
        ("Effusion:\nNone.\nEdema\nNone.\nMass\nLeft", ["Effusion:\nNone", "Edema\nNone", "Mass", "Left"]),
        ("Effusion - none. None the less", ["Effusion - none", "None the less"]),
        ("No edema. No\neffusion", ["No edema", "No\neffusion"]),
        ("No edema.small effusion", ["No edema", "small effusion"]),
        ("\u2022 a \u2022 b | c", ["a", "b", "c"]),
        ("-a\n-b\n>c", ["-a", "-b", ">c"]),
        ("a) Effusion b) edema", ["a) Effusion b", "edema"]),
        ("No edema on the left; small on the right; mass", ["No edema on the left; small on the right", "mass"]),
        ("Is there effusion? It is small.", ["Is there effusion", "It is small"]),
    ],
)
def test_sentences(report: str, sentences: list[str] | None) -> None:
    expected = ["a wrapped line of a report that goes on and on until it\nends here", "Next"]
    assert texts(report) == (expected if sentences is None else sentences)


def test_each_sentence_stands_where_it_says() -> None:
    rng = random.Random(0)
    for _ in range(500):
        report = "".join(rng.choices("Ab .\n;1)-:\r\tİé", k=rng.randrange(80)))
        found = split_sentences(report)
        assert all(report[s.start : s.end] == s.text for s in found)
        assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))
        kept = "".join(s.text for s in found)
        lost = [c for c in report if c.isalpha()]
        assert [c for c in kept if c.isalpha()] == lost


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("no edema\nsmall effusion", ["no edema", "small effusion"]),
        ("no edema,\neffusion", ["no edema,\neffusion"]),
        ("no edema\nor effusion", ["no edema\nor effusion"]),
        ("there is no\nedema", ["there is no\nedema"]),
        ("No edema Small effusion", ["No edema ", "Small effusion"]),
        ("No Edema Or Effusion", ["No Edema Or Effusion"]),
        ("- no edema - small effusion", ["- no edema ", "small effusion"]),
        ("effusion - thickening was not seen", ["effusion - thickening was not seen"]),
        ("Edema: No Effusion: Yes", ["Edema: No ", "Effusion: Yes"]),
        ("edema\nnone", ["edema\nnone"]),
    ],
)
def test_statements_without_a_stop_between_them(text, statements):
    starts = [(stop, start) for stop, start, sure in statement_starts(text, 0, len(text), PlainText(text)) if sure]
    begins, ends = [0, *(start for _, start in starts)], [*(stop for stop, _ in starts), len(text)]
    assert [text[begin:end] for begin, end in zip(begins, ends, strict=True)] == statements


def test_a_line_that_filled_the_page_goes_on_with_the_next():
    text = f"{'a long line that says no edema ' * 3}\nclip and more"
    assert list(statement_starts(text, 0, len(text), PlainText(text))) == []
