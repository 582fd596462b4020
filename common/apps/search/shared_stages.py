"""The stages that the trials of a search share: run once in `OUTPUT_DIR/shared`, the start of each trial's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.apps.search.setup import waiting_lock
from common.apps.search.trial import TrialProcess
from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, link_or_copy

FOLDER = "shared"
_OWN = ("data", "cache", "logs", "checkpoints", "resume", "tensorboard", "comparison")  # of the run itself
_POLL_SECONDS = 1.0


def run_shared(out: Path, spec: Mapping[str, Any]) -> None:
    """Run the shared stages in a process of their own; what has finished is skipped, as `run` does.

    One worker does it, others on the same folder wait; one that is killed leaves it to the next, which goes on.

    Args:
        out: folder of the search.
        spec: arguments of `common.apps.run.recipe.run_recipe`, see `TrialProcess`.

    Raises:
        BadInput: if a stage fails.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    with waiting_lock(out):
        with waiting_lock(folder):  # the process of a worker that was killed a moment ago ends
            pass
        print(f"running the stages that all trials share: {', '.join(spec['stages'])}", flush=True)
        process = TrialProcess(folder, dict(spec) | {"output_dir": str(folder.resolve())})
        try:
            while process.wait(_POLL_SECONDS) is None:
                pass
        except KeyboardInterrupt:
            process.stop()
            raise
        finally:
            process.stop(grace=0)
        if process.process.returncode != 0:
            raise BadInput(folder, f"has a stage that all trials need and that failed: {process.reason()}")


def begin_trial(out: Path, folder: Path) -> None:
    """Give a new trial what the shared stages left: links to their files, which take no room and no time.

    Files of a run are replaced, never written into, so a trial changes its own alone.

    Args:
        out: folder of the search.
        folder: of the trial; nothing is done if it is there.
    """
    if folder.exists() or not (out / FOLDER).is_dir():
        return

    def own(inside: str, names: list[str]) -> list[str]:
        top = Path(inside) == out / FOLDER  # its files, such as the page and the lock
        return [name for name in names if name in _OWN or (top and Path(inside, name).is_file())]

    with atomic_path(folder) as part:
        shutil.copytree(out / FOLDER, part, copy_function=link_or_copy, ignore=own)
