import optuna
import pytest
from optuna.trial import TrialState

from common.apps.search.pruner import REPORTED
from common.apps.search.shared_search import SharedSearch
from common.apps.search.space import Dimension, Objective, SearchPlan

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # as need_optuna does
PLAN = SearchPlan(
    {"lr": Dimension((0.1, 0.5, 0.8, 1.0), 0.1, 1.0), "kind": Dimension(("a", "b"))},
    (Objective("auroc"), Objective("worst")),
)


def new_search(search: str) -> SharedSearch:
    return SharedSearch(optuna.storages.InMemoryStorage(), "toy", PLAN, search, 0, {}, 60)


@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_trial_that_is_queued_again_keeps_what_is_known_of_it_and_shifts_no_other(search):
    alone, shared = new_search(search), new_search(search)
    expected = [alone.ask(6).params for _ in range(6)]
    first = shared.ask(6)
    shared.note(first, seconds=3.0, **{REPORTED: [0.1, None]})
    assert shared.requeue(shared.trials()[0], died=True) and shared.seconds() == 3.0
    assert not shared.requeue(first, died=True)  # by another worker, a moment later
    again = shared.ask(6)
    assert again.params == first.params and again.user_attrs[REPORTED] == [0.1, None]
    assert again.user_attrs["deaths"] == 1
    assert [again.params, *(shared.ask(6).params for _ in range(5))] == expected
    assert shared.ask(6) is None
    assert shared.ask(7).params == alone.ask(7).params  # one too many takes no place
    assert [trial.state for trial in shared.trials()] == [TrialState.RUNNING] * 7


@pytest.mark.parametrize("search", ["grid", "random", "bayesian"])
def test_a_worker_that_dies_before_its_trial_has_parameters_changes_none(search):
    shared = new_search(search)
    shared.storage.create_new_trial(shared.optuna_study._study_id)
    assert shared.requeue(shared.trials()[0], died=True)
    assert shared.ask(2).params == new_search(search).ask(2).params


def test_a_trial_whose_workers_died_three_times_has_failed():
    shared = new_search("random")
    for again in (True, True, False):
        assert shared.requeue(shared.ask(1), died=True) == again
    assert [trial.user_attrs["error"] for trial in shared.trials()] == ["its worker died 3 times"]
