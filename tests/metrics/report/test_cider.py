import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from common.metrics.report.cider import cider


@pytest.fixture
def corpus():
    rng = np.random.default_rng(1)
    words = np.array("the lungs are clear no effusion heart size is normal . acute".split())
    texts = [" ".join(rng.choice(words, rng.integers(1, 25))) for _ in range(120)]
    return texts[:60], texts[60:]


def reference_cider(hypotheses, references):
    return Cider().compute_score(
        {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}
    )


def test_equal_to_pycocoevalcap(corpus):
    total, each = reference_cider(*corpus)
    metric = cider(*corpus)
    assert metric.value()["cider"] == pytest.approx(total, abs=1e-9)
    assert metric.per_report()[:, 0] == pytest.approx(each, abs=1e-9)


def test_the_same_pair_scores_differently_in_another_corpus():
    pair = ("small left effusion is seen", "small right effusion is seen")
    rare = [pair, ("the lungs are clear", "the heart is normal"), ("no fracture", "no pneumonia")]
    common = [pair, ("no effusion is seen", "small effusion is seen"), ("clear", "no effusion is seen")]
    values = [cider(*zip(*corpus, strict=True)).per_report()[0, 0] for corpus in (rare, common)]
    assert values[0] - values[1] > 1
    assert values == pytest.approx([reference_cider(*zip(*corpus, strict=True))[1][0] for corpus in (rare, common)])


def test_a_corpus_of_one_pair_scores_0_even_if_the_texts_are_equal():
    text = "no acute cardiopulmonary process"
    assert cider([text], [text]).value() == {"cider": 0}


def test_what_every_reference_says_counts_nothing():
    references = ["no effusion here", "no effusion there"]
    assert cider(["no effusion", "no effusion"], references).value()["cider"] == 0


def test_equal_texts_score_10_where_every_order_has_a_word_of_its_own():
    references = ["a b c d e", "f g h i j", "k l m n o"]
    assert cider(references, references).per_report() == pytest.approx(10)


def test_blank_and_foreign_texts_score_0(corpus):
    metric = cider(["", " ", "лёгкие", "肺"], corpus[1][:4])
    assert metric.per_report()[:, 0].tolist() == [0, 0, 0, 0]
    assert np.isfinite(cider(corpus[0][:2], ["", ""]).value()["cider"])
