"""From stage to stage of one training: all that it is goes on where the stage before ended."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from common.engines.training_state import read_state_file, write_state_file
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path

__all__ = ["HandOff"]


class HandOff:
    """Begin with the states that the stage before left, and leave those of this one.

    Attach it after everything else, `common.engines.resume.ResumeHandler` too, which goes on within a stage: one that
    was interrupted takes nothing from the stage before. What it leaves is the end of the last epoch, before handlers
    such as `BestCheckpoints` put other weights into the network.

    Args:
        ckpt_dir: folder of what stages hand on; a stage has `hand_off/STAGE.pt` in it.
        output_dir: folder of the run; a stage has `STAGE/checkpoints` in it.
        stage: this one.
        before: the stage before; None for the first.
        objects: name -> anything with `state_dict` and `load_state_dict`; None is left out.
        best: files of the best weights so far, which are taken over with their values.
    """

    def __init__(
        self,
        ckpt_dir: str,
        output_dir: str,
        stage: str,
        before: str | None,
        objects: Mapping[str, Any],
        best: tuple[str, ...] | list[str] = (),
    ) -> None:
        self.file, self.folder = Path(ckpt_dir) / "hand_off" / f"{stage}.pt", Path(output_dir) / stage
        self.before = None if before is None else Path(output_dir) / before
        self._written = False
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.best = list(best)

    def attach(self, engine: Engine) -> None:
        """Follow a trainer."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self._written = False
        if self.before is None or engine.state.iteration > 0:
            return
        path = self.file.with_stem(self.before.name)
        if not path.is_file():
            raise BadInput(path, f"does not exist, expected what the stage {self.before.name} leaves; run it first")
        states = read_state_file(path)["objects"]
        if states.keys() != self.objects.keys():
            raise BadInput(path, f"holds the parts {sorted(states)}, expected {sorted(self.objects)}")
        for name, item in self.objects.items():
            try:
                item.load_state_dict(states[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise BadInput(path, f"does not fit the {name} ({str(error).splitlines()[0]})") from error
        if idist.get_rank() == 0:
            for name in self.best:
                source, target = (folder / "checkpoints" / name for folder in (self.before, self.folder))
                if not source.is_file():
                    raise BadInput(source, f"does not exist, expected what the stage {self.before.name} kept")
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as part:
                    shutil.copyfile(source, part)

    def _epoch_completed(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs:
            self._write()

    def _completed(self, engine: Engine) -> None:
        if not self._written:  # a limit ended the stage within an epoch
            self._write()

    def _write(self) -> None:
        self._written = True
        if idist.get_rank() == 0:
            states = {name: item.state_dict() for name, item in self.objects.items()}
            write_state_file(self.file, {"objects": states})
