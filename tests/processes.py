"""Processes that a test starts: copies of one that has imported torch and MONAI, which takes a new one seconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of the test itself would share the state of its torch
CONTEXT.set_forkserver_preload(["torch.distributed", "monai.engines", "monai.handlers", "pytest"])


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
