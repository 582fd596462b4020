"""What a search tries next.

It depends on the seed, on a trial's place among the trials and on those before it, not on how often the search was
interrupted. A grid is walked in a seeded order, one point per place, so workers never share a point.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from common.apps.search.space import Dimension, SearchPlan


def trial_seed(seed: int, place: int) -> int:
    """Seed of what is sampled for one trial, so that a search that was interrupted goes on as it would have."""
    return int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4])


def _place(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many trials before this one were given parameters of their own; no two workers' trials have the same."""
    return sum(t.number < trial.number and _is_new(t) for t in study.get_trials(deepcopy=False))


class SeededSampler(BaseSampler):
    """A sampler that is made anew for each trial, from the seed and the trial's place.

    Args:
        make: gives the sampler for a seed.
        seed: of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        self.sampler = self.make(trial_seed(self.seed, _place(study, trial)))
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler does."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the sampler does."""
        self.sampler.after_trial(study, trial, state, values)


class GridWalk(BaseSampler):
    """Every point of the grid once, in an order that the seed decides.

    Args:
        plan: with values for each id.
        seed: of the order.
    """

    def __init__(self, plan: SearchPlan, seed: int) -> None:
        self.plan = plan
        self.order = random.Random(seed).sample(range(plan.grid_size()), plan.grid_size())
        self.point: Mapping[str, Any] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Find the point of this trial."""
        self.point = self.point_of(study, trial)

    def point_of(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The point of a trial's place."""
        return self.plan.grid_point(self.order[_place(study, trial) % len(self.order)])

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The point's value."""
        return self.point[param_name]


def make_sampler(search: str, plan: SearchPlan, seed: int) -> BaseSampler:
    """The sampler of a search: a walk over the grid, random, or TPE (which Optuna also has for several objectives)."""
    if search == "grid":
        return GridWalk(plan, seed)
    if search == "random":
        return SeededSampler(lambda number: RandomSampler(seed=number), seed)
    # constant_liar: what other workers are trying counts as bad, so that workers do not try the same.
    return SeededSampler(lambda number: TPESampler(seed=number, multivariate=True, constant_liar=True), seed)


def distribution(dimension: Dimension, search: str) -> BaseDistribution:
    """What a search draws an id's value from."""
    if search == "grid" or dimension.low is None:
        return CategoricalDistribution(dimension.values)
    low, high, step = dimension.low, dimension.high, dimension.step
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, dimension.log, step or 1)
    return FloatDistribution(low, high, dimension.log, step)


def _is_new(trial: FrozenTrial) -> bool:
    """Whether a trial had a point of its own, and is not an earlier one that was queued again."""
    return "first" not in trial.user_attrs and not trial.user_attrs.get("surplus")
