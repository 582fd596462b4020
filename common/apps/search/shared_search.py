"""The study that the workers of a search share: its storage, and trials whose worker has died.

Optuna keeps trials, parameters and values. Added here: each worker counts up the user attribute `beat` of its running
trial. A worker that sees another's trial stand still for `STALE_BEATS` intervals, by its own clock, takes that worker
for dead, and the trial is queued again with the same parameters. This needs no clock that machines share and works in
every storage; Optuna's own heartbeat needs SQL.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from common.apps.run.bundle import UsageError
from common.apps.search.pruner import REPORTED
from common.apps.search.sampler import GridWalk, distribution, make_sampler
from common.apps.search.space import SearchPlan

STALE_BEATS = 3
MAX_DEATHS = 3  # of one trial's workers, after which the trial itself is to blame
_TRIES = 6
# How databases say that another transaction came first; two workers may also create the tables at the same moment.
_BUSY = ("locked", "deadlock", "exists", "unique", "duplicate")
_JOURNALS = (".log", ".journal")
_DEFINITION = "definition"
_T = TypeVar("_T")


# ---- storage -----------------------------------------------------------------------------------------------------


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A journal file (`journal:///path`, or a path that ends in .log or .journal), or a database by its SQLAlchemy URL.

    Folders of files are made. A journal file may lie on a network drive; SQLite only on a disk of this machine.

    Raises:
        UsageError: if it is neither, or the database's driver is not installed.
        ConnectionError: if the database cannot be opened.
    """
    journal = url.removeprefix("journal://") if url.startswith("journal://") else url
    if journal != url or ("://" not in url and url.endswith(_JOURNALS)):
        Path(journal).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal))
    expected = "expected a SQLAlchemy URL such as sqlite:///study.db, or a path ending in .log or .journal"
    if "://" not in url:
        raise UsageError(f"--storage is {url!r}, {expected}")
    options: dict[str, Any] = {}
    if url.startswith("sqlite:"):
        options = {"connect_args": {"timeout": 100}}
        file = url.partition(":///")[2].partition("?")[0]
        if not file or file == ":memory:":
            raise UsageError(f"--storage is {url!r}, expected a file, which a second call can go on with")
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    else:
        options = {"pool_pre_ping": True}
    shown = _without_password(url)
    try:
        return _safely(lambda: optuna.storages.RDBStorage(url, engine_kwargs=options))
    except ArgumentError as error:
        raise UsageError(f"--storage is {shown!r}, {expected}") from error
    except ImportError as error:
        raise UsageError(f"--storage is {shown!r}, whose database driver is not installed") from error
    except SQLAlchemyError as error:
        first = str(error).splitlines()[0]
        raise ConnectionError(f"the storage {shown} cannot be opened ({first}), expected a database") from error


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else url


def _safely(call: Callable[[], _T]) -> _T:
    """Call, and again if another worker's transaction stood in the way."""
    for attempt in range(_TRIES):
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not any(word in str(error.__cause__ or error).lower() for word in _BUSY) or attempt == _TRIES - 1:
                raise
            time.sleep(0.05 * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError  # the loop has returned or raised


# ---- the study ---------------------------------------------------------------------------------------------------


class SharedStudy:
    """A study in a storage that other workers may use at the same time.

    Args:
        storage: see `open_storage`.
        name: of the study in the storage.
        plan: what is searched.
        search: grid, random or bayesian.
        seed: of the sampling.
        definition: all that must be the same in each call that works on this study, as JSON has it.
        beat_seconds: interval at which a worker shows that it is alive.

    Raises:
        UsageError: if the storage has a study of this name with another definition.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        plan: SearchPlan,
        search: str,
        seed: int,
        definition: Mapping[str, Any],
        beat_seconds: float,
    ) -> None:
        self.plan, self.beat_seconds = plan, beat_seconds
        directions = [objective.direction for objective in plan.objectives]
        self.distributions = {key: distribution(dimension, search) for key, dimension in plan.space.items()}
        self._watched: dict[int, tuple[Any, float]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = make_sampler(search, plan, seed)
        self.study = _safely(
            lambda: optuna.create_study(
                storage=storage,
                study_name=name,
                directions=self._directions_there(storage, name, definition) or directions,
                sampler=sampler,
                load_if_exists=True,
            )
        )
        if _DEFINITION not in self.study.user_attrs:
            _safely(lambda: self.study.set_user_attr(_DEFINITION, dict(definition)))
        _refuse_other(name, self.study.user_attrs[_DEFINITION], definition)

    @staticmethod
    def _directions_there(
        storage: optuna.storages.BaseStorage, name: str, definition: Mapping[str, Any]
    ) -> list | None:
        for summary in optuna.get_all_study_summaries(storage):
            if summary.study_name == name and _DEFINITION in summary.user_attrs:
                _refuse_other(name, summary.user_attrs[_DEFINITION], definition)
                return summary.directions
        return None

    # --- what there is ---

    def trials(self) -> list[FrozenTrial]:
        """Trials that count: without those that were queued again or were one too many."""
        everything = _safely(lambda: self.study.get_trials(deepcopy=False))
        return [t for t in everything if not (t.user_attrs.get("requeued") or t.user_attrs.get("surplus"))]

    def seconds(self) -> float:
        """Time that all ended trials took, on all workers, interrupted ones too."""
        return sum(t.user_attrs.get("seconds", 0.0) for t in self.study.get_trials(deepcopy=False))

    def complete(self) -> list[FrozenTrial]:
        """Trials with values, the best first: by the first objective, ties by the next ones, then the earlier trial."""
        signs = [-1 if o.direction == "maximize" else 1 for o in self.plan.objectives]
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        return sorted(done, key=lambda t: [*(s * v for s, v in zip(signs, t.values, strict=True)), t.number])

    def front(self) -> list[FrozenTrial]:
        """Complete trials that no other one beats in every objective."""
        return list(self.study.best_trials) if self.complete() else []

    # --- one trial ---

    def ask(self, n_trials: int) -> optuna.Trial | None:
        """Begin a trial; one that is queued goes first.

        Args:
            n_trials: of the whole study.

        Returns:
            The trial with its parameters, or None if other workers have meanwhile begun as many as there shall be.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            trial = _safely(lambda: self.study.ask(self.distributions))
        if sum(t.number < trial.number for t in self.trials()) >= n_trials:
            self.note(trial, surplus=True)
            self.tell(trial, TrialState.FAIL)
            return None
        self.note(trial, worker=f"{socket.gethostname()}:{os.getpid()}", beat=0)
        return trial

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Show the others that this trial is alive."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self.beat_seconds):
                count += 1
                try:
                    self.note(trial, beat=count)
                except UpdateFinishedTrialError:  # somebody took this worker for dead
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def note(self, trial: optuna.Trial, **facts: Any) -> None:
        """Store facts with a running trial."""
        for name, value in facts.items():
            _safely(lambda name=name, value=value: trial.set_user_attr(name, value))

    def tell(self, trial: optuna.Trial | int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial.

        Returns:
            Whether it had not been ended before by a worker that took this one for dead.
        """
        try:
            _safely(lambda: self.study.tell(trial, values, state))
        except UpdateFinishedTrialError:
            return False
        except ValueError as error:  # the same, where Optuna noticed it before it asked the storage
            if not str(error).startswith("Cannot tell a "):
                raise
            return False
        return True

    def requeue(self, trial: optuna.Trial | FrozenTrial, died: bool) -> bool:
        """End a running trial and queue it again with the same parameters.

        One that was killed before it got parameters is queued only in a grid, which knows them; elsewhere a new trial
        takes its place.

        Args:
            trial: the trial.
            died: whether its worker died; after `MAX_DEATHS` the trial has failed.

        Returns:
            Whether it is queued.
        """
        attrs, params = trial.user_attrs, dict(trial.params)
        if set(params) != set(self.distributions):
            walk = self.study.sampler
            params = walk.point_of(self.study, trial) if isinstance(walk, GridWalk) else None
        deaths = attrs.get("deaths", 0) + died
        again = deaths < MAX_DEATHS
        storage, trial_id = self.study._storage, trial._trial_id
        mark = ("requeued", True) if again else ("error", f"its worker died {deaths} times")
        try:
            _safely(lambda: storage.set_trial_user_attr(trial_id, *mark))
        except UpdateFinishedTrialError:
            return False
        if not self.tell(trial.number, TrialState.FAIL):
            return False
        if again and params is not None:
            facts = {"first": attrs.get("first", trial.number), "deaths": deaths, REPORTED: attrs.get(REPORTED, [])}
            waiting = optuna.create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions=self.distributions,
                user_attrs=facts,
            )
            _safely(lambda: self.study.add_trial(waiting))
        return again

    def revive(self) -> list[int]:
        """Queue the trials of workers that have died; give their numbers."""
        now, revived = time.monotonic(), []
        running = {t.number: t for t in self.trials() if t.state == TrialState.RUNNING}
        self._watched = {number: seen for number, seen in self._watched.items() if number in running}
        for number, trial in running.items():
            beat = trial.user_attrs.get("beat")
            last, since = self._watched.get(number, (None, now))
            if number not in self._watched or beat != last:
                self._watched[number] = (beat, now)
            elif now - since > STALE_BEATS * self.beat_seconds:
                self.requeue(trial, died=True)
                revived.append(number)
        return revived


def _refuse_other(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    different = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if different:
        key = different[0]
        raise UsageError(
            f"the study {name!r} in this storage was made with {key} {_short(there.get(key))}, not "
            f"{_short(here.get(key))}; expected the same command, or another --study or --storage"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else text[:157] + "..."
