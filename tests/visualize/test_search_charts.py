import warnings

import matplotlib.pyplot as plt
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from common.visualize.search_charts import search_charts

IDS = {
    "optimizer#lr": FloatDistribution(0.001, 0.1, log=True),
    "kind": CategoricalDistribution(["sgd", None, True]),
    "depth": CategoricalDistribution([1, 2]),
    "dropout": FloatDistribution(0.1, 0.5),
}


def searched(n: int, directions: list[str]) -> optuna.Study:
    search = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    search.tell(search.ask(IDS), state=optuna.trial.TrialState.FAIL)
    for _ in range(n):
        trial = search.ask(IDS)
        search.tell(trial, [trial.params["dropout"], *[trial.params["optimizer#lr"]] * (len(directions) - 1)])
    search.ask(IDS)  # runs
    return search


@pytest.mark.parametrize(("n", "metrics"), [(1, ["a"]), (3, ["a", "b"]), (6, ["a"]), (6, ["a", "b", "c"])])
def test_the_charts_that_the_trials_allow(n: int, metrics: list[str]) -> None:
    search = searched(n, ["maximize", "minimize", "maximize"][: len(metrics)])
    style = dict(plt.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = search_charts(search, metrics, list(IDS))
    expected = ["history", "slices", "parallel_coordinates"] + ["pareto_front"] * (len(metrics) > 1)
    assert list(drawn) == expected + ["importances"] * (n >= 4)
    for name, pixels in drawn.items():
        assert pixels.dtype == "uint8" and pixels.ndim == 3 and pixels.std() > 5, name
    assert not plt.get_fignums() and dict(plt.rcParams) == style


def test_equal_values_have_no_importances() -> None:
    search, ranges = optuna.create_study(), {"a": FloatDistribution(0, 1)}
    for value in (0.1, 0.2, 0.3, 0.4):
        search.add_trial(optuna.create_trial(value=1.0, params={"a": value}, distributions=ranges))
    assert "importances" not in search_charts(search, ["loss"], ["a"])
