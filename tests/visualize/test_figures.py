import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from common.visualize.figures import OKABE_ITO, figure_image, figure_png, picture_caption, save_picture


def line() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1])
    return figure


def test_pixels_have_the_size_of_the_figure():
    image = figure_image(line(), dpi=50)
    assert image.dtype == np.uint8 and image.shape == (100, 150, 3)
    assert image.std() > 5


def test_a_picture_carries_its_caption(tmp_path):
    path = save_picture(line(), tmp_path / "a" / "loss.png", "Verlust über <b>alle</b> Schritte, 10 µm.")
    assert picture_caption(path) == "Verlust über <b>alle</b> Schritte, 10 µm."
    assert [file.name for file in path.parent.iterdir()] == ["loss.png"]
    assert (np.asarray(Image.open(path)) == figure_image(line())).all()


def test_the_bytes_are_those_of_a_png(tmp_path):
    (tmp_path / "x.png").write_bytes(figure_png(line(), dpi=40))
    assert Image.open(tmp_path / "x.png").size == (120, 80)


def test_without_a_caption_the_file_name_speaks(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "error_map.png")
    assert picture_caption(tmp_path / "error_map.png") == "error map"


def test_wrong_pixels_and_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"):
        save_picture(np.zeros((4, 4)), tmp_path / "a.png", "")
    with pytest.raises(ValueError, match="expected the ending .png"):
        save_picture(line(), tmp_path / "a.jpg", "")


def test_neighbouring_colours_differ_in_grey_print():
    """Luma of neighbours (ITU-R BT.601) at least 0.1 apart; hatches and line styles tell them apart besides."""
    luma = [float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) for colour in OKABE_ITO]
    assert min(abs(a - b) for a, b in zip(luma, luma[1:], strict=False)) > 0.1
