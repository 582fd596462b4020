import json

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from common.metrics.resampling import (
    bootstrap_intervals,
    paired_randomisation_test,
    percentile_interval,
    resampled_cases,
)


def interval_of(statistic, n, **options):
    return bootstrap_intervals(lambda cases: [statistic(cases)], ["it"], n, **options)["it"]


def test_interval_of_a_mean_is_that_of_theory_and_of_scipy():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = interval_of(lambda cases: values[cases].mean(), 400, draws=4000)
    assert interval.value == values.mean() and interval.undefined == 0
    half = norm.ppf(0.975) * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    scipy = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    assert (interval.low, interval.high) == pytest.approx(tuple(scipy.confidence_interval), abs=0.02)


def test_several_metrics_at_once_have_the_interval_of_each():
    values = np.random.default_rng(0).normal(size=(50, 3))
    together = bootstrap_intervals(lambda cases: values[cases].mean(axis=0), "abc", 50, seed=4, level=0.9)
    for i, name in enumerate("abc"):
        alone = interval_of(lambda cases, i=i: values[cases, i].mean(), 50, seed=4, level=0.9)
        assert (together[name].low, together[name].high) == pytest.approx((alone.low, alone.high))
    assert interval_of(lambda cases: values[cases, 0].mean(), 50, seed=5).low != alone.low


def test_undefined_draws_are_left_out_and_counted():
    only_one = np.array([True] + [False] * 9)
    interval = interval_of(lambda cases: 1.0 if only_one[cases].any() else float("nan"), 10)
    assert (interval.low, interval.high) == (1, 1)
    assert interval.undefined == pytest.approx(1000 * 0.9**10, abs=60)
    never = interval_of(lambda cases: float("nan"), 10, draws=7)
    assert never.undefined == 7 and np.isnan(never.low)
    assert json.loads(json.dumps(never.to_dict(), allow_nan=False))["value"] is None and never.to_dict()["reason"]


def test_groups_are_drawn_whole():
    groups = ["b", "a", "b", "b", "c"]
    for cases in resampled_cases(5, 50, groups=groups):
        counts = np.bincount(cases, minlength=5)
        assert counts[0] == counts[2] == counts[3] and counts[0] + counts[1] + counts[4] == 3


def test_repeated_cases_of_a_patient_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=40), 5)
    single = interval_of(lambda cases: values[cases].mean(), 200)
    grouped = interval_of(lambda cases: values[cases].mean(), 200, groups=np.repeat(np.arange(40), 5).tolist())
    assert (grouped.high - grouped.low) / (single.high - single.low) == pytest.approx(5**0.5, rel=0.15)


@pytest.mark.parametrize("signs", [[1, 1, 1, 1, 1, 1], [1, 1, -1, 1, 1, 1]])
def test_randomisation_test_is_near_the_exact_sign_flip_test(signs):
    differences = np.array(signs) * np.array([0.5, 1.0, 0.2, 0.7, 0.3, 0.4])
    flips = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1)
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-9).mean()
    p = paired_randomisation_test(lambda swapped: float(np.where(swapped, -differences, differences).sum()), 6, 20000)
    assert p == pytest.approx(exact, abs=0.006)


def test_randomisation_test_at_its_ends():
    a, b = np.full(60, 0.9), np.full(60, 0.1)
    swap = lambda swapped: float(np.where(swapped, b, a).mean() - np.where(swapped, a, b).mean())  # noqa: E731
    assert paired_randomisation_test(swap, 60, 999) == 1 / 1000
    assert paired_randomisation_test(lambda swapped: 0.0, 60, 99) == 1
    assert paired_randomisation_test(swap, 60, 99, groups=["one patient"] * 60) == 1
    with pytest.raises(ValueError, match="undefined"):
        paired_randomisation_test(lambda swapped: float("nan"), 5)


def test_randomisation_test_is_uniform_when_systems_are_alike():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        d = rng.normal(size=20)
        p.append(paired_randomisation_test(lambda s, d=d: float(np.where(s, -d, d).mean()), 20, 99, seed))
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: resampled_cases(0, 5),
        lambda: resampled_cases(3, 0),
        lambda: interval_of(np.mean, 3, level=95),
        lambda: interval_of(np.mean, 3, groups=["a"]),
        lambda: paired_randomisation_test(np.mean, 0),
        lambda: paired_randomisation_test(np.mean, 3, groups=["a"]),
        lambda: percentile_interval(0.0, np.zeros(3), 1.0),
    ],
)
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
