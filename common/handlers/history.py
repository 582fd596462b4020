"""Keep what a stage measured: `history.json` for the page of the run, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import psutil
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.engines.utils import IterationEvents
from torch.utils.tensorboard import SummaryWriter

from common.handlers.engine_state import (
    add_note,
    batch_size,
    best_metric,
    iteration_losses,
    notes,
    on_exception,
    scalar,
    warn,
)
from common.io.output_folder import named_if_disk_fails, write_text
from common.visualize.figures import figure_image, save_picture
from common.visualize.tables import json_text

HISTORY, CONFIGURATION = "history.json", "config.json"
_LAST = 50  # iterations in the mean that is the training loss of a run
_GIB = 2**30


class HistoryHandler:
    """Collect losses, learning rates, gradient norm, speed and memory of a trainer, and the metrics of its evaluator.

    Writes `OUTPUT_DIR/STAGE/history.json`, atomically, after epochs, validations, an exception and the run:
    `{"stage", "seconds", "iterations": [{"iteration", "epoch", "loss", "lr", ...}], "validations": [{"iteration",
    "epoch", ...}], "metrics": {final values}, "notes": [sentences]}`. A value that is not finite is null there, and a
    sentence in `notes` names the first. Columns of `iterations` beyond those: other losses of the trainer's output by
    their keys, `lr/NAME` per group if the optimizer has several, `grad_norm` (from `GradientClipHandler`),
    `samples_per_second` (data loading included, validation not) and `memory_gib` (peak of the CUDA device, else the
    resident memory of the process). The scalars and pictures also go to `OUTPUT_DIR/STAGE/tensorboard`, pictures to
    `OUTPUT_DIR/STAGE/pictures`. When the training completes, the `pictures` are drawn, and TensorBoard gets the text
    "configuration": a table of the settings and the `config.json` that the run left beside the history. A resumed run
    goes on with the file and drops what came after its checkpoint.

    Only rank 0 writes.

    Args:
        output_dir: folder of the run.
        stage: name of the stage and of its folder.
        validator: evaluator whose `state.metrics` are recorded whenever it has run.
        interval: iterations per entry, which holds their mean.
        pictures: gives the figures of the last validation, tag -> (figure, caption); attach after what validates last.
        settings: name -> value.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        stage: str,
        validator: Engine | None = None,
        interval: int = 1,
        pictures: Callable[[], Mapping[str, tuple[Figure, str]]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval is {interval}, expected at least 1 iteration.")
        self.folder, self.stage = Path(output_dir) / stage, stage
        self.validator, self.interval = validator, interval
        self.pictures, self.settings = pictures, dict(settings or {})
        self.iterations: list[dict] = []
        self.validations: list[dict] = []
        self._writer: SummaryWriter | None = None
        self._engine: Engine | None = None
        self._pending: list[dict[str, float]] = []
        self._restored = False
        self._seconds_before = 0.0
        self._begin = self._batch_begin = self._written = time.perf_counter()
        self._batch_end: float | None = None
        self._write_cost = 0.0

    @property
    def file(self) -> Path:
        """Path of history.json."""
        return self.folder / HISTORY

    def attach(self, engine: Engine) -> None:
        """Register the events on a trainer, and on the evaluator if there is one."""
        self._engine = engine
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._get_batch_started)
        engine.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._model_completed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        on_exception(engine, self._exception)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._validated)

    # --- what others may call -------------------------------------------------------------------------------------

    def add_image(self, tag: str, picture: Figure | np.ndarray, caption: str) -> Path:
        """Save a picture as `pictures/TAG.png` (other characters than letters, digits, `-_.` become `_`).

        Args:
            tag: name, also in TensorBoard.
            picture: a figure, or uint8 (H, W, 3) pixels.
            caption: sentence for the page of the run; stored in the file itself.

        Returns:
            Path of the file.
        """
        path = self.folder / "pictures" / (re.sub(r"[^\w.-]+", "_", tag) + ".png")
        if idist.get_rank() > 0:
            return path
        pixels = figure_image(picture) if isinstance(picture, Figure) else picture
        save_picture(pixels, path, caption)
        with self._board() as writer:
            writer.add_image(tag, pixels, self._iteration, dataformats="HWC")
        return path

    def history(self) -> dict:
        """What history.json holds now; metrics and notes included."""
        engine = self._engine
        metrics: dict[str, object] = {}
        if self.iterations:
            last = [entry["loss"] for entry in self.iterations[-math.ceil(_LAST / self.interval) :] if "loss" in entry]
            metrics["iterations"] = self.iterations[-1]["iteration"]
            if last:
                metrics["train_loss"] = sum(last) / len(last)
        if self.validations:
            final = {key: value for key, value in self.validations[-1].items() if key not in ("iteration", "epoch")}
            metrics |= {key if key.startswith("val_") else f"val_{key}": value for key, value in final.items()}
        best = None if engine is None else best_metric(self.validator or engine)
        if best is not None:
            metrics |= {f"best_{best[0]}": best[1], "best_epoch": best[2]}
        return {
            "stage": self.stage,
            "seconds": self._seconds_before + time.perf_counter() - self._begin,
            "iterations": self.iterations,
            "validations": self.validations,
            "metrics": metrics,
            "notes": [] if engine is None else list(notes(engine)),
        }

    def write(self) -> None:
        """Write history.json now."""
        begin = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json_text(self.history()))
        self._written = time.perf_counter()
        self._write_cost = self._written - begin

    @contextmanager
    def _board(self) -> Iterator[SummaryWriter]:
        """The TensorBoard writer, made when it is first needed; its folder is named if the disk fails."""
        with named_if_disk_fails(self.folder / "tensorboard"):
            if self._writer is None:
                # Hides what an interrupted run wrote after the checkpoint from which this one goes on.
                self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._iteration)
            yield self._writer

    # --- events ---------------------------------------------------------------------------------------------------

    def _started(self, engine: Engine) -> None:
        self._restored = False
        self._seconds_before = 0.0
        self._begin = time.perf_counter()

    def _get_batch_started(self, engine: Engine) -> None:
        self._batch_begin, self._batch_end = time.perf_counter(), None

    def _model_completed(self, engine: Engine) -> None:
        # A validation may come before this handler when the iteration is completed.
        self._batch_end = time.perf_counter()

    def _iteration_started(self, engine: Engine) -> None:
        self._restore(engine.state.iteration)
        optimizer = getattr(engine, "optimizer", None)
        groups = [] if optimizer is None else optimizer.param_groups
        # Taken here because a scheduler may step before this iteration is recorded.
        self._rates = {"lr": float(groups[0]["lr"])} if groups else {}
        if len(groups) > 1:
            self._rates |= {f"lr/{group.get('name', i)}": float(group["lr"]) for i, group in enumerate(groups)}

    def _restore(self, first: int) -> None:
        """Take over, once, what an earlier run of this stage recorded before iteration `first`.

        Not at the start of the run, because a checkpoint loader may still move the iteration there.
        """
        if self._restored:
            return
        self._restored = True
        self.iterations, self.validations, self._pending = [], [], []
        if first == 1 or not self.file.is_file():
            return
        earlier = json.loads(self.file.read_text(encoding="utf-8"))
        self.iterations = [entry for entry in earlier["iterations"] if entry["iteration"] < first]
        self.validations = [entry for entry in earlier["validations"] if entry["iteration"] < first]
        self._seconds_before = earlier["seconds"]
        for sentence in earlier["notes"]:
            add_note(self._engine, sentence)

    def _iteration_completed(self, engine: Engine) -> None:
        seconds = (self._batch_end or time.perf_counter()) - self._batch_begin
        values = iteration_losses(engine) | self._rates
        norm, size = getattr(engine.state, "grad_norm", None), batch_size(engine)
        if norm is not None:
            values["grad_norm"] = norm
        if size is not None and seconds > 0:
            values["samples_per_second"] = size / seconds
        values["memory_gib"] = _memory_gib(engine.state.device)
        self._check_finite(engine, values)
        self._pending.append(values)
        if len(self._pending) >= self.interval:
            self._record(engine)

    def _record(self, engine: Engine) -> None:
        """Make one entry of the iterations since the last one."""
        if not self._pending:
            return
        keys = dict.fromkeys(key for values in self._pending for key in values)
        columns = {key: [values[key] for values in self._pending if key in values] for key in keys}
        means = {key: sum(column) / len(column) for key, column in columns.items()}
        self._pending = []
        self.iterations.append({"iteration": engine.state.iteration, "epoch": engine.state.epoch} | means)
        self._scalars("train", means, engine.state.iteration)

    def _validated(self, validator: Engine) -> None:
        engine = self._engine
        self._restore(engine.state.iteration + 1)  # a validation of a run that has nothing left to train
        values: dict[str, object] = {}
        for name, value in validator.state.metrics.items():
            number = scalar(value)
            if number is not None:
                values[name] = number
            elif isinstance(value, torch.Tensor | np.ndarray | Sequence) and not isinstance(value, str):
                values[name] = np.asarray(value).tolist()  # one number per class, say
            elif not isinstance(value, Mapping):  # of a dict, ignite has put every entry beside it
                add_note(engine, f"Metric {name} is a {type(value).__name__}, which the history does not keep.")
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        self._check_finite(engine, {f"validation {name}": value for name, value in numbers.items()})
        # Validations at the same iteration, at the end of an epoch and of the run, are one.
        if self.validations and self.validations[-1]["iteration"] == engine.state.iteration:
            self.validations.pop()
        self.validations.append({"iteration": engine.state.iteration, "epoch": engine.state.epoch} | values)
        self._scalars("val", numbers, engine.state.iteration)
        self._write_if_cheap()

    def _check_finite(self, engine: Engine, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad and not any("is not finite" in sentence for sentence in notes(engine)):
            at = f"at iteration {engine.state.iteration}"
            warn(engine, f"{self.stage}: {bad[0]} is not finite ({values[bad[0]]}) {at}.")

    def _epoch_completed(self, engine: Engine) -> None:
        self._record(engine)
        self._write_if_cheap()

    def _write_if_cheap(self) -> None:
        """Spend at most about 2 % of the time on rewriting the file, however short the epochs are."""
        if time.perf_counter() - self._written >= 50 * self._write_cost:
            self.write()

    def _completed(self, engine: Engine) -> None:
        for tag, (figure, caption) in (self.pictures() if self.pictures is not None else {}).items():
            self.add_image(tag, figure, caption)
        if text := self._configuration():
            with self._board() as writer:
                writer.add_text("configuration", text, self._iteration)
        self._record(engine)
        if self._restored:  # else the run had nothing left to do, and the earlier file stays
            self.write()
        if self._writer is not None:
            with self._board() as writer:
                writer.close()  # opens a further file if a validation follows

    def _exception(self, engine: Engine, error: BaseException) -> None:
        self._record(engine)
        add_note(engine, f"{self.stage} ended at iteration {engine.state.iteration} by {type(error).__name__}.")
        if self._restored:
            self.write()
        if self._writer is not None:
            with self._board() as writer:
                writer.close()

    def _scalars(self, group: str, values: dict[str, float], iteration: int) -> None:
        with self._board() as writer:
            for name, value in values.items():
                writer.add_scalar(f"{group}/{name}", value, iteration)

    def _configuration(self) -> str:
        """The settings as a table, and the configuration of the run, in Markdown."""
        values = {name: json.dumps(value, default=str) for name, value in self.settings.items()}
        rows = [f"| {name} | {value} |".replace("\n", " ") for name, value in values.items()]
        text = "\n".join(["| setting | value |", "|---|---|", *rows]) if rows else ""
        file = self.folder / CONFIGURATION
        return f"{text}\n\n```json\n{file.read_text(encoding='utf-8').strip()}\n```" if file.is_file() else text

    @property
    def _iteration(self) -> int:
        """Of the trainer; 0 before the handler is attached."""
        return 0 if self._engine is None else self._engine.state.iteration


def _memory_gib(device: torch.device | None) -> float:
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    return psutil.Process().memory_info().rss / _GIB
