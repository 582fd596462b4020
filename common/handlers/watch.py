"""What every training is watched by, as one entry of a trainer's list."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from matplotlib.figure import Figure
from torch import nn

from common.handlers.diagnosis import DiagnosisHandler
from common.handlers.group import HandlerGroup
from common.handlers.history import HistoryHandler
from common.handlers.out_of_memory import OOMAdviceHandler
from common.handlers.progress import ProgressHandler, TimeLimitHandler
from common.handlers.startup_report import StartupReportHandler
from common.handlers.training_clock import TrainingClock

__all__ = ["watch_training"]


def watch_training(
    output_dir: str | os.PathLike[str],
    stage: str,
    parts: Mapping[str, nn.Module],
    splits: Mapping[str, int] | str | os.PathLike[str],
    validator: Engine,
    clock: TrainingClock,
    oom_advice: Sequence[str],
    advice: Mapping[str, str] | None = None,
    chunks: Sequence[Mapping[str, Any]] = (),
    interval: int = 5,
    pictures: Callable[[], Mapping[str, tuple[Figure, str]]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> HandlerGroup:
    """The start-up report, advice when memory runs out, history with pictures, progress, time limit and diagnosis.

    In a list of handlers it comes after those that train, validate and write the model, whose results it records, and
    before `ResumeHandler`, which saves what all others have done.

    Args:
        output_dir: folder of the run.
        stage: name of the stage, of its folder and in the sentences.
        parts: networks by the name that is shown, see `StartupReportHandler`.
        splits: patients per split, or the manifest.csv to count them in.
        validator: evaluator whose metrics are recorded and shown.
        clock: of the training, with its limit.
        oom_advice: overrides that help when memory runs out, the mildest first.
        advice: overrides that `DiagnosisHandler` names, by the kind of problem; default its own.
        chunks: chunked passes, see `StartupReportHandler`.
        interval: iterations per entry of the history.
        pictures: of the last validation, see `HistoryHandler`.
        settings: of the training, shown in TensorBoard.

    Returns:
        The handlers, to be attached to the trainer.

    Raises:
        ValueError: if there is no advice on memory, or the interval is below 1.
    """
    return HandlerGroup(
        [
            StartupReportHandler(parts, splits, chunks, output_dir, stage),
            OOMAdviceHandler(oom_advice, stage),  # before the history, which keeps what it says
            HistoryHandler(output_dir, stage, validator, interval, pictures, settings),
            ProgressHandler(stage, validator),
            TimeLimitHandler(clock, stage),
            DiagnosisHandler(stage, validator, advice=advice),
        ]
    )
