"""A table of the epochs of a training in stages: losses and scores, and how far they have come."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from common.handlers.engine_state import iteration_losses, scalar
from common.io.output_folder import csv_text, write_text
from common.visualize.charts import epoch_curves
from common.visualize.figures import save_picture

__all__ = ["EpochTable"]


class EpochTable:
    """Write OUTPUT_DIR/NAME: a row per epoch with the mean training loss and metrics of the validation.

    The loss is that of the first process; an epoch without a validation has blanks. Each metric stands beside its
    change against the first epoch of the table, and since the stage began, in percent.
    Rows of this stage and of later ones are replaced, those of earlier ones stay. When the stage ends, the curves go to
    OUTPUT_DIR/pictures. Attach it after the validation.

    Args:
        output_dir: of the run.
        stage: of this training.
        first_epoch: epochs before it.
        validator: evaluator whose metrics are shown.
        columns: heading -> metric.
        loss: of the training's output, see `common.handlers.engine_state.iteration_losses`.
        name: of the file.
    """

    def __init__(
        self,
        output_dir: str,
        stage: str,
        first_epoch: int,
        validator: Engine,
        columns: Mapping[str, str],
        loss: str = "loss",
        name: str = "epochs.csv",
    ) -> None:
        self.path, self.stage, self.first_epoch = Path(output_dir) / name, stage, first_epoch
        self.validator, self.columns, self.loss = validator, dict(columns), loss
        self._sum, self._count, self._validated = 0.0, 0, False

    def attach(self, engine: Engine) -> None:
        """Follow a trainer."""
        self.validator.add_event_handler(Events.COMPLETED, self._validation_completed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def state_dict(self) -> dict[str, Any]:
        """Losses of the epoch so far, for a resume within it."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._sum, self._count = state["sum"], state["count"]

    def _validation_completed(self, engine: Engine) -> None:
        self._validated = True

    def _iteration_completed(self, engine: Engine) -> None:
        value = iteration_losses(engine).get(self.loss)
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1

    def _epoch_completed(self, engine: Engine) -> None:
        total, count, validated = self._sum, self._count, self._validated
        self._sum, self._count, self._validated = 0.0, 0, False
        if idist.get_rank() != 0:
            return
        epoch = self.first_epoch + engine.state.epoch
        rows = [row for row in self._rows() if int(row["epoch"]) < epoch]
        row = {"stage": self.stage, "epoch": str(epoch), "train loss": f"{total / max(1, count):.4f}"}
        first = rows[0] if rows else row
        begun = next((r for r in rows if r["stage"] == self.stage), row)
        for heading, metric in self.columns.items():
            value = scalar(self.validator.state.metrics.get(metric)) if validated else None
            row[heading] = "" if value is None else f"{value:.4f}"
            row[f"{heading} against epoch {first['epoch']} (%)"] = _change(row[heading], first.get(heading, ""))
            row[f"{heading} in this stage (%)"] = _change(row[heading], begun.get(heading, ""))
        write_text(self.path, csv_text(list(row), [*rows, row]))
        if engine.state.epoch == engine.state.max_epochs:
            picture = self.path.parent / "pictures" / f"{self.path.stem}.png"
            caption = "The epochs of all stages on the whole validation split; dotted: a stage begins."
            save_picture(epoch_curves([*rows, row], ["train loss", *self.columns]), picture, caption)

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def _change(value: str, before: str) -> str:
    """Percent more than before; blank where one is missing or nothing."""
    if not value or not before or float(before) == 0:
        return ""
    return f"{100 * (float(value) / float(before) - 1):+.1f}"
