"""Processes that a test starts: copies of one that has imported torch and MONAI, which takes a new one seconds."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of the test itself would share the state of its torch
CONTEXT.set_forkserver_preload(["torch.distributed", "monai.bundle", "monai.engines", "monai.handlers", "pytest"])


def start(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Run an importable function in a process of its own; what it is given travels by pickle."""
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def run_together(work: Callable[..., Any], n: int, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in `n` processes, and wait until each has ended well."""
    processes = [start(work, rank, *arguments) for rank in range(n)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * n


def run_python(words: Sequence[str], env: Mapping[str, str], cwd: str | Path, log: Path) -> str:
    """What `python -m MODULE ...` or `python -c CODE ...` prints, standard error too; it must exit with 0.

    The process has imported torch and MONAI and nothing of this project. `PYTHONPATH` comes before all else.
    """
    process = start(_as_python, list(words), dict(env), str(cwd), log)
    process.join()
    said = log.read_text()
    assert process.exitcode == 0, said[-4000:]
    return said


def _as_python(words: list[str], env: dict[str, str], cwd: str, log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    assert not [name for name in sys.modules if name.split(".")[0] == "common"]
    os.chdir(cwd)
    os.environ.update(env)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    option, what, *rest = words
    sys.argv = [option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
