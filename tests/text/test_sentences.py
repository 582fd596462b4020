import random

import pytest

from common.text.sentences import split_sentences


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
