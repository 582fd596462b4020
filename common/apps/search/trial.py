"""One trial of a search, as a process of its own: what crashes, leaks or is killed for its memory ends only the trial.

`python -m common.apps.search.trial TRIAL/trial.json` runs the stages that the file names, as `python -m common run`
does. It ends with the worker that started it, however that ended, so that no trial goes on unseen.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.apps.run.bundle import CommandLineText, first_error
from common.apps.search.space import Objective
from common.io.bad_input import BadInput
from common.io.output_folder import write_text

SPEC, LOG = "trial.json", "trial.log"
_PARENT = "THORAX_TUNE_WORKER"
_GRACE_SECONDS = 30.0  # between SIGTERM, after which a training writes a checkpoint, and SIGKILL


@contextmanager
def interruptions_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM that come meanwhile act at the end."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


class TrialProcess:
    """A trial that runs in a `with` block, which leaves nothing of it: an interrupted one ends in good order.

    Args:
        folder: of the trial, created; spec and log go there.
        spec: arguments of `run_recipe`; `overrides` as values, `typed` as a command line has them.
    """

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.folder, self.spec = folder, spec
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TrialProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / SPEC, json.dumps(self.spec, indent=1) + "\n")
        library = str(Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
        try:
            # Interrupted before Popen returns, the process would go on and nobody would know it.
            with (self.folder / LOG).open("ab") as log, interruptions_held():
                self.process = subprocess.Popen(
                    trial_command(self.folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONPATH": paths, _PARENT: str(os.getpid())},
                    start_new_session=True,  # Ctrl-C reaches the worker alone, which then ends the trial and queues it
                )
        except KeyboardInterrupt:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.stop(grace=_GRACE_SECONDS if isinstance(error, KeyboardInterrupt) else 0)

    def wait(self, seconds: float) -> int | None:
        """Wait, at most this long, for the end; its exit code or None."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, grace: float = _GRACE_SECONDS) -> None:
        """End it and what it started, in good order if it does so within `grace` seconds."""
        if self.process is None:
            return
        if self.process.poll() is None and grace > 0:
            self.process.terminate()
            self.wait(grace)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # nothing of it is left
            pass
        self.process.wait()

    def reason(self) -> str:
        """Why it failed, in one sentence."""
        code = self.process.returncode
        if code < 0:
            hint = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
            return f"was ended by {signal.Signals(-code).name}{hint}"
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with exit code {code}"


def trial_command(folder: Path) -> list[str]:
    """The words that run the trial whose spec lies in this folder."""
    return [sys.executable, "-m", "common.apps.search.trial", str(folder / SPEC)]


def trial_values(folder: Path, objectives: Sequence[Objective]) -> list[float]:
    """What a finished trial reached, from its summary.json.

    Raises:
        BadInput: if a stage lacks the metric, or it is not a finite number.
    """
    path = folder / "summary.json"
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    values = []
    for objective in objectives:
        found = [
            s["metrics"] for s in stages if objective.stage in (None, s["name"]) and objective.metric in s["metrics"]
        ]
        if not found:
            there = ", ".join(dict.fromkeys(name for stage in stages for name in stage["metrics"]))
            where = "no stage" if objective.stage is None else f"no stage {objective.stage}"
            raise BadInput(path, f"has {where} with the metric {objective.metric!r}, expected one of {there or 'none'}")
        value = found[-1][objective.metric]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(path, f"has the {objective.metric} {value!r}, expected a finite number")
        values.append(float(value))
    return values


def reported_values(folder: Path, stage: str, metric: str) -> list[float | None]:
    """The values of a metric that a running stage's validations have given so far; None where it was not finite.

    Raises:
        BadInput: if there was a validation, but not with this metric.
    """
    path = folder / stage / "history.json"
    if not path.is_file():
        return []
    validations = json.loads(path.read_text(encoding="utf-8"))["validations"]
    for row in validations:
        if metric not in row:
            raise BadInput(path, f"has no {metric!r} in its validations, expected one of {', '.join(row)}")
    return [row[metric] for row in validations]


def _end_with_parent(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgid(0), signal.SIGKILL)  # its data loaders too

    if os.getpgid(0) == os.getpid():
        threading.Thread(target=watch, daemon=True).start()


def _show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Write the traceback, and what went wrong as the last line."""
    traceback.print_exception(kind, error, trace)
    cause = first_error(error)
    print(f"{type(cause).__name__}: {' '.join(str(cause).split())}", file=sys.stderr, flush=True)


def main(spec_file: str) -> None:
    """Run a trial."""
    sys.excepthook = _show
    if _PARENT in os.environ:
        _end_with_parent(int(os.environ[_PARENT]))
    from common.apps.run.recipe import run_recipe

    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    typed = {key: CommandLineText(text) for key, text in spec.pop("typed").items()}
    run_recipe(**spec | {"overrides": spec["overrides"] | typed})


if __name__ == "__main__":
    main(sys.argv[1])
