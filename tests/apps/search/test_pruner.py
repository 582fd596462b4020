import math

import optuna
import pytest

from common.apps.search.pruner import REPORTED, judged, worse_than_median
from common.apps.search.shared_search import SharedStudy
from common.apps.search.space import Dimension, Objective, Report, SearchPlan

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
    ],
)
def test_the_best_so_far_against_the_median_at_the_same_validation(values, hopeless):
    assert worse_than_median(values, COMPLETE, REPORT, "maximize") == hopeless


def test_the_direction_and_the_first_trials():
    lower = [[1 - value for value in row if value is not None] for row in COMPLETE[:3]]
    assert worse_than_median([0.9, 0.31], lower, REPORT, "minimize")
    assert not worse_than_median([0.9, 0.29], lower, REPORT, "minimize")
    assert not worse_than_median([0.1, 0.1], COMPLETE[:2], REPORT, "maximize")


def test_values_are_judged_one_by_one_and_once():
    values = [0.1, 0.69, 0.9]
    assert judged(values, [], COMPLETE, REPORT, "maximize") == ([0.1, 0.69], True)  # though the third is the highest
    assert judged(values[:1], [], COMPLETE, REPORT, "maximize") == ([0.1], False)
    assert judged(values, [0.1, 0.69], COMPLETE, REPORT, "maximize") == (values, False)  # let pass by another worker
    assert judged(values[:1], [0.1, 0.69], COMPLETE, REPORT, "maximize") == (
        [0.1, 0.69],
        False,
    )  # resumed, not there yet
    assert judged([math.nan, math.nan], [], COMPLETE, REPORT, "maximize") == ([None, None], False)


def test_a_trial_that_another_worker_takes_over_keeps_what_was_judged():
    plan = SearchPlan({"lr": Dimension(low=0.1, high=1.0)}, (Objective("auroc"), Objective("worst")))
    study = SharedStudy(optuna.storages.InMemoryStorage(), "toy", plan, "random", 0, {}, 60)
    trial = study.ask(1)
    study.note(trial, **{REPORTED: [0.1, None]})
    assert study.requeue(study.trials()[0], died=True)
    again = study.ask(1)
    assert again.params == trial.params and again.user_attrs[REPORTED] == [0.1, None]
