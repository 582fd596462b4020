import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

from common.metrics.curves import calibration_curves, pr_curves, roc_curves
from common.metrics.resampling import Interval
from common.visualize.classification import (
    auroc_bars,
    calibration_figure,
    confusion_figure,
    contribution_figure,
    pr_figure,
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


def test_roc_curves_and_a_class_without_positives_says_so():
    systems, labels = problem()
    curves = {name: roc_curves(p, labels, draws=30 if name == "b_c" else 0) for name, p in systems.items()}
    figure = roc_figure(curves, NAMES, "b_c")
    found = panels(figure)
    assert list(found) == [
        f"Edema ({int(np.nansum(labels[:, 0]))})",
        "Fracture (0)",
        f"Pneumonia ({int(labels[:, 2].sum())})",
    ]
    edema = next(iter(found.values()))
    _, first, second = edema.lines
    for line, system in ((first, "a"), (second, "b_c")):
        np.testing.assert_allclose(line.get_xydata(), np.stack([curves[system][0].x, curves[system][0].y], axis=1))
    assert first.get_linestyle() != second.get_linestyle() and second.get_linewidth() > first.get_linewidth()
    assert said(edema) == f"b c {curves['b_c'][0].area:.3f}" and len(edema.collections) == 1  # the band
    assert said(found["Fracture (0)"]) == "0 positive,\n400 negative" and not found["Fracture (0)"].lines
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b c"]
    assert figure_image(figure).std() > 5
    with pytest.raises(ValueError, match="named system is 'd', expected one of a, b_c"):
        roc_figure(curves, NAMES, "d")


def test_precision_is_drawn_in_steps():
    systems, labels = problem()
    found = panels(pr_figure({name: pr_curves(p, labels) for name, p in systems.items()}, NAMES, named="b_c"))
    axes = found[next(iter(found))]
    kept = ~np.isnan(labels[:, 0])
    share, first, second = axes.lines
    assert share.get_ydata()[0] == pytest.approx(labels[kept, 0].mean())
    assert first.get_drawstyle() == "steps-post" and second.get_linewidth() == 2.0
    assert said(axes).startswith("b c 0.")


def test_the_first_calibration_curve_has_error_bars():
    systems, labels = problem()
    curves = {name: calibration_curves(p, labels) for name, p in systems.items()}
    axes = next(iter(panels(calibration_figure(curves, NAMES)).values()))
    np.testing.assert_allclose(axes.lines[1].get_xydata(), np.stack([curves["a"][0].x, curves["a"][0].y], axis=1))
    (bars,) = axes.collections
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], np.stack(curves["a"][0].band[1:], axis=1))


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
    roc_figure({name: roc_curves(p, labels) for name, p in systems.items()}, NAMES)
    calibration_figure({name: calibration_curves(p, labels) for name, p in systems.items()}, NAMES)
    assert not plt.get_fignums()
