import math
from pathlib import Path

import pytest
import yaml

import common.text
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.notes.bm25 import BM25, background_passages, with_background, words
from common.text.notes.ed_note import ed_note
from common.text.redaction import BACKGROUND, find_leaks, redact, split_background

TEXTS = ["fever cough fever", "cough pain", "leg swelling pain pain syncope"]


def test_scores_follow_the_formula() -> None:
    k1, b, mean = 1.2, 0.6, 10 / 3
    fever = math.log(1 + (3 - 1 + 0.5) / 1.5) * 2 * (k1 + 1) / (2 + k1 * (1 - b + b * 3 / mean))
    idf_cough = math.log(1 + (3 - 2 + 0.5) / 2.5)
    cough = [idf_cough * (k1 + 1) / (1 + k1 * (1 - b + b * length / mean)) for length in (3, 2)]
    assert BM25(TEXTS, k1, b).scores("Fever, cough!") == pytest.approx([fever + cough[0], cough[1], 0])
    assert BM25(TEXTS, k1, b).scores("fever fever")[0] == pytest.approx(2 * fever)


def test_best_are_ranked_and_share_a_word() -> None:
    index = BM25(TEXTS)
    assert index.best("pain in the leg", 3) == [2, 1]
    assert index.best("pain in the leg", 1) == [2]
    assert index.best("headache", 2) == [] and index.best("", 2) == []


def test_arguments_are_checked() -> None:
    for passages, k1, b in (([], 1.5, 0.75), (TEXTS, -1, 0.75), (TEXTS, 1, 1.5)):
        with pytest.raises(ValueError, match="expected passages"):
            BM25(passages, k1, b)


def test_words_leave_out_numbers_and_common_ones() -> None:
    assert words("The patient's HR was 112/min, with a fever") == ["patient's", "hr", "min", "fever"]


COMPLAINTS = [
    ("Fever, Productive cough", "consolidation"),
    ("Orthopnea, Leg swelling", "heart failure"),
    ("s/p Fall, Rib pain", "rib fracture"),
    ("Hemoptysis, Weight loss", "lung cancer"),
    ("Sudden onset chest pain in a tall young man", "pneumothorax"),
]
SIGNS = {
    "age": 61, "sex": "M", "arrival_transport": "AMBULANCE", "hours_since_arrival": 2.7, "acuity": 1,
    "vitals": {"temperature": 36.9, "heartrate": 78, "resprate": 17, "o2sat": 95, "sbp": 111, "dbp": 68, "pain": 0},
    "o2_device": "Nasal cannula", "body": {"bmi": 30},
}  # fmt: skip


@pytest.mark.parametrize(("complaint", "expected"), COMPLAINTS)
def test_the_passages_fit_the_complaint(complaint: str, expected: str) -> None:
    note = with_background(f"61-year-old man. Chief complaint: {complaint}.", k=2)
    assert expected in split_background(note)[1]


@pytest.mark.parametrize(("complaint", "expected"), COMPLAINTS)
def test_the_names_of_vital_signs_do_not_find_the_passages(complaint: str, expected: str) -> None:
    """They stand in every note, and once found the passage on falling blood pressure for all of them."""
    assert expected in split_background(with_background(ed_note(SIGNS | {"chief_complaint": complaint}), k=2))[1]
    plain = ed_note(SIGNS)
    assert with_background(plain, k=2) == plain


def test_background_is_flagged_and_depends_on_the_note_alone() -> None:
    note = "Chief complaint: Fever, Cough."
    full = with_background(note, 3)
    assert full.startswith(note + BACKGROUND) and full.count("\n- ") == 3
    assert with_background(note, 3) == full and with_background(note, 0) == note
    assert with_background("xyzzy", 3) == "xyzzy"
    with pytest.raises(ValueError, match="has a background already"):
        with_background(full)
    with pytest.raises(ValueError, match="k is -1"):
        with_background(note, -1)


def test_terms_of_labels_can_be_taken_out_of_the_background() -> None:
    labels = ["Pneumonia", "Consolidation", "Lung Opacity"]
    own, background = split_background(with_background("Fever, productive cough, fast breathing.", 3, labels))
    assert "[REDACTED]" in background and not find_leaks(background, labels)
    assert own == "Fever, productive cough, fast breathing."
    with pytest.raises(ValueError, match="label 'Gout' has no known terms"):
        with_background(own, 1, ["Gout"])


@pytest.mark.parametrize("passage", background_passages())
def test_no_passage_keeps_a_term_of_a_label(passage: str) -> None:
    terms = yaml.safe_load((Path(common.text.__file__).parent / "label_terms.yaml").read_text(encoding="utf-8"))
    known = list(dict.fromkeys([*CHEXPERT_LABELS, *terms["terms"], *terms["same_as"]]))
    background = split_background(with_background(passage, 1, known))[1]
    assert background == f"- {redact(passage, known)}" and find_leaks(background, known) == []
    for label in known:
        background = split_background(with_background(passage, 1, [label]))[1]
        assert background and find_leaks(background, [label]) == []


def test_the_collection() -> None:
    passages = background_passages()
    assert 35 <= len(passages) == len(set(passages)) and max(map(len, passages)) < 400
