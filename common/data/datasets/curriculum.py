"""A curriculum: stages of one training that see more and more of its cases, the easy ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["Curriculum"]


class Curriculum:
    """Which cases each stage sees, in which epochs of the training.

    Args:
        scores: how hard each case is.
        thresholds: stage -> the highest score that it takes, in the order of training, so that the stages are nested.
        last_epochs: stage -> its last epoch, counted through all stages.
        batch_size: cases of a step, of all processes together.

    Attributes:
        steps: of all stages.
        samples: of all stages, with repetition.

    Raises:
        ValueError: if the stages are not nested, one has no case, or their epochs do not follow each other.
    """

    def __init__(
        self, scores: Sequence[float], thresholds: Mapping[str, float], last_epochs: Mapping[str, int], batch_size: int
    ) -> None:
        if list(thresholds) != list(last_epochs):
            raise ValueError(f"thresholds are of {', '.join(thresholds)}, expected the stages of {dict(last_epochs)}")
        self.cases, self.last_epochs, self._stages = len(scores), dict(last_epochs), {}
        before, epoch = None, 0
        for name, threshold in thresholds.items():
            if before is not None and threshold < thresholds[before]:
                raise ValueError(
                    f"{name} takes scores up to {threshold}, expected at least the {thresholds[before]} of {before}"
                )
            if last_epochs[name] <= epoch:
                raise ValueError(f"{name} ends with epoch {last_epochs[name]}, expected more than {epoch}")
            self._stages[name] = [index for index, score in enumerate(scores) if score <= threshold]
            if not self._stages[name]:
                raise ValueError(f"{name} has none of {len(scores)} cases with a score of at most {threshold}")
            before, epoch = name, last_epochs[name]
        self.samples = sum(self.epochs(name) * len(cases) for name, cases in self._stages.items())
        self.steps = sum(self.epochs(n) * math.ceil(len(cases) / batch_size) for n, cases in self._stages.items())
        self.batch_size = batch_size

    def indices(self, stage: str) -> list[int]:
        """The cases of a stage; all for a name that is none of its stages."""
        return self._stages.get(stage, list(range(self.cases)))

    def first_epoch(self, stage: str) -> int:
        """Epochs before a stage; 0 for a name that is none."""
        names = list(self.last_epochs)
        place = names.index(stage) if stage in names else 0
        return self.last_epochs[names[place - 1]] if place else 0

    def epochs(self, stage: str) -> int:
        """Of a stage; for a name that is none, as many with all cases as see as many samples as all stages."""
        if stage not in self.last_epochs:
            return max(1, round(self.samples / self.cases))
        return self.last_epochs[stage] - self.first_epoch(stage)

    def all_steps(self, stage: str) -> int:
        """Steps of the whole training that a stage belongs to."""
        return self.steps if stage in self.last_epochs else self.epochs(stage) * math.ceil(self.cases / self.batch_size)

    def before(self, stage: str) -> str | None:
        """The stage before."""
        names = list(self.last_epochs)
        return names[names.index(stage) - 1] if stage in names[1:] else None

    def is_last(self, stage: str) -> bool:
        """Whether the training ends with it."""
        return stage not in self.last_epochs or stage == list(self.last_epochs)[-1]
