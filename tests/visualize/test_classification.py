import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from common.metrics.resampling import Interval
from common.visualize.classification import (
    auroc_bars,
    calibration_figure,
    confusion_figure,
    contribution_figure,
    pr_figure,
    reliability,
    roc_band,
    roc_figure,
)
from common.visualize.figures import figure_image

NAMES = ("Edema", "Fracture", "Pneumonia")


def problem(n: int = 400) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two systems, labels of which the second has no positive case and some are missing."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 3)) < 0.3).astype(float)
    labels[:, 1] = 0
    labels[::7, 0] = np.nan
    truth = np.nan_to_num(labels)
    systems = {name: norm.cdf(rng.normal(size=(n, 3)) + gain * truth - 0.5) for name, gain in (("a", 1), ("b_c", 2))}
    return systems, labels


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def said(axes) -> str:
    return " ".join(text.get_text() for text in axes.texts)


def test_roc_curves_are_scikit_learns_and_a_class_without_positives_says_so():
    systems, labels = problem()
    figure = roc_figure(systems, labels, NAMES, band="b_c", draws=30)
    found = panels(figure)
    assert list(found) == [
        f"Edema ({int(np.nansum(labels[:, 0]))})",
        "Fracture (0)",
        f"Pneumonia ({int(labels[:, 2].sum())})",
    ]
    kept = ~np.isnan(labels[:, 0])
    edema = next(iter(found.values()))
    _, first, second = edema.lines
    for line, system in ((first, "a"), (second, "b_c")):
        fpr, tpr, _ = roc_curve(labels[kept, 0], systems[system][kept, 0])
        np.testing.assert_allclose(line.get_xydata(), np.stack([fpr, tpr], axis=1))
    assert first.get_linestyle() != second.get_linestyle() and second.get_linewidth() > first.get_linewidth()
    area = roc_auc_score(labels[kept, 0], systems["b_c"][kept, 0])
    assert said(edema) == f"b c {area:.3f}" and len(edema.collections) == 1
    assert said(found["Fracture (0)"]) == "0 positive,\n400 negative" and not found["Fracture (0)"].lines
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b c"]
    assert figure_image(figure).std() > 5
    with pytest.raises(ValueError, match="band is that of 'd', expected one of a, b_c"):
        roc_figure(systems, labels, NAMES, band="d")


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


def test_precision_is_drawn_in_steps():
    systems, labels = problem()
    found = panels(pr_figure(systems, labels, NAMES, named="b_c"))
    axes = found[next(iter(found))]
    kept = ~np.isnan(labels[:, 0])
    share, first, second = axes.lines
    assert share.get_ydata()[0] == pytest.approx(labels[kept, 0].mean())
    assert first.get_drawstyle() == "steps-post" and second.get_linewidth() == 2.0
    assert said(axes).startswith("b c 0.")


def test_reliability_is_scikit_learns_with_quantile_bins():
    systems, labels = problem()
    kept = ~np.isnan(labels[:, 0])
    share, mean = calibration_curve(labels[kept, 0], systems["a"][kept, 0], n_bins=10, strategy="quantile")
    x, y, n = reliability(systems["a"][:, 0], labels[:, 0])
    np.testing.assert_allclose(x, mean)
    np.testing.assert_allclose(y, share)
    assert n.sum() == kept.sum() and n.max() - n.min() <= 2
    assert len(reliability(np.full(5, 0.3), np.array([0, 1, 1, 0, np.nan]))[0]) == 1

    axes = next(iter(panels(calibration_figure(systems, labels, NAMES)).values()))
    np.testing.assert_allclose(axes.lines[1].get_xydata(), np.stack([x, y], axis=1))
    # Wilson's interval of 3 in 10 at 95 %, as tabulated: 0.108 to 0.603
    tabulated = calibration_figure({"a": np.full((10, 1), 0.3)}, np.repeat([[1.0], [0.0]], [3, 7], axis=0), ("Edema",))
    (segment,) = tabulated.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [0.1078, 0.6032], atol=1e-4)


def test_confusion_matrices_have_the_truth_in_rows():
    counts = {"Edema": {"tp": 3, "fp": 20, "fn": 1, "tn": 80}, "Fracture": {"tp": 0, "fp": 0, "fn": 0, "tn": 0}}
    found = panels(confusion_figure(counts, {"Edema": 0.25}))
    assert [text.get_text() for text in found["Edema"].texts] == ["80\n80%", "20\n20%", "1\n25%", "3\n75%"]
    assert [label.get_text() for label in found["Edema"].get_xticklabels()] == ["no", "yes (from 0.25)"]
    assert said(found["Fracture"]) == "no threshold"


def test_bars_start_at_chance_and_carry_their_intervals():
    means = {
        "vision": Interval(0.7, 0.65, 0.75),
        "clinical": Interval(0.45, 0.4, 0.52),
        "none": Interval(float("nan"), float("nan"), float("nan")),
        "all": Interval(0.8, float("nan"), float("nan")),
    }
    axes = auroc_bars(means, "all", {"goal": 0.9}).axes[0]
    assert [bar.get_x() for bar in axes.patches] == [0.5] * 3
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [0.2, -0.05, 0.3])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.700  (0.650 to 0.750)", "0.450  (0.400 to 0.520)", " undefined", "0.800", "goal"]
    assert axes.get_xlim()[0] < 0.4 and axes.get_xlim()[1] > 0.9


def test_the_contribution_shows_signs_and_gaps():
    values = {"vision": {"mean": -0.1, "Edema": float("nan")}, "text": {"mean": 0.02, "Edema": 0.0}}
    axes = contribution_figure(values).axes[0]
    assert [text.get_text() for text in axes.texts] == ["-0.100", "-", "+0.020", "+0.000"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["without vision", "without text"]
    assert axes.images[0].get_clim() == (-0.1, 0.1)


def test_pyplot_is_left_alone():
    plt.close("all")
    systems, labels = problem(60)
    roc_figure(systems, labels, NAMES)
    calibration_figure(systems, labels, NAMES)
    assert not plt.get_fignums()
