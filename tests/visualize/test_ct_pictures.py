import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from common.metrics.image_quality import psnr
from common.visualize.ct_pictures import display_order, interpolation_figure, uncertainty_figure
from common.visualize.figures import figure_image


@pytest.fixture(scope="module")
def volumes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.normal(0, 300, (12, 20, 30)).astype(np.float32)
    return {"target": target, "linear": target + 80, "refiner": target + rng.normal(0, 20, target.shape)}


def lps(depth_mm: float, height_mm: float, width_mm: float) -> np.ndarray:
    """Affine of a volume that already lies as the pictures show it."""
    return np.array([[0, 0, -width_mm, 0], [0, -height_mm, 0, 0], [depth_mm, 0, 0, 0], [0, 0, 0, 1]])


def images(figure) -> list[list]:
    """The images of a figure, by row from the top."""
    with_image = [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]
    rows = sorted({round(axes.get_position().y0, 4) for axes in with_image}, reverse=True)
    return [[axes.images[0] for axes in with_image if round(axes.get_position().y0, 4) == row] for row in rows]


def test_planes_errors_and_psnr(volumes):
    results = {name: volumes[name] for name in ("linear", "refiner")}
    figure = interpolation_figure(results, volumes["target"], lps(5, 1, 1), title="Case a")
    axial, coronal, error = images(figure)
    for column, volume in enumerate([*results.values(), volumes["target"]]):
        np.testing.assert_array_equal(axial[column].get_array(), volume[6].astype(np.float32))
        np.testing.assert_array_equal(coronal[column].get_array(), volume[:, 10].astype(np.float32))
        assert coronal[column].origin == "lower" and axial[column].origin == "upper"
    assert len(error) == 2
    np.testing.assert_allclose(error[0].get_array(), 80, atol=1e-3)
    assert error[0].get_clim() == error[1].get_clim() and 80 <= error[0].get_clim()[1] <= 90
    under = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel().startswith("PSNR")]
    expected = [psnr(torch.from_numpy(v).float(), torch.from_numpy(volumes["target"])) for v in results.values()]
    assert under == [f"PSNR {value:.2f} dB" for value in expected]
    texts = {text.get_text() for axes in figure.axes for text in axes.texts} | {t.get_text() for t in figure.texts}
    assert {"5 mm", "Case a", "window -1000 to 1000 HU"} <= texts
    assert figure_image(figure).std() > 20


def test_pixels_are_millimetres(volumes):
    """Every picture has the same width; heights follow the extent in millimetres."""
    figure = interpolation_figure({"linear": volumes["linear"]}, None, lps(4, 2, 1))
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    assert [box.width * width / (box.height * height) for box in boxes] == pytest.approx([30 / 40, 30 / 48])
    aspects = [axes.get_aspect() for axes in figure.axes if axes.images]
    assert aspects == [2.0, 4.0]


def test_a_window_is_black_and_white(volumes):
    figure = interpolation_figure({"linear": volumes["linear"]}, None, lps(1, 1, 1), window=(-160, 240))
    assert {image.get_clim() for row in images(figure) for image in row} == {(-160, 240)}


def test_display_order_turns_any_volume():
    """One bright voxel, told by its place in the patient: superior, anterior, right."""
    lps = np.zeros((4, 5, 6))  # D up, H to the back, W to the left
    lps[3, 0, 0] = 1
    affine = np.array([[0, 0, -1.0, 9], [0, -2.0, 0, 8], [3.0, 0, 0, 7], [0, 0, 0, 1]])  # (d, h, w) to RAS
    same, spacing = display_order(lps, affine)
    np.testing.assert_array_equal(same, lps)
    assert spacing == (3.0, 2.0, 1.0)
    # downwards, to the front, to the right
    flipped, _ = display_order(lps[::-1, ::-1, ::-1], affine * [[-1, -1, -1, 1]])
    np.testing.assert_array_equal(flipped, lps)
    # axes in another order, as an (x, y, z) array has them
    turned, spacing = display_order(lps.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(turned, lps)
    assert spacing == (3.0, 2.0, 1.0)


def test_an_affine_does_the_turning(volumes):
    affine = np.diag([5.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]  # (d, h, w) to RAS: up, to the front, to the right
    figure = interpolation_figure({"linear": volumes["linear"]}, None, affine)
    (axial,), (coronal,) = images(figure)
    shown = volumes["linear"][:, ::-1, ::-1].astype(np.float32)
    np.testing.assert_array_equal(axial.get_array(), shown[6])
    np.testing.assert_array_equal(coronal.get_array(), shown[:, 10])


def test_uncertainty(volumes):
    std = np.abs(volumes["refiner"] - volumes["target"])
    figure = uncertainty_figure(volumes["target"], std, lps(5, 1, 1))
    axial, coronal = images(figure)
    np.testing.assert_array_equal(axial[1].get_array(), std[6].astype(np.float32))
    assert axial[1].get_clim() == coronal[1].get_clim() == pytest.approx((0, np.percentile(std, 99.5)))
    assert figure_image(figure).std() > 20
    with pytest.raises(ValueError, match="expected"):
        uncertainty_figure(volumes["target"], std[1:], lps(1, 1, 1))


def test_wrong_shapes_are_named(volumes):
    with pytest.raises(ValueError, match="'linear': .*expected one shape"):
        interpolation_figure({"linear": volumes["linear"]}, volumes["target"][1:], lps(1, 1, 1))
    with pytest.raises(ValueError, match="Volume 'linear' has the shape"):
        interpolation_figure({"linear": volumes["linear"][0]}, None, lps(1, 1, 1))


def test_pyplot_is_left_alone(volumes):
    plt.close("all")
    figure_image(interpolation_figure({"linear": volumes["linear"]}, volumes["target"], lps(1, 1, 1)))
    assert plt.get_fignums() == []
