import math

import numpy as np
import pytest

from common.metrics.report.diversity import distinct_n, distinct_reports, repetition


def test_distinct_n_by_hand():
    # 7 words, 4 of them different; 5 bigrams: "a b" twice, "b a", "a c", "c d".
    value = distinct_n(["a b a B", "a c d"], n=2)
    assert value == pytest.approx({"distinct_1": 4 / 7, "distinct_2": 4 / 5})


def test_distinct_n_is_undefined_without_words():
    assert all(math.isnan(x) for x in distinct_n(["", " "]).values())
    assert math.isnan(distinct_n(["a b"], n=3)["distinct_3"])


def test_a_system_that_always_says_the_same():
    assert distinct_reports(["Clear  lungs.", "clear lungs."] * 5) == 0.1
    assert distinct_reports(["a", "b"]) == 1
    with pytest.raises(ValueError, match="no text"):
        distinct_reports([])


def test_repetition_by_hand():
    metric = repetition(["a b a b a", "a b c", "x"], n=2)
    assert metric.per_report()[:, 0] == pytest.approx([1 - 2 / 4, 0, np.nan], nan_ok=True)
    assert metric.value()["repeated_ngrams"] == pytest.approx(0.25)


def test_repeated_sentences():
    metric = repetition(["No effusion. No edema.\nno  effusion.", "Clear.", "", "1.5 cm nodule. Stable"])
    assert metric.per_report()[:, 1] == pytest.approx([1 / 3, 0, np.nan, 0], nan_ok=True)


def test_collapse_is_seen():
    assert repetition(["no effusion . " * 100]).value()["repeated_ngrams"] > 0.9
    with pytest.raises(ValueError, match="no text"):
        repetition([])
