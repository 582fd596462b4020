import re

import numpy as np
import pytest

from common.visualize.attention import (
    attention_overlay,
    case_figure,
    grey_picture,
    token_attention_figure,
    token_attention_html,
)
from common.visualize.figures import figure_image


def test_grey_keeps_bytes_and_stretches_the_rest():
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert grey_picture(eight) is eight
    sixteen = grey_picture(np.linspace(0, 65535, 10_000).reshape(100, 100).astype(np.uint16))
    assert sixteen.dtype == np.uint8 and sixteen.min() == 0 and sixteen.max() == 255
    assert sixteen[50, 0] == pytest.approx(128, abs=1)
    assert np.array_equal(grey_picture(np.full((4, 4), 7.0)), np.zeros((4, 4)))  # constant: black, no division by 0
    assert grey_picture(np.stack([eight] * 3, axis=2)).shape == (16, 16)
    for image, words in ((np.zeros(4), "shape"), (np.full((2, 2), np.nan), "not finite")):
        with pytest.raises(ValueError, match=words):
            grey_picture(image)


def test_the_overlay_is_bright_where_the_attention_is_and_grey_where_it_is_not():
    image = np.full((80, 60), 100, np.uint8)
    attention = np.zeros((8, 6))
    attention[1, 4] = 3.0  # patch of rows 10 to 20, columns 40 to 50
    overlay = attention_overlay(image, attention)
    assert overlay.shape == (80, 60, 3) and overlay.dtype == np.uint8
    assert np.array_equal(overlay[40:], np.full((40, 60, 3), 100))
    changed = np.abs(overlay.astype(int) - 100).sum(axis=2)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert 10 <= row < 20 and 40 <= column < 50
    assert np.array_equal(attention_overlay(image, 5 * attention), overlay)
    assert np.array_equal(attention_overlay(image, 0 * attention), np.full((80, 60, 3), 100))


@pytest.mark.parametrize("attention", [np.zeros(4), -np.ones((2, 2)), np.full((2, 2), np.nan), np.zeros((0, 2))])
def test_what_is_no_attention_is_refused(attention):
    with pytest.raises(ValueError, match="expected 2 dimensions of weights from 0 on"):
        attention_overlay(np.zeros((8, 8), np.uint8), attention)


def test_a_case_shows_what_it_has():
    labels = {"Edema": 0.3, "Fracture": 0.7}
    image, attention = np.random.default_rng(0).random((40, 30)), np.ones((4, 3))
    assert len(case_figure(image, labels, attention, {"Edema": 0.2}, "Case 1").axes) == 3
    assert len(case_figure(image, labels).axes) == 2
    alone = case_figure(None, labels)
    (axes,) = alone.axes
    assert [patch.get_width() for patch in axes.patches] == [0.3, 0.7]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Edema", "Fracture"]
    colours = {patch.get_facecolor() for patch in axes.patches}
    assert len(colours) == 2  # 0.7 is from 0.5 on, 0.3 is not
    both = case_figure(None, labels, thresholds={"Edema": 0.2, "Fracture": 0.5}).axes[0]
    assert len({patch.get_facecolor() for patch in both.patches}) == 1
    with pytest.raises(ValueError, match="no image"):
        case_figure(None, labels, attention)


def test_the_picture_names_what_it_shows():
    image, weights = np.zeros((8, 8), np.uint8), np.ones((2, 2))
    titles = [axes.get_title(loc="left") for axes in case_figure(image, {"Edema": 0.3}, weights).axes]
    assert "image encoder:\nsaliency" in titles
    named = case_figure(image, {"Edema": 0.3}, weights, attention_name="attention").axes
    assert "image encoder:\nattention" in [axes.get_title(loc="left") for axes in named]


NOTE = "Cough & fever <38.5>,\nno $pain$."
SPANS = [(0, 0), (0, 5), (6, 7), (8, 13), (14, 20), (22, 24), (25, 31), (0, 0)]


def test_the_html_of_a_note_holds_its_text_escaped_and_its_weights():
    weights = [9.0, 0.2, 0.0, 0.4, 0.1, 0.1, 0.1, 5.0]
    html = token_attention_html(NOTE, SPANS, weights)
    text = re.sub(r"<[^>]*>", "", html)
    assert text == "Cough &amp; fever &lt;38.5&gt;,\nno $pain$."
    shades = re.findall(r'rgba\(230,159,0,([\d.]+)\)" title="([\d.]+)">([^<]*)<', html)
    # special tokens have no place in the text and do not set the scale
    assert shades[0] == ("0.50", "0.2000", "Cough") and shades[2] == ("1.00", "0.4000", "fever")
    assert len(shades) == 6
    assert "<script" not in token_attention_html("<script>x</script>", [(0, 8)], [1.0])
    assert re.sub(r"<[^>]*>", "", token_attention_html("as it is", [], [])) == "as it is"


@pytest.mark.parametrize(
    ("spans", "weights", "words"),
    [
        ([(0, 5)], [1.0, 2.0], "1 spans and 2 weights"),
        ([(0, 5), (3, 7)], [1.0, 2.0], "at 3 to 7, expected it behind 5"),
        ([(0, 500)], [1.0], "in a text of 32 characters"),
        ([(0, 5)], [-1.0], "weights from 0 on"),
    ],
)
def test_tokens_that_do_not_fit_the_note_are_refused(spans, weights, words):
    for make in (token_attention_html, token_attention_figure):
        with pytest.raises(ValueError, match=words):
            make(NOTE, spans, weights)


def test_the_figure_of_a_note_wraps_shades_and_says_what_it_leaves_out():
    figure = token_attention_figure(NOTE, SPANS, [0, 0.2, 0, 0.4, 0.1, 0.1, 0.1, 0], width=12)
    axes = figure.axes[0]
    letters = "".join(text.get_text() for text in axes.texts)
    assert letters == "".join(NOTE.split())
    lines = [image.get_array().shape[1] for image in axes.images]
    assert lines == [7, 5, 7, 10]  # "Cough &", "fever", "<38.5>,", "no $pain$."
    assert axes.images[1].get_array()[0, 0, 3] == 1.0  # fever
    assert axes.images[0].get_array()[0, 5, 3] == 0.0  # the space behind Cough
    cut = token_attention_figure(NOTE, SPANS, [1.0] * 8, width=12, max_lines=2, title="Note")
    assert cut.axes[0].texts[-1].get_text() == "... 2 more lines"
    assert figure_image(cut).std() > 5


def test_a_word_longer_than_a_line_is_cut():
    axes = token_attention_figure("x" * 25, [(0, 25)], [1.0], width=10).axes[0]
    assert [image.get_array().shape[1] for image in axes.images] == [10, 10, 5]
