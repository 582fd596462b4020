import numpy as np
import pytest

from common.visualize.figures import figure_image
from common.visualize.regions import region_figure

REGIONS = ("right lung", "left lung", "heart")


def test_a_case_with_its_regions_and_sentences():
    rng = np.random.default_rng(0)
    attention, priors = rng.random((3, 4, 4)), np.exp(-np.linspace(0, 3, 48)).reshape(3, 4, 4)
    sentences = [("Heart is enlarged", "heart", 0.5), ("A $dollar$ and_under", "right lung", 0.4)]
    figure = region_figure(rng.random((32, 24)), attention, priors, [0.2, 0.3, 0.5], REGIONS, sentences, "case_$1")
    titles = [axes.get_title(loc="left") for part in figure.subfigs for axes in part.axes]
    assert titles[:4] == ["X-ray", "right lung: weight 0.20", "left lung: weight 0.30", "heart: weight 0.50"]
    written = [text.get_text() for text in figure.subfigs[1].axes[0].texts]
    assert written[0] == "Heart is enlarged  [heart, 50% of its attention to regions]" and len(written) == 2
    colours = {text.get_color() for text in figure.subfigs[1].axes[0].texts}
    assert len(colours) == 2 and figure_image(figure).ndim == 3


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_flat_priors_and_no_text(grid):
    flat = np.full((3, *grid), 1.0)
    figure = region_figure(np.zeros((8, 8)), flat, flat, [1 / 3] * 3, REGIONS)
    assert figure.subfigs[1].axes[0].texts[0].get_text() == "The model wrote nothing."
    assert figure_image(figure).shape[2] == 3
