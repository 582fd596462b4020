import json
import random
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from common.metrics.report.bleu import bleu
from common.metrics.report.rouge import google_rouge, google_rouge_words, lcs_length, rouge_l
from tests.metrics.report.work import lines_run

FIXTURES = Path(__file__).parents[3].parent / "shared" / "data" / "oracles" / "metrics"


@pytest.fixture
def corpus():
    rng = np.random.default_rng(2)
    words = np.array("the lungs are clear no effusion heart size is normal . acute".split())
    texts = [" ".join(rng.choice(words, rng.integers(1, 25))) for _ in range(120)]
    texts[3], texts[70] = "two  spaces and\na line break", " a space at both ends "
    return texts[:60], texts[60:]


def test_equal_to_pycocoevalcap(corpus):
    hypotheses, references = corpus
    total, each = Rouge().compute_score(
        {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}
    )
    metric = rouge_l(hypotheses, references)
    assert metric.value()["rouge_l"] == pytest.approx(total, abs=1e-12)
    assert metric.per_report()[:, 0] == pytest.approx(each, abs=1e-12)


def test_by_hand():
    # "a c e" is common: precision 3/4, recall 3/6.
    expected = (1 + 1.44) * 0.75 * 0.5 / (0.5 + 1.44 * 0.75)
    assert rouge_l(["a c x e"], ["a b c d e f"]).value()["rouge_l"] == pytest.approx(expected)


@pytest.mark.parametrize("text", ["normal", "no acute process", "word " * 300])
def test_identical_texts_score_1(text):
    assert rouge_l([text], [text]).value()["rouge_l"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("reference", ["two  spaces", "", "clear lungs"])
def test_an_empty_text_scores_0_where_the_lineage_gives_it_a_word(reference):
    assert rouge_l([""], [reference]).value()["rouge_l"] == 0
    assert rouge_l([reference], [" \n"]).value()["rouge_l"] == 0
    if not reference or "  " in reference:
        assert Rouge().calc_score([""], [reference]) > 0.4


def test_longest_common_subsequence():
    rng = random.Random(0)
    for _ in range(300):
        a, b = (rng.choices("abcd", k=rng.randint(0, 70)) for _ in range(2))
        assert lcs_length(a, b) == (my_lcs(a, b) if a and b else 0)


@pytest.mark.parametrize("letters", [1, 3, 10_000])
def test_the_work_grows_with_the_words_and_not_with_their_square(letters):
    rng = random.Random(0)
    a, b = ([str(rng.randrange(letters)) for _ in range(10_000)] for _ in range(2))
    assert 0 < lcs_length(a, b) <= 10_000
    assert lines_run(lcs_length, a, b) < 10 * 10_000


def test_google_rouge_by_hand():
    # Stemmed: "lung opac are seen" and "opac seen": both words of the second, one bigram of neither.
    value = google_rouge(["Lung opacities are seen."], ["OPACITY seen"]).value()
    assert value == pytest.approx({"rouge1": 2 * 2 / 6, "rouge2": 0, "rougeL": 2 * 2 / 6})
    assert google_rouge_words("T1-weighted, 3.5cm; Ödem") == ["t1", "weight", "3", "5cm", "dem"]


def test_google_rouge_of_texts_without_latin_words_is_0():
    assert set(google_rouge(["", "...", "肺"], ["", "clear", "肺"]).value().values()) == {0}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the metric fixtures are not there")
def test_equal_to_the_fixtures_of_radeval():
    texts = json.loads((FIXTURES / "radeval_regression_5.json").read_text())
    expected = json.loads((FIXTURES / "radeval_expected_scores_cpu.json").read_text())
    google, ours = google_rouge(texts["hyps"], texts["refs"]), bleu(texts["hyps"], texts["refs"])
    for column, name in enumerate(google.names):
        assert google.per_report()[:, column] == pytest.approx(expected["per_sample"][name], abs=1e-9)
        assert google.value()[name] == pytest.approx(expected["default"][name], abs=5e-5)
    assert ours.per_report()[:, 3] == pytest.approx(expected["per_sample"]["bleu"], abs=1e-9)
    for theirs, name in (("bleu", "bleu_4"), ("bleu_1", "bleu_1"), ("bleu_2", "bleu_2"), ("bleu_3", "bleu_3")):
        assert ours.value()[name] == pytest.approx(expected["detailed"][theirs], abs=5e-5)
