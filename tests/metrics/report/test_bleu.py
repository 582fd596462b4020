import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from common.metrics.report.bleu import bleu
from common.metrics.report.ngrams import pair_ngrams


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    words = np.array("the lungs are clear no effusion heart size is normal . acute".split())
    texts = [" ".join(rng.choice(words, rng.integers(1, 25))) for _ in range(120)]
    return texts[:60], texts[60:]


def test_equal_to_pycocoevalcap(corpus):
    hypotheses, references = corpus
    total, each = Bleu(4).compute_score(
        {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}, verbose=0
    )
    metric = bleu(hypotheses, references)
    assert list(metric.value().values()) == pytest.approx(total, abs=1e-12)
    assert metric.per_report() == pytest.approx(np.array(each).T, abs=1e-12)


def test_corpus_value_is_not_the_mean_of_the_reports(corpus):
    metric = bleu(*corpus)
    assert abs(metric.value()["bleu_4"] - metric.per_report()[:, 3].mean()) > 0.01


def test_by_hand():
    # 3 of 5 words, 1 of 4 bigrams match; the reference is one word longer.
    metric = bleu(["a b x c y"], ["a b c d e f"], n=2)
    brevity = np.exp(1 - 6 / 5)
    assert metric.value()["bleu_1"] == pytest.approx(3 / 5 * brevity, abs=1e-8)
    assert metric.value()["bleu_2"] == pytest.approx((3 / 5 * 1 / 4) ** 0.5 * brevity, abs=1e-8)


def test_a_repeated_word_counts_as_often_as_in_the_reference():
    assert bleu(["the the the the"], ["the cat the mat"]).value()["bleu_1"] == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("text", ["no acute cardiopulmonary process", "a b c d e f g", "x " * 500])
def test_identical_texts_of_four_words_score_1(text):
    assert list(bleu([text], [text]).value().values()) == pytest.approx([1] * 4, abs=1e-6)


def test_a_text_of_one_word_cannot_reach_1_beyond_its_length():
    value = bleu(["normal"], ["normal"]).value()
    assert value["bleu_1"] == pytest.approx(1, abs=1e-6)
    assert value["bleu_2"] < 1e-2


@pytest.mark.parametrize("hypothesis", ["", " ", "\n"])
@pytest.mark.parametrize("reference", ["", "clear lungs", "a  b"])
def test_a_blank_text_scores_0(hypothesis, reference):
    assert max(bleu([hypothesis], [reference]).value().values()) < 1e-6


def test_counts_made_before_give_the_same(corpus):
    assert bleu(*corpus, ngrams=pair_ngrams(*corpus)).value() == bleu(*corpus).value()


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 reports are compared with 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 reports"):
        bleu([], [])
    with pytest.raises(ValueError, match="given as one text"):
        bleu("ab", "ab")
