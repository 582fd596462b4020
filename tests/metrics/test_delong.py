import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from common.metrics.delong import delong_by_class, delong_test


def placements(labels, scores):
    """Placement values by comparing every positive with every negative: the definition, O(m n)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(axis=1), wins.mean(axis=0)


def brute_force(labels, a, b):
    """(auroc a, auroc b, variance of the difference) from the definition."""
    (a10, a01), (b10, b01) = placements(labels, a), placements(labels, b)
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    contrast = np.array([1, -1])
    return a10.mean(), b10.mean(), contrast @ (s10 / len(a10) + s01 / len(a01)) @ contrast


@pytest.mark.parametrize("decimals", [16, 1])  # without and with many ties
def test_areas_and_variance_are_those_of_the_definition(decimals):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = (rng.random(120) < 0.3).astype(float)
        a = (rng.random(120) + 0.3 * labels).round(decimals)
        b = (0.5 * a + 0.5 * rng.random(120)).round(decimals)
        test = delong_test(labels, a, b)
        area_a, area_b, variance = brute_force(labels, a, b)
        assert (test.auroc_a, test.auroc_b) == pytest.approx((area_a, area_b), abs=1e-12)
        assert test.auroc_a == pytest.approx(roc_auc_score(labels, a), abs=1e-12)
        assert test.variance == pytest.approx(variance, abs=1e-12)
        z = (area_a - area_b) / variance**0.5
        assert (test.z, test.p) == pytest.approx((z, 2 * norm.sf(abs(z))), abs=1e-9)


def test_a_case_small_enough_for_paper():
    # Positives 3, 1 and negatives 2, 0. System a: positive 3 beats both negatives, positive 1 beats one of them, so the
    # placements of positives are 1 and 1/2, of negatives 1/2 and 1: AUROC 3/4, variance (1/8)/2 + (1/8)/2 = 1/8.
    labels, a = [1, 1, 0, 0], [3.0, 1.0, 2.0, 0.0]
    # System b: positives 0, 3 and negatives 2, 1, so placements 0, 1 and 1/2, 1/2: AUROC 1/2, variance (1/2)/2 = 1/4.
    # Covariance of (1, 1/2) with (0, 1) is -1/4, of the negatives 0: -1/8. Difference: 1/8 + 1/4 + 2/8 = 5/8.
    test = delong_test(labels, a, [0.0, 3.0, 2.0, 1.0])
    assert (test.auroc_a, test.auroc_b, test.difference, test.variance) == pytest.approx((0.75, 0.5, 0.25, 0.625))
    assert test.z == pytest.approx(0.25 / 0.625**0.5)
    assert test.low == pytest.approx(0.25 - norm.ppf(0.975) * 0.625**0.5)


def test_the_test_is_paired():
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.5).astype(float)
    a = rng.random(200) + 0.5 * labels
    b = a - 0.05 * rng.random(200) * labels
    test = delong_test(labels, a, b)
    unpaired = sum(part.var(ddof=1) / len(part) for scores in (a, b) for part in placements(labels, scores)) ** 0.5
    assert abs(test.difference) / unpaired < 0.5 and test.p < 0.001


def test_swapping_the_systems_turns_the_sign_only():
    rng = np.random.default_rng(1)
    labels, a, b = rng.integers(0, 2, 50), rng.random(50), rng.random(50)
    one, other = delong_test(labels, a, b), delong_test(labels, b, a)
    assert (one.difference, one.z, one.p) == pytest.approx((-other.difference, -other.z, other.p))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_equal_ranking_has_p_1_and_a_test_without_variance_has_none():
    labels = [0, 0, 1, 1, 0, 1]
    scores = np.array([0.1, 0.7, 0.5, 0.8, 0.2, 0.9])
    same = delong_test(labels, scores, scores**3)
    assert (same.z, same.p, same.variance) == (0, 1, 0)
    perfect = np.array(labels, float)
    opposite = delong_test(labels, perfect, -perfect)
    assert opposite.difference == 1 and math.isnan(opposite.p)
    written = json.loads(json.dumps(opposite.to_dict(), allow_nan=False))
    assert written["p"] is None and written["reason"]


def test_p_is_uniform_for_systems_that_are_alike():
    p = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = np.arange(100) % 2
        signal = labels + rng.normal(size=100)
        p.append(delong_test(labels, signal + rng.normal(size=100), signal + rng.normal(size=100)).p)
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.05)


def clustered(labels, a, b, patients):
    """Variance of the difference by Obuchowski's formula, every positive compared with every negative."""
    m, n = int(sum(labels == 1)), int(sum(labels == 0))
    names = sorted(set(patients))
    parts = []  # of each system: area, sums of the positives and of the negatives of every patient, less their share
    for scores in (a, b):
        of_positives, of_negatives = placements(labels, scores)
        v10, v01 = np.zeros(len(labels)), np.zeros(len(labels))
        v10[labels == 1], v01[labels == 0] = of_positives, of_negatives
        area = of_positives.mean()
        own = [patients == name for name in names]
        parts.append(
            (
                np.array([v10[i].sum() - (labels[i] == 1).sum() * area for i in own]),
                np.array([v01[i].sum() - (labels[i] == 0).sum() * area for i in own]),
            )
        )
    i10 = sum((labels[patients == name] == 1).any() for name in names)
    i01 = sum((labels[patients == name] == 0).any() for name in names)
    i = len(names)
    covariance = np.zeros((2, 2))
    for r, (x, y) in enumerate(parts):
        for s, (u, v) in enumerate(parts):
            s10, s01 = i10 / ((i10 - 1) * m) * x @ u, i01 / ((i01 - 1) * n) * y @ v
            s11, s11_turned = i / (i - 1) * x @ v, i / (i - 1) * u @ y
            covariance[r, s] = s10 / m + s01 / n + (s11 + s11_turned) / (m * n)
    return covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


@pytest.mark.parametrize("decimals", [16, 1])
def test_the_variance_with_patients_is_that_of_the_definition(decimals):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        patients = rng.integers(0, 40, 120)  # with both kinds of cases, with one kind, and of different sizes
        labels = (rng.random(120) < 0.3).astype(float)
        a = (rng.random(120) + 0.3 * labels + 0.5 * (patients % 3)).round(decimals)
        b = (0.5 * a + 0.5 * rng.random(120)).round(decimals)
        test = delong_test(labels, a, b, groups=[f"p{i}" for i in patients])
        assert test.variance == pytest.approx(clustered(labels, a, b, patients), rel=1e-9)
        assert (test.auroc_a, test.auroc_b) == pytest.approx(brute_force(labels, a, b)[:2])
        assert test.variance != pytest.approx(delong_test(labels, a, b).variance, rel=1e-3)


def test_one_case_for_each_patient_is_delong():
    rng = np.random.default_rng(0)
    labels, a, b = rng.integers(0, 2, 90), rng.random(90).round(1), rng.random(90).round(1)
    patients = [f"p{i}" for i in rng.permutation(90)]
    one, other = delong_test(labels, a, b, groups=patients), delong_test(labels, a, b)
    assert list(vars(one).values()) == pytest.approx(list(vars(other).values()), rel=1e-12)
    assert other.variance == pytest.approx(brute_force(labels, a, b)[2], rel=1e-12)


def test_cases_of_a_patient_are_not_independent():
    """A bug: with five alike images of every patient, one of three tests of equal systems said p < .05."""
    rng, with_patients, without = np.random.default_rng(0), [], []
    for _ in range(200):
        labels, patients = np.repeat(rng.integers(0, 2, 60), 5), np.repeat(np.arange(60), 5)
        a, b = (np.repeat(rng.normal(size=60), 5) + 0.8 * labels + 0.1 * rng.normal(size=300) for _ in range(2))
        with_patients.append(delong_test(labels, a, b, groups=patients).p < 0.05)
        without.append(delong_test(labels, a, b).p < 0.05)
    assert np.mean(with_patients) == pytest.approx(0.05, abs=0.03) and np.mean(without) > 0.3


def test_patients_with_both_kinds_of_cases_keep_the_level():
    """What raises all scores of a patient moves no area when half of its cases are positive."""
    rng, p, single = np.random.default_rng(1), [], []
    for _ in range(200):
        patients, labels = np.repeat(np.arange(60), 4), np.arange(240) % 2
        a, b = (2 * np.repeat(rng.normal(size=60), 4) + 0.8 * labels + rng.normal(size=240) for _ in range(2))
        p.append(delong_test(labels, a, b, groups=patients).p)
        single.append(delong_test(labels, a, b).p)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03) and np.mean(np.array(single) < 0.05) < 0.02


def test_by_class_takes_patients():
    rng = np.random.default_rng(0)
    labels, patients = (rng.random((80, 2)) < 0.4).astype(float), np.repeat(np.arange(20), 4)
    labels[:10, 0] = np.nan
    labels[:, 1] = 0
    labels[4:7, 1] = 1  # three cases, one patient
    a, b = rng.random((80, 2)), rng.random((80, 2))
    tests, undefined = delong_by_class(labels, a, b, ("Edema", "Fracture"), groups=patients)
    assert tests["Edema"] == delong_test(labels[10:, 0], a[10:, 0], b[10:, 0], groups=patients[10:])
    assert undefined == {
        "Fracture": "1 patients with a positive and 20 with a negative case, expected 2 of each at least"
    }


def test_by_class_leaves_masked_cases_out_and_names_classes_without_a_test():
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 3)) < 0.4).astype(float)
    labels[rng.random((80, 3)) < 0.2] = np.nan
    labels[:, 2] = 0
    labels[0, 2] = 1
    a, b = rng.random((80, 3)), rng.random((80, 3))
    tests, undefined = delong_by_class(labels, a, b, ("Edema", "Fracture", "Lung Lesion"))
    kept = ~np.isnan(labels[:, 1])
    assert tests["Fracture"] == delong_test(labels[kept, 1], a[kept, 1], b[kept, 1])
    assert set(tests) == {"Edema", "Fracture"} and "1 positive" in undefined["Lung Lesion"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3]), "one value for each case"),
        (lambda: delong_test([0, 0, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4]), "1 positive and 3 negative"),
        (lambda: delong_test([0, 1, 0, 2], [1, 2, 3, 4], [1, 2, 3, 4]), "neither 0 nor 1"),
        (lambda: delong_test([0, 1, 0, 1], [1, 2, 3, float("nan")], [1, 2, 3, 4]), "finite"),
        (lambda: delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4], level=95), "level"),
        (lambda: delong_by_class(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros((4, 2)), ("a",)), "name for each"),
        (
            lambda: delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4], groups="abc"),
            "3 members, expected one for each of the 4",
        ),
        (
            lambda: delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4], groups="abcb"),
            "1 patients with a positive and 2 with",
        ),
    ],
)
def test_what_is_not_paired_or_has_no_variance_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
