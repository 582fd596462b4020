import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from common.metrics.curves import (
    calibration_curves,
    pr_curves,
    reliability,
    roc_band,
    roc_curves,
    wilson_interval,
)


def problem(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels of which the second has no positive case and some are missing."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 3)) < 0.3).astype(float)
    labels[:, 1] = 0
    labels[::7, 0] = np.nan
    return norm.cdf(rng.normal(size=(n, 3)) + np.nan_to_num(labels) - 0.5), labels


def test_roc_and_pr_curves_are_scikit_learns():
    p, labels = problem()
    kept = ~np.isnan(labels[:, 0])
    roc, pr = roc_curves(p, labels), pr_curves(p, labels)
    fpr, tpr, _ = roc_curve(labels[kept, 0], p[kept, 0])
    np.testing.assert_allclose([roc[0].x, roc[0].y], [fpr, tpr])
    assert roc[0].area == roc_auc_score(labels[kept, 0], p[kept, 0]) and roc[0].band is None
    precision, recall, _ = precision_recall_curve(labels[kept, 0], p[kept, 0])
    np.testing.assert_allclose([pr[0].x, pr[0].y], [recall, precision])
    assert pr[0].area == average_precision_score(labels[kept, 0], p[kept, 0])
    assert (roc[0].positives, roc[0].negatives) == (np.nansum(labels[:, 0]), kept.sum() - np.nansum(labels[:, 0]))


@pytest.mark.parametrize("curves", [roc_curves, pr_curves, calibration_curves])
def test_a_class_of_one_kind_has_no_points(curves):
    p, labels = problem()
    found = curves(p, labels)
    assert len(found) == 3 and (found[1].positives, found[1].negatives) == (0, 400)
    assert found[1].x.size == found[1].y.size == 0 and math.isnan(found[1].area) and found[1].band is None


def test_a_band_is_that_of_the_class_and_of_whole_patients():
    p, labels = problem()
    patients = [str(i // 4) for i in range(400)]
    found = roc_curves(p, labels, draws=30, seed=3, groups=patients)
    for one, other in zip(found[2].band, roc_band(p[:, 2], labels[:, 2], 30, seed=3, groups=patients), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[1].band is None


def test_the_band_covers_the_true_curve_of_a_binormal_model():
    rng = np.random.default_rng(1)
    n, inside = 300, []
    for _ in range(20):
        labels = np.r_[np.ones(n), np.zeros(n), np.nan]
        scores = np.r_[rng.normal(1.5, 1, n), rng.normal(0, 1, n), 99]
        grid, low, high = roc_band(scores, labels, draws=100)
        true = norm.cdf(1.5 + norm.ppf(grid))  # closed form of equal variances
        inside.append((low <= true) & (true <= high))
        assert np.all(np.diff(low) >= 0) and np.all(low <= high) and (low[0] >= 0) and high[-1] == 1
    assert 0.85 < np.mean(inside) <= 1
    assert 0.015 < np.mean(high - low) < 0.15  # neither a line nor the whole square


def test_a_band_with_ties_runs_through_the_tied_curve():
    labels, scores = np.array([1.0, 1, 0, 0] * 50), np.array([0.5, 0.5, 0.5, 0.5] * 50)
    grid, low, high = roc_band(scores, labels, draws=20)
    np.testing.assert_allclose(low, grid)
    np.testing.assert_allclose(high, grid)
    with pytest.raises(ValueError, match="None of 5 resamples"):
        roc_band(np.array([0.1, 0.2]), np.array([0.0, 0.0]), draws=5)


def test_reliability_is_scikit_learns_with_quantile_bins():
    p, labels = problem()
    kept = ~np.isnan(labels[:, 0])
    share, mean = calibration_curve(labels[kept, 0], p[kept, 0], n_bins=10, strategy="quantile")
    x, y, n = reliability(p[:, 0], labels[:, 0])
    np.testing.assert_allclose(x, mean)
    np.testing.assert_allclose(y, share)
    assert n.sum() == kept.sum() and n.max() - n.min() <= 2
    assert len(reliability(np.full(5, 0.3), np.array([0, 1, 1, 0, np.nan]))[0]) == 1
    curve = calibration_curves(p, labels)[0]
    np.testing.assert_allclose([curve.x, curve.y], [x, y])
    np.testing.assert_allclose(curve.band, [x, *wilson_interval(y, n)])


def test_wilsons_interval_is_the_tabulated_one():
    low, high = wilson_interval(np.array([0.3]), np.array([10]))  # 3 in 10 at 95 %
    np.testing.assert_allclose([low[0], high[0]], [0.1078, 0.6032], atol=1e-4)
