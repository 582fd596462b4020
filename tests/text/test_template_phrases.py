import random

import pytest

from common.text.template_phrases import Span, enumerate_words, expand, labels_in, mentioned, plain, read_bank, sentence


def made(template, values=None, label="Edema", value=1.0, seed=0):
    return plain(sentence(expand(template, random.Random(seed), values or {}, label, value)))


def test_a_mention_becomes_a_span():
    text, spans = made("no <pulmonary edema> is seen", value=0.0)
    assert text == "No pulmonary edema is seen."
    assert spans == [Span("Edema", 0.0, 3, 18)] and text[3:18] == "pulmonary edema"


def test_mentions_of_other_labels_and_inside_each_other():
    text, spans = made("<Pneumonia=the <lungs>> and <Lung Opacity=opacities>")
    found = [(span.label, text[span.start : span.end]) for span in spans]
    assert found == [("Pneumonia", "The lungs"), ("Edema", "lungs"), ("Lung Opacity", "opacities")]
    assert labels_in("<Pneumonia=the <lungs>> <Lung Opacity=x>") == {"Pneumonia", "Lung Opacity"}
    marked = expand("<a> <Edema=b>", random.Random(0), {}, "Fracture", -1.0)
    assert mentioned(marked) == {"Fracture", "Edema"} and {span.value for span in plain(marked)[1]} == {-1.0}


def test_choices_are_all_reached_and_may_be_nested():
    texts = {made("{a|b{c|d|}} e", seed=seed)[0] for seed in range(60)}
    assert texts == {"A e.", "Bc e.", "Bd e.", "B e."}


def test_values_are_templates_and_blanks_are_cleaned():
    text, spans = made("$degree <$type edema>$place , here", {"degree": "", "type": "", "place": " in {x|x}"})
    assert text == "Edema in x, here." and spans == [Span("Edema", 1.0, 0, 5)]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a(n) <8 mm nodule>", "An 8 mm nodule."), ("a(n) <11 mm nodule>", "An 11 mm nodule."),
        ("a(n) <1.1 cm nodule>", "A 1.1 cm nodule."), ("a(n) <18 mm nodule>", "An 18 mm nodule."),
        ("there is a(n) <unchanged nodule>", "There is an unchanged nodule."), ("a(n) unilateral", "A unilateral."),
        ("a(n) endotracheal tube", "An endotracheal tube."), ("a(n) PICC", "A PICC."),
    ],
)  # fmt: skip
def test_articles(template, text):
    assert made(template)[0] == text


@pytest.mark.parametrize(
    ("template", "message"),
    [("a } b", "a '}' too many"), ("$what is", "Template uses \\$what"), ("a > b", "a '>' too many")],
)
def test_wrong_templates_are_named(template, message):
    with pytest.raises(ValueError, match=message):
        expand(template, random.Random(0), {"degree": ""})


def test_lists():
    assert enumerate_words(["a"]) == "a"
    assert enumerate_words(["a", "b"], "or") == "a or b"
    assert enumerate_words(["a", "b", "c"], "or") == "a, b or c"
    assert enumerate_words(["a", "b", "c"], serial=True) == "a, b, and c"


def _lines(node):
    if isinstance(node, dict):
        return [line for value in node.values() for line in _lines(value)]
    return list(node)


@pytest.mark.parametrize("name", ["ct_phrases.yaml", "cxr_phrases.yaml"])
def test_every_line_of_a_bank_is_well_formed(name):
    lines = _lines(read_bank(name))
    assert len(lines) > 250
    for line in lines:
        assert line.count("{") == line.count("}") and line.count("<") == line.count(">"), line
        assert "  " not in line and not line.endswith("."), line


@pytest.mark.parametrize("name", ["ct_phrases.yaml", "cxr_phrases.yaml"])
def test_every_noun_phrase_of_a_bank_has_its_mention(name):
    for label, phrases in read_bank(name)["labels"].items():
        parts = [part for part in phrases if part not in ("types", "kinds")]
        parts = [phrases[part] for part in parts] + [
            lines for kind in phrases.get("kinds", {}).values() for lines in kind.values()
        ]
        for line in (line for lines in parts for line in lines):
            assert "<" in line, f"{label}: {line}"
