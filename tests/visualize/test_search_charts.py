import warnings

import pytest

from common.visualize.figures import figure_image
from common.visualize.search_charts import (
    SearchAxes,
    SearchPoint,
    search_front,
    search_history,
    search_importances,
    search_parallel,
    search_slices,
)

AXES = SearchAxes({"auroc": True, "loss": False}, ["lr", "kind", "depth"], log={"lr"})
POINTS = [
    SearchPoint(0, {"lr": 0.1, "kind": "sgd", "depth": 2}, {"auroc": 0.7, "loss": 0.3}),
    SearchPoint(1, {"lr": 0.001, "kind": None, "depth": 1}, {"auroc": 0.9, "loss": 0.4}),
    SearchPoint(3, {"lr": 0.01, "kind": "sgd", "depth": 2}, {"auroc": 0.8, "loss": 0.2}),
]


def test_the_history_shows_the_best_so_far_in_the_direction_of_each_metric() -> None:
    more, less = search_history(POINTS, AXES).axes
    assert list(more.lines[0].get_ydata()) == [0.7, 0.9, 0.8] and list(more.lines[0].get_xdata()) == [0, 1, 3]
    assert list(more.lines[1].get_ydata()) == [0.7, 0.9, 0.9]
    assert list(less.lines[1].get_ydata()) == [0.3, 0.3, 0.2]


def test_slices_tell_ranges_from_choices_and_mark_the_best() -> None:
    rate, kind, depth = search_slices(POINTS, AXES).axes
    assert rate.get_xscale() == "log" and list(rate.lines[1].get_xdata()) == [0.001]
    assert [tick.get_text() for tick in kind.get_xticklabels()] == ["null", "sgd"]
    assert list(kind.lines[0].get_xdata()) == [1, 0, 1] and kind.get_xscale() == "linear"
    assert [tick.get_text() for tick in depth.get_xticklabels()] == ["1", "2"]


def test_parallel_coordinates_draw_the_best_trial_last_and_bold() -> None:
    panel = search_parallel(POINTS, AXES).axes[0]
    lines = [line for line in panel.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4 and lines[-1].get_linewidth() > 3
    assert list(lines[-1].get_ydata()) == [0.0, 0.0, 0.0]  # the smallest rate, null, depth 1


def test_the_front_joins_what_it_is_told() -> None:
    panel = search_front(POINTS, AXES, {1, 3}, 1).axes[0]
    _, front, chosen = panel.lines
    assert list(front.get_xdata()) == [0.8, 0.9] and list(chosen.get_ydata()) == [0.4]
    with pytest.raises(ValueError, match="one metric, auroc, expected two"):
        search_front(POINTS, SearchAxes({"auroc": True}, ["lr"]), set(), 1)


def test_importances_put_the_most_important_on_top() -> None:
    panel = search_importances({"a": 0.2, "b": 0.7, "c": 0.1}, "auroc").axes[0]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["c", "a", "b"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_trials_draw_without_a_warning(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (search_history, search_slices, search_parallel):
            assert figure_image(draw(POINTS[:n], AXES)).std() > 5
    with pytest.raises(ValueError, match="0 trials with values"):
        search_history([], AXES)
