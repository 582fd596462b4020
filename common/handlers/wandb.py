"""Show a training in Weights & Biases, by handing it what TensorBoard gets."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import optional_import

from common.handlers.engine_state import on_exception

__all__ = ["WandbHandler"]


class WandbHandler:
    """A run of `wandb` around a training; scalars, pictures and texts come from the TensorBoard files.

    Nothing is sent: `wandb sync` uploads the files. Attach it before the handlers that write those of TensorBoard.
    `wandb` must be installed.

    Args:
        output_dir: folder for wandb's own files.
        stage: name of the run.
    """

    def __init__(self, output_dir: str, stage: str) -> None:
        self.output_dir, self.stage = output_dir, stage

    def attach(self, engine: Engine) -> None:
        """Open with the trainer and close with it; on the first process only."""
        if idist.get_rank() == 0:
            self.wandb, _ = optional_import("wandb")
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.COMPLETED, lambda _: self.wandb.finish())
            on_exception(engine, lambda *_: self.wandb.finish(exit_code=1))

    def _start(self, engine: Engine) -> None:
        self.wandb.init(
            project="thorax-bundles", name=self.stage, dir=self.output_dir, mode="offline", sync_tensorboard=True
        )
