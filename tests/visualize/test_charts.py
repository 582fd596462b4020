import matplotlib.pyplot as plt
import numpy as np
import pytest

from common.visualize.charts import label, metric_bars, training_curves
from common.visualize.figures import figure_image


def make_history(n: int = 90) -> dict:
    rows = [
        {"iteration": i, "epoch": 1, "loss": 1 / i, "lr": 1e-4, "lr/unet": 1e-4, "lr/vae": 2e-4}
        for i in range(1, n + 1)
    ]
    rows[3]["loss"] = None  # a NaN of the run
    for row in rows[1::2]:
        row["grad_norm"] = 0.5
    validations = [{"iteration": i, "epoch": 1, "psnr": 28.0 + i, "per_class": [1, 2]} for i in (30, 60, 90)]
    return {"stage": "diffusion", "iterations": rows, "validations": validations}


def panels(figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def test_curves_show_what_was_recorded():
    figure = training_curves(make_history())
    found = panels(figure)
    assert list(found) == ["training loss", "validation PSNR in dB", "learning rate", "gradient norm"]
    faint, bold = found["training loss"].lines
    assert len(faint.get_xdata()) == 89 and 4 not in faint.get_xdata()
    np.testing.assert_allclose(faint.get_ydata()[:3], [1, 1 / 2, 1 / 3])
    # the running mean of 89 // 30 = 2 values, checked at one place
    assert bold.get_ydata()[10] == pytest.approx((1 / 12 + 1 / 11) / 2)
    assert found["training loss"].get_yscale() == "log"
    np.testing.assert_allclose(found["validation PSNR in dB"].lines[0].get_xydata(), [[30, 58], [60, 88], [90, 118]])
    assert [line.get_label() for line in found["learning rate"].lines] == ["unet", "vae"]
    assert figure_image(figure).std() > 5


def test_curves_of_validations_alone_and_of_nothing():
    history = make_history() | {"iterations": []}
    assert list(panels(training_curves(history))) == ["validation PSNR in dB"]
    with pytest.raises(ValueError, match="history of diffusion is empty"):
        training_curves(history | {"validations": []})


def test_a_metric_of_many_classes_is_one_panel():
    history = make_history()
    for row in history["validations"]:
        row |= {f"auroc/label {i:02}": 0.5 + i / 100 + row["iteration"] / 1000 for i in range(14)}
    del history["validations"][0]["auroc/label 03"]  # undefined then, and still the fourth
    figure = training_curves(history)
    found = panels(figure)
    assert [title for title in found if title.startswith("validation")] == [
        "validation PSNR in dB",
        "validation AUROC of each class",
    ]
    axes = found["validation AUROC of each class"]
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes.lines}  # get_linestyle says less
    assert len(axes.lines) == len(looks) == 14
    np.testing.assert_allclose(axes.lines[3].get_xydata(), [[60, 0.59], [90, 0.62]])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[0] == "label 00 0.590" and texts[13] == "label 13 0.720"
    alone = training_curves({"stage": "a", "iterations": [], "validations": [{"iteration": 1, "auroc/b": 0.5}]})
    assert list(panels(alone)) == ["validation AUROC of each class"] and figure_image(alone).std() > 1


def make_means() -> list[dict]:
    values = {"nearest": (28.0, 20.0), "linear": (30.0, 22.0), "refiner": (34.5, 26.0)}
    return [
        {"mode": mode, "window": window, "psnr": value}
        for mode, pair in values.items()
        for window, value in zip(("wide", "lung"), pair, strict=True)
    ]


def test_bars_have_the_heights_of_the_values():
    axes = metric_bars(make_means()).axes[0]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"nearest": [28, 20], "linear": [30, 22], "refiner": [34.5, 26]}
    assert axes.get_ylabel() == "PSNR in dB" and axes.get_ylim()[0] == 0
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 3
    assert {text.get_text() for text in axes.texts} == {"28.0", "20.0", "30.0", "22.0", "34.5", "26.0"}


def test_bars_over_a_baseline_are_differences():
    both, over = metric_bars(make_means()), metric_bars(make_means(), baseline="linear")
    axes = over.axes[0]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"nearest": [-2, -2], "refiner": [4.5, 4]}
    assert axes.get_ylabel() == "PSNR in dB, over linear"
    assert "+4.50" in {text.get_text() for text in axes.texts}
    # a method keeps its colour
    colour = {bars.get_label(): bars[0].get_facecolor() for bars in both.axes[0].containers}
    assert all(bars[0].get_facecolor() == colour[bars.get_label()] for bars in axes.containers)
    with pytest.raises(ValueError, match="one of the methods: nearest, linear, refiner"):
        metric_bars(make_means(), baseline="cubic")


def test_pyplot_is_left_alone():
    plt.close("all")
    training_curves(make_history())
    metric_bars(make_means())
    assert plt.get_fignums() == []


def test_labels():
    assert label("val_psnr") == "validation PSNR in dB"
    assert label("consistency_hu") == "consistency in HU"
    assert label("hist_distance") == "histogram distance in HU"
    assert label("ct_slice_interpolation") == "CT slice interpolation"
