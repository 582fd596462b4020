"""Exact resume: the same command goes on where a training was killed, and ends with the same weights bit for bit."""

from __future__ import annotations

import logging
import math
import re
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import ignite.distributed as idist
from ignite.engine import Engine, Events

from common.engines.training_state import (
    DamagedCheckpoint,
    load_random_state,
    random_state,
    read_state_file,
    write_state_file,
)
from common.handlers.engine_state import is_step_iteration, on_exception, scalar, total_iterations, warn
from common.io.bad_input import BadInput
from common.io.remote_folder import publish

__all__ = ["ENDED", "ResumableSampler", "ResumeHandler", "differences"]

logger = logging.getLogger("train")

_NAME = re.compile(r"iteration_(\d+)(?:_(?P<metric>.+)_(?P<value>-?[\d.]+(?:e[+-]\d+)?))?\.pt")
ENDED = 128 + signal.SIGTERM
"""Exit code of a training that was asked to end, as of a process that SIGTERM ended: its results are not there yet."""

_BEST = ("best_metric", "best_metric_epoch")


@runtime_checkable
class ResumableSampler(Protocol):
    """A sampler (or batch sampler) that can begin in the middle of an epoch, such as `EpochSampler`.

    Its state must say what comes after the batches that the trainer has had so far: with workers a data loader asks for
    more than that. The state of every process is kept; of plain types and tensors.
    """

    def state_dict(self) -> dict[str, Any]:
        """What brings back the order of this epoch from this moment on, and of those after it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; called before the data loader begins."""


class ResumeHandler:
    """Save all that a training is, and take it up again at the start.

    A checkpoint `iteration_N[_METRIC_VALUE].pt` holds the states of `objects`, trainer and validator, scaler, the
    random generators of every process and the place in the data, and is written to a temporary file, synced and
    renamed. It is written only where the optimizer has just stepped, so that no accumulated gradient is lost; at the
    end of an epoch after everything else of that epoch, and not at the very end, where `model.pt` is written instead.

    SIGTERM (a machine that is taken away) saves at the next step and exits with code 143, as nothing is finished yet.
    Where the newest checkpoint is damaged, a sentence says so and the next intact one is taken.

    The data loader needs a `ResumableSampler`. A stage may give its epochs different lengths: it sets
    `engine.state.epoch_length` when an epoch starts, before this handler.

    Attach it last: what other handlers do in an iteration or epoch must be done when it saves.

    Args:
        save_dir: folder of the checkpoints, created.
        objects: name -> anything with `state_dict` and `load_state_dict`: network (or `ChosenWeights` of it, where the
            rest is frozen), EMA, optimizer, scheduler, ...; None is left out.
        settings: name -> what the result depends on; a checkpoint with other settings is refused.
        validator: evaluator whose best metric is part of the state, and by whose key metric the best are kept.
        interval: iterations between two checkpoints.
        n_saved: newest checkpoints that are kept.
        n_best: checkpoints of the best validations that are kept besides.
        resume: False begins anew and, at the first checkpoint, removes earlier ones.
        name: of the stage, in sentences.

    Raises:
        ValueError: if a number is out of range or an object has no state.
    """

    def __init__(
        self,
        save_dir: str,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any],
        validator: Engine | None = None,
        interval: int = 2000,
        n_saved: int = 3,
        n_best: int = 1,
        resume: bool = True,
        name: str = "training",
    ) -> None:
        if interval < 1 or n_saved < 1 or n_best < 0:
            raise ValueError(f"interval is {interval}, n_saved {n_saved}, n_best {n_best}, expected 1, 1 and 0 or more")
        for key, item in objects.items():
            if item is not None and not hasattr(item, "load_state_dict"):
                raise ValueError(f"object {key} is a {type(item).__name__}, expected one with a state_dict to save")
        self.folder = Path(save_dir)
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.settings = {**settings, "world_size": idist.get_world_size()}
        self.validator, self.interval, self.n_saved, self.n_best = validator, interval, n_saved, n_best
        self.resume, self.name = resume, name
        self._random: dict[str, Any] | None = None
        self._saved = 0
        self._damaged: list[Path] = []
        self._metric: tuple[str, float] | None = None
        self._stop = False
        self._former_handler: Any = None

    # ---- events ------------------------------------------------------------------------------------------------------

    def attach(self, engine: Engine) -> None:
        """Register the events of a MONAI trainer; needed on every rank."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._get_batch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        on_exception(engine, lambda *_: self._unlisten())
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validated)

    def _started(self, engine: Engine) -> None:
        self._listen()
        self._sampler = _sampler_of(engine)
        self._length = engine.state.epoch_length
        self._done = 0  # iterations of the epoch that comes next, which a resumed training does not repeat
        # A trainer that has trained already (a further round of federated learning) goes on by itself.
        if self.resume and engine.state.iteration == 0 and self.newest() is not None:
            self.load(engine, *self._intact(engine))

    def _epoch_started(self, engine: Engine) -> None:
        length, every = engine.state.epoch_length, getattr(engine, "accumulation_steps", 1)
        if length != self._length and every > 1:  # MONAI steps by the place in an epoch of one length
            raise ValueError(
                f"{self.name} has epochs of {self._length} and {length} iterations and accumulation_steps {every}, "
                "expected 1 where lengths differ"
            )
        self._begun = engine.state.iteration - self._done  # when this epoch began, in iterations
        self._done = 0

    def _get_batch_started(self, engine: Engine) -> None:
        # Only now: making the iterator of the data loader may draw random numbers.
        if self._random is not None:
            load_random_state(self._random)
            self._random = None

    def _validated(self, validator: Engine) -> None:
        value = scalar(validator.state.metrics.get(validator.state.key_metric_name))
        finite = value is not None and math.isfinite(value)  # a NaN is no best, and would spoil the file's name
        self._metric = (validator.state.key_metric_name, value) if finite else None

    def _iteration_completed(self, engine: Engine) -> None:
        if is_step_iteration(engine) and engine.state.iteration - self._begun != engine.state.epoch_length:
            self._save_if_due(engine)

    def _epoch_completed(self, engine: Engine) -> None:
        self._begun = engine.state.iteration
        if engine.state.epoch != engine.state.max_epochs:
            self._save_if_due(engine)

    def _completed(self, engine: Engine) -> None:
        self._unlisten()
        if self._stop:
            raise SystemExit(ENDED)

    def _save_if_due(self, engine: Engine) -> None:
        iteration, stop = engine.state.iteration, self._stop
        if idist.get_world_size() > 1:
            stop = bool(idist.all_reduce(int(stop), "MAX"))
        if stop or iteration // self.interval > self._saved // self.interval or self._is_among_best():
            self.save(engine)
        self._metric = None
        if stop:
            logger.warning(f"{self.name}: asked to end, saved at iteration {iteration}; the same command goes on.")
            raise SystemExit(ENDED)

    # ---- signals -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow it
            self._former_handler = signal.signal(signal.SIGTERM, self._asked_to_end)

    def _unlisten(self) -> None:
        if self._former_handler is not None:
            signal.signal(signal.SIGTERM, self._former_handler)
            self._former_handler = None

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    # ---- files -------------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        found = [path for path in self.folder.glob("iteration_*.pt") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_iteration)

    def newest(self) -> Path | None:
        """The checkpoint of the latest iteration; None if there is none."""
        return next(reversed(self.checkpoints()), None)

    def _intact(self, engine: Engine) -> tuple[Path, Mapping[str, Any]]:
        """The newest checkpoint that is as it was written, and its content; those after it go with the next save.

        Raises:
            BadInput: if none is.
        """
        self._damaged, found = [], None
        for path in reversed(self.checkpoints()):
            try:
                found = path, read_state_file(path)
                break
            except DamagedCheckpoint as error:
                self._damaged.append(path)
                reason = error.reason
        if found is None:
            more = f"none of the {len(self._damaged) - 1} before it is intact, " if self._damaged[1:] else ""
            raise BadInput(self._damaged[0], f"{reason}, {more}expected one to go on with or --resume false")
        for path in self._damaged:
            warn(engine, f"{self.name}: {path} is damaged, the next intact checkpoint is used: {found[0].name}.")
        return found

    def save(self, engine: Engine) -> None:
        """Write a checkpoint of this moment, then remove those that are no longer kept.

        Raises:
            DiskFailure: if it cannot be written.
        """
        mine = {"random": random_state(), "sampler": self._sampler.state_dict()}
        ranks = idist.all_gather(mine) if idist.get_world_size() > 1 else [mine]
        self._saved = engine.state.iteration
        if idist.get_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._damaged if self.resume else self.checkpoints():
                path.unlink(missing_ok=True)
            self._damaged = []
            for pattern in (".part*", ".iteration_*.tmp"):  # by a process that was killed while it wrote, or before 0.2
                for left in self.folder.glob(pattern):
                    left.unlink()
            metric = "" if self._metric is None else f"_{self._metric[0]}_{self._metric[1]:.6g}"
            state = {
                "settings": self.settings,
                "iteration": engine.state.iteration,
                "epoch": engine.state.epoch,
                "of_epoch": engine.state.iteration - self._begun,
                "epoch_length": self._length,
                "trainer": _best_of(engine),
                "validator": {} if self.validator is None else _best_of(self.validator),
                "objects": {name: item.state_dict() for name, item in self._all_objects(engine).items()},
                "random": [rank["random"] for rank in ranks],
                "sampler": [rank["sampler"] for rank in ranks],
            }
            write_state_file(self.folder / f"iteration_{engine.state.iteration:09d}{metric}.pt", state)
            self._remove_old()
            publish(self.folder)
        self.resume = True

    def load(self, engine: Engine, path: Path, state: Mapping[str, Any]) -> None:
        """Bring the trainer, and all that belongs to it, to the moment of a checkpoint.

        Args:
            engine: the trainer.
            path: of the checkpoint, for sentences.
            state: its content.

        Raises:
            BadInput: if it is of a training with other settings or parts, naming what differs.
        """
        differing = differences(state["settings"], self.settings)
        differing |= differences({"epoch_length": state["epoch_length"]}, {"epoch_length": self._length})
        if differing:
            listed = ", ".join(f"{key} {then!r} (now {now!r})" for key, (then, now) in differing.items())
            raise BadInput(
                path,
                f"is of a training with {listed}; expected the same, another output_dir or --resume false",
            )
        objects = self._all_objects(engine)
        if objects.keys() != state["objects"].keys():
            raise BadInput(path, f"holds the parts {sorted(state['objects'])}, expected {sorted(objects)}")
        for name, item in objects.items():
            try:
                item.load_state_dict(state["objects"][name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise BadInput(path, f"does not fit the {name} ({str(error).splitlines()[0]})") from error
        for target, kept in ((engine, state["trainer"]), (self.validator, state["validator"])):
            for key, value in kept.items():
                setattr(target.state, key, value)
        rank, iteration = idist.get_rank(), state["iteration"]
        self._random = state["random"][rank]
        # Files written before epochs could differ have neither a sampler's state nor the place in the epoch.
        self._sampler.load_state_dict(state["sampler"][rank] if "sampler" in state else {})
        self._done = state.get("of_epoch", iteration % state["epoch_length"])
        engine.state.iteration = self._saved = iteration
        engine.state.epoch = state["epoch"] - (self._done > 0)  # ignite counts an epoch when it begins
        engine._init_iter = self._done  # else ignite takes every epoch to be as long as the next
        total = total_iterations(engine)
        if total is not None and iteration >= total:  # of epochs like the first one, so ignite would call it done
            engine.state.epoch_length = None
        if idist.get_rank() == 0:
            logger.info(f"{self.name}: resumed after iteration {state['iteration']} from {path}")

    def _all_objects(self, engine: Engine) -> dict[str, Any]:
        """The objects, DDP unwrapped, and the gradient scaler if the trainer has one."""
        found = {name: getattr(item, "module", item) for name, item in self.objects.items()}
        scaler = getattr(engine, "scaler", None)
        return found if scaler is None else found | {"scaler": scaler}

    def _is_among_best(self) -> bool:
        if self._metric is None or self.n_best == 0:
            return False
        best = sorted((_value(path) for path in self._best()), key=self._rank)
        return len(best) < self.n_best or self._rank(self._metric[1]) < self._rank(best[-1])

    def _best(self) -> list[Path]:
        """The kept checkpoints with the best values, best first; of equal ones the earlier."""
        valued = [path for path in self.checkpoints() if _NAME.fullmatch(path.name)["value"] is not None]
        return sorted(valued, key=lambda path: self._rank(_value(path)))[: self.n_best]

    def _rank(self, value: float) -> float:
        """Smaller is better, by the validator's own comparison."""
        greater_is_better = self.validator is None or self.validator.metric_cmp_fn(1.0, 0.0)
        return -value if greater_is_better else value

    def _remove_old(self) -> None:
        kept = {*self.checkpoints()[-self.n_saved :], *self._best()}
        for path in self.checkpoints():
            if path not in kept:
                path.unlink()


def _sampler_of(engine: Engine) -> ResumableSampler:
    loader = engine.state.dataloader
    samplers = [getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)]
    known = next((sampler for sampler in samplers if isinstance(sampler, ResumableSampler)), None)
    if known is None:
        raise ValueError(
            f"the data loader's sampler is a {type(samplers[1]).__name__}, expected an EpochSampler or another with "
            "state_dict and load_state_dict, with which a resumed training can begin in the middle of an epoch"
        )
    if getattr(loader, "generator", None) is None:
        raise ValueError(
            "the data loader has no generator, expected one of its own: it seeds its workers from it when an epoch "
            "begins, which a resumed training must not draw from the global one"
        )
    return known


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The ids whose values differ between two configurations.

    Args:
        then: nested dicts and lists.
        now: the like.
        prefix: of the ids.

    Returns:
        id, in MONAI's spelling, to both values; None stands for one that is not there.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*then, *now]):
        a, b = then.get(key), now.get(key)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            a, b = ({str(i): value for i, value in enumerate(items)} for items in (a, b))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}#")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found


def _best_of(engine: Engine) -> dict[str, Any]:
    """What MONAI remembers of an engine's best key metric, as plain numbers."""
    values = {key: scalar(getattr(engine.state, key, None)) for key in _BEST}
    return {key: value for key, value in values.items() if value is not None}


def _iteration(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _value(path: Path) -> float:
    return float(_NAME.fullmatch(path.name)["value"])
