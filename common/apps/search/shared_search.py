"""The search that several workers share: its storage, and trials whose worker has died.

Optuna keeps trials, parameters and values, and queues a trial again. Added here: each worker counts up the user
attribute `beat` of its running trial. A worker that sees another's trial stand still for `STALE_BEATS` intervals, by
its own clock, takes that worker for dead. This needs no clock that machines share and works in every storage. Optuna's
own heartbeat needs SQL, so that a journal file would have none, and never ends a trial whose worker died before its
first beat, for which the others would wait for ever.
"""

from __future__ import annotations

import copy
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from common.apps.run.bundle import UsageError
from common.apps.search.sampler import SURPLUS, distribution, make_sampler
from common.apps.search.space import SearchPlan

STALE_BEATS = 3
MAX_DEATHS = 3  # of one trial's workers, after which the trial itself is to blame
_TRIES = 6
# How databases say that another transaction came first; two workers may also create the tables at the same moment.
_BUSY = ("locked", "deadlock", "exists", "unique", "duplicate")
_JOURNALS = (".log", ".journal")
_DEFINITION = "search"  # user attribute
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
    expected = "expected a SQLAlchemy URL such as sqlite:///search.db, or a path ending in .log or .journal"
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


# ---- the search --------------------------------------------------------------------------------------------------


class SharedSearch:
    """A search in a storage that other workers may use at the same time.

    Args:
        storage: see `open_storage`.
        name: of the search in the storage.
        plan: what is searched.
        search: grid, random or bayesian.
        seed: of the sampling.
        definition: all that must be the same in each call that works on this search, as JSON has it.
        beat_seconds: interval at which a worker shows that it is alive.

    Raises:
        UsageError: if the storage has a search of this name with another definition.
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
        self.distributions = {key: distribution(dimension, search) for key, dimension in plan.space.items()}
        self._watched: dict[int, tuple[Any, float]] = {}
        self.optuna_study = _safely(
            lambda: optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[objective.direction for objective in plan.objectives],
                sampler=make_sampler(search, plan, seed),
                load_if_exists=True,
            )
        )
        self.storage = self.optuna_study._storage  # Optuna's cache of it
        there = self.optuna_study.user_attrs
        if "definition" in there:
            raise UsageError(
                f"the search {name!r} in this storage was begun by an earlier version, which kept the order of a grid "
                "and dead trials in another way; expected another --search_name or --storage"
            )
        if _DEFINITION not in there:
            _safely(lambda: self.optuna_study.set_user_attr(_DEFINITION, dict(definition)))
        _refuse_other(name, self.optuna_study.user_attrs[_DEFINITION], definition)

    # --- what there is ---

    def trials(self) -> list[FrozenTrial]:
        """Trials that count: without those that were queued again or were one too many, which failed for no error."""
        everything = _safely(lambda: self.optuna_study.get_trials(deepcopy=False))
        return [t for t in everything if t.state != TrialState.FAIL or "error" in t.user_attrs]

    def seconds(self) -> float:
        """Time that all trials took, on all workers, those parts included that were interrupted."""
        return sum(t.user_attrs.get("seconds", 0.0) for t in self.trials())

    def complete(self) -> list[FrozenTrial]:
        """Trials with values, the best first: by the first objective, ties by the next ones, then the earlier trial."""
        signs = [-1 if o.direction == "maximize" else 1 for o in self.plan.objectives]
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        return sorted(done, key=lambda t: [*(s * v for s, v in zip(signs, t.values, strict=True)), t.number])

    def front(self) -> set[int]:
        """Numbers of the complete trials that no other one beats in every objective."""
        return {trial.number for trial in self.optuna_study.best_trials}

    # --- one trial ---

    def ask(self, n_trials: int) -> FrozenTrial | None:
        """Begin a trial; one that is queued goes first.

        Args:
            n_trials: of the whole search.

        Returns:
            The trial with its parameters, or None if other workers have meanwhile begun as many as there shall be.
        """
        trial = _safely(lambda: self.optuna_study.ask(self.distributions))
        if sum(t.number < trial.number for t in self.trials()) >= n_trials:
            self.note(trial, **{SURPLUS: True})
            self.tell(trial, TrialState.FAIL)
            return None
        self.note(trial, worker=f"{socket.gethostname()}:{os.getpid()}", beat=0)
        return _safely(lambda: self.storage.get_trial(trial._trial_id))

    @contextmanager
    def beating(self, trial: FrozenTrial) -> Iterator[None]:
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

    def note(self, trial: optuna.Trial | FrozenTrial, **facts: Any) -> None:
        """Store facts with a running trial."""
        for name, value in facts.items():
            _safely(lambda name=name, value=value: self.storage.set_trial_user_attr(trial._trial_id, name, value))

    def tell(self, trial: optuna.Trial | FrozenTrial, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial.

        Returns:
            Whether it had not been ended before by a worker that took this one for dead.
        """
        try:
            _safely(lambda: self.storage.set_trial_state_values(trial._trial_id, state, values))
        except UpdateFinishedTrialError:
            return False
        return True

    def requeue(self, trial: FrozenTrial, died: bool) -> bool:
        """End a running trial and queue it again, with the same parameters and what is known of it.

        Args:
            trial: the trial.
            died: whether its worker died; after `MAX_DEATHS` the trial has failed.

        Returns:
            Whether it is queued.
        """
        deaths = trial.user_attrs.get("deaths", 0) + died
        again = deaths < MAX_DEATHS
        try:
            self.note(trial, deaths=deaths, **({} if again else {"error": f"its worker died {deaths} times"}))
        except UpdateFinishedTrialError:
            return False
        if not self.tell(trial, TrialState.FAIL):
            return False
        if again:
            ended = _safely(lambda: self.storage.get_trial(trial._trial_id))
            _safely(lambda: RetryHeartbeatStaleTrialCallback()(self.optuna_study, copy.deepcopy(ended)))
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
            f"the search {name!r} in this storage was made with {key} {_short(there.get(key))}, not "
            f"{_short(here.get(key))}; expected the same command, or another --search_name or --storage"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else text[:157] + "..."
