import pytest

from common.apps.search.pruner import pruned_at
from common.apps.search.space import Report

REPORT = Report("auroc", startup_trials=3, warmup=1)
COMPLETE = [[0.5, 0.6, 0.7], [0.5, 0.7, 0.8], [0.6, 0.8], [0.4, None, 0.9]]  # medians 0.5, 0.7, 0.8


@pytest.mark.parametrize(
    ("values", "hopeless"),
    [
        ([], False),
        ([0.1], False),  # warm-up
        ([0.1, 0.69], True),
        ([0.1, 0.7], False),
        ([0.75, 0.1], False),  # the best so far counts
        ([0.1, 0.7, 0.75], True),
        ([0.1, 0.7, None], False),
        ([0.1, 0.1, 0.1, 0.1], False),  # nobody has been there
        ([None, None], False),
    ],
)
def test_the_best_so_far_against_the_median_at_the_same_validation(values, hopeless):
    at = pruned_at(values, max(0, len(values) - 1), COMPLETE, REPORT, "maximize")
    assert at == (len(values) if hopeless else None)


def test_the_direction_and_the_first_trials():
    lower = [[1 - value for value in row if value is not None] for row in COMPLETE[:3]]
    assert pruned_at([0.9, 0.31], 0, lower, REPORT, "minimize") == 2
    assert pruned_at([0.9, 0.29], 0, lower, REPORT, "minimize") is None
    assert pruned_at([0.1, 0.1], 0, COMPLETE[:2], REPORT, "maximize") is None


def test_values_are_judged_one_by_one_and_once():
    values = [0.1, 0.69, 0.9]
    assert pruned_at(values, 0, COMPLETE, REPORT, "maximize") == 2  # though the third is the highest
    assert pruned_at(values[:1], 0, COMPLETE, REPORT, "maximize") is None
    assert pruned_at(values, 2, COMPLETE, REPORT, "maximize") is None  # let pass by another worker
    assert pruned_at(values[:1], 2, COMPLETE, REPORT, "maximize") is None  # resumed, not there yet
