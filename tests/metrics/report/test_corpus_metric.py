import numpy as np
import pytest

from common.metrics.report.bleu import bleu
from common.metrics.report.corpus_metric import CorpusMetric, divide, mean_metric
from common.metrics.resampling import bootstrap_intervals, paired_randomisation_test


@pytest.fixture
def corpus():
    rng = np.random.default_rng(3)
    words = np.array("the lungs are clear no effusion heart size is normal . acute".split())
    texts = [" ".join(rng.choice(words, rng.integers(3, 25))) for _ in range(120)]
    return texts[:40], texts[40:80], texts[80:]


def pick(texts, cases):
    return [texts[i] for i in cases]


def test_an_interval_is_that_of_the_metric_recomputed_on_the_drawn_reports(corpus):
    hypotheses, references, _ = corpus
    metric = bleu(hypotheses, references)
    direct = bootstrap_intervals(
        lambda cases: list(bleu(pick(hypotheses, cases), pick(references, cases)).value().values()),
        metric.names,
        len(hypotheses),
        draws=50,
        seed=7,
    )
    for name, interval in metric.intervals(draws=50, seed=7).items():
        for end in ("value", "low", "high"):
            assert getattr(interval, end) == pytest.approx(getattr(direct[name], end), abs=1e-12)


def test_a_p_value_is_that_of_the_metric_recomputed_on_swapped_reports(corpus):
    one, references, two = corpus
    ours = bleu(one, references).p_values(bleu(two, references), draws=60, seed=5)

    def difference(swapped):
        a = [y if swap else x for x, y, swap in zip(one, two, swapped, strict=True)]
        b = [x if swap else y for x, y, swap in zip(one, two, swapped, strict=True)]
        return bleu(a, references).value()["bleu_2"] - bleu(b, references).value()["bleu_2"]

    assert ours["bleu_2"] == paired_randomisation_test(difference, len(one), draws=60, seed=5)


def test_equal_systems_have_p_1_and_different_ones_a_small_p(corpus):
    one, references, _ = corpus
    assert set(bleu(one, references).p_values(bleu(one, references), draws=20).values()) == {1.0}
    p = bleu(references, references).p_values(bleu(one, references), draws=200)
    assert set(p.values()) == {1 / 201}


def test_many_reports_are_drawn_in_parts(monkeypatch, corpus):
    whole = bleu(*corpus[:2]).intervals(draws=31)
    monkeypatch.setattr("common.metrics.report.corpus_metric._CHUNK", 100)
    parts = bleu(*corpus[:2]).intervals(draws=31)
    for name, interval in whole.items():
        assert (parts[name].low, parts[name].high) == pytest.approx((interval.low, interval.high))


def test_mean_leaves_out_what_has_no_value():
    metric = mean_metric(["a", "b"], np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]]))
    assert metric.value()["a"] == 2
    assert np.isnan(metric.value()["b"])
    assert np.isnan(metric.per_report()[2, 0])
    assert np.isnan(metric.intervals(draws=20)["b"].low)
    assert np.isnan(metric.p_values(metric, draws=20)["b"])


def test_groups_are_drawn_and_swapped_together():
    values = np.repeat([[0.0], [1.0]], 30, axis=0)
    patients = [0] * 30 + [1] * 30
    interval = mean_metric(["m"], values).intervals(draws=200, groups=patients)["m"]
    assert (interval.low, interval.high) == (0, 1)
    p = mean_metric(["m"], values).p_values(mean_metric(["m"], 1 - values), draws=200, groups=patients)["m"]
    assert p == 1


def test_nothing_and_unlike_systems_are_refused(corpus):
    with pytest.raises(ValueError, match="no report to compute m"):
        mean_metric(["m"], np.zeros((0, 1)))
    with pytest.raises(ValueError, match="40 and 39 reports"):
        bleu(*corpus[:2]).p_values(bleu(corpus[0][:39], corpus[1][:39]))


def test_a_metric_may_be_any_function_of_the_sums():
    metric = CorpusMetric(("ratio",), np.array([[1.0, 2.0], [3.0, 2.0]]), lambda s: divide(s[..., :1], s[..., 1:]))
    assert metric.value() == {"ratio": 1.0}
    assert metric.per_report().tolist() == [[0.5], [1.5]]
