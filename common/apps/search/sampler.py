"""What a search tries next: Optuna's samplers, asked in a way that several workers and interruptions do not change.

It depends on the seed, on a trial's place among the trials and on those before it. A trial that is queued again has the
place of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from common.apps.search.space import Dimension, SearchPlan

SURPLUS = "surplus"  # marks a trial that was begun though there were as many as there shall be


def trial_seed(seed: int, place: int) -> int:
    """Seed of what is sampled for one trial, so that a search that was interrupted goes on as it would have."""
    return int.from_bytes(hashlib.sha256(f"{seed} {place}".encode()).digest()[:4])


def first_number(trial: FrozenTrial) -> int:
    """Number of the trial that this one repeats, its own if none; `RetryHeartbeatStaleTrialCallback` notes it."""
    return trial.system_attrs.get("failed_trial", trial.number)


def place_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many trials before this one were given parameters of their own; no two workers' trials have the same."""
    first = first_number(trial)
    before = [t for t in study.get_trials(deepcopy=False) if t.number < first]
    return sum(t.number == first_number(t) and SURPLUS not in t.user_attrs for t in before)


class SeededSampler:
    """One of Optuna's samplers that is made anew for each trial, from the seed and the trial's place.

    Args:
        make: gives the sampler for a seed.
        seed: of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        self.sampler = self.make(trial_seed(self.seed, place_of(study, trial)))
        self.sampler.before_trial(study, trial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


class GridByPlace(GridSampler):
    """Every point of the grid once, in Optuna's seeded order, one per place.

    Optuna itself goes by the trial's number, and by chance once trials were queued again, so that workers may share a
    point while another is left out.
    """

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Note the point of this trial."""
        point = place_of(study, trial) % len(self._all_grids)
        study._storage.set_trial_system_attr(trial._trial_id, "grid_id", point)


def make_sampler(search: str, plan: SearchPlan, seed: int) -> BaseSampler | SeededSampler:
    """The sampler of a search: a walk over the grid, random, or TPE (which Optuna also has for several objectives)."""
    if search == "grid":
        return GridByPlace({name: dimension.values for name, dimension in plan.space.items()}, seed)
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
