"""Show in TensorBoard, and on the page of the run, what numbers do not: figures of the last validation, settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from common.handlers.history import HistoryHandler

__all__ = ["PictureHandler"]

CONFIGURATION = "config.json"


class PictureHandler:
    """Give the history of a training the figures of its last validation, and its settings as text.

    Attach it before the `HistoryHandler`, which closes TensorBoard's file when the training completes, and after what
    validates last. The text "configuration" holds a table of the settings, and the whole configuration where the run
    left it beside the history (`config.json`).

    Args:
        history: of the training.
        pictures: called when the training completes; gives tag -> (figure, caption).
        settings: name -> value.
    """

    def __init__(
        self,
        history: HistoryHandler,
        pictures: Callable[[], Mapping[str, tuple[Figure, str]]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.history, self.pictures, self.settings = history, pictures, dict(settings or {})

    def attach(self, engine: Engine) -> None:
        """Register on a trainer; only rank 0 draws."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self._completed)

    def _completed(self, engine: Engine) -> None:
        for tag, (figure, caption) in (self.pictures() if self.pictures is not None else {}).items():
            self.history.add_image(tag, figure, caption)
        text = _table(self.settings)
        whole = self.history.folder / CONFIGURATION
        if whole.is_file():
            text += f"\n\n```json\n{whole.read_text(encoding='utf-8').strip()}\n```"
        if text:
            self.history.add_text("configuration", text)


def _table(settings: Mapping[str, Any]) -> str:
    """A table in Markdown."""
    if not settings:
        return ""
    rows = [f"| {name} | {json.dumps(value, default=str)} |".replace("\n", " ") for name, value in settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
