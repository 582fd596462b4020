import random
import re

import pytest

from common.metrics.report.text import clean_report, porter_stem


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


# Examples of the rules in Porter (1980), as the whole algorithm leaves them, and of NLTK's changes.
STEMS = """
caresses caress  ponies poni  ties tie  caress caress  cats cat  feed feed  agreed agre  plastered plaster
bled bled  motoring motor  sing sing  conflated conflat  troubled troubl  sized size  hopping hop  tanned tan
falling fall  hissing hiss  fizzed fizz  failing fail  filing file  happy happi  sky sky  relational relat
conditional condit  rational ration  digitizer digit  radically radic  differently differ  operator oper
feudalism feudal  decisiveness decis  hopefulness hope  callousness callous  formality formal  sensitivity sensit
triplicate triplic  formative form  formalize formal  electrical electr  goodness good  revival reviv
allowance allow  inference infer  adjustable adjust  replacement replac  adoption adopt  communion communion
activate activ  effective effect  probate probat  rate rate  cease ceas  controlling control  rolled roll
enjoy enjoy  died die  spied spi  dying die  geology geolog  hopefully hope  are are  is is
opacities opac  opacity opac  effusions effus  atelectatic atelectat  enlarged enlarg  enlargement enlarg
cardiomegaly cardiomegali  bronchiectasis bronchiectasi  calcified calcifi  calcification calcif
"""
PAIRS = STEMS.split()


@pytest.mark.parametrize(("word", "stem"), list(zip(PAIRS[::2], PAIRS[1::2], strict=True)))
def test_stem(word, stem):
    assert porter_stem(word) == stem


@pytest.mark.parametrize("word", ["", "a", "y", "s", "ed", "ing", "eed", "ion", "sion", "ß", "肺", "...", "1.5", "yyy"])
def test_odd_words_pass(word):
    assert isinstance(porter_stem(word), str)


def test_random_words_end_in_a_prefix_or_a_known_ending():
    rng = random.Random(0)
    for _ in range(3000):
        word = "".join(rng.choices("aeiouyslteng", k=rng.randint(1, 12)))
        stem = porter_stem(word)
        kept = max(0, len(stem) - 3)
        assert stem[:kept] == word[:kept] and 0 < len(stem) <= len(word) + 1
