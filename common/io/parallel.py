"""Many independent cases in several processes: on this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

__all__ = ["ENGINES", "Failure", "map_cases"]

ENGINES = ("local", "ray")
_ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """Stands for the result of a case whose process died every time.

    Attributes:
        reason: a sentence for the list of excluded cases.
    """

    reason: str


def map_cases(
    function: Callable[[Any], Any],
    cases: Sequence[Any],
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    on_done: Callable[[], Any] = lambda: None,
    start_method: str | None = None,
) -> list[Any]:
    """Apply a function to every case.

    A process that dies (killed, out of memory) loses nothing: what it had finished stays, and what it was at is tried
    again, three times in all. So the function must give the same when it is called again, and leave nothing half done.

    Args:
        function: takes a case; importable in a new process, with arguments bound by `functools.partial`.
        cases: that can be pickled.
        workers: processes; one on this machine means this process itself.
        engine: "local", or "ray" (extra `cluster`), whose machines must see the same files.
        address: of a Ray cluster; None starts one on this machine.
        on_done: called after each case.
        start_method: of local processes, see `multiprocessing`; "spawn" where the function uses torch.

    Returns:
        Results in the order of the cases; a `Failure` for a case whose process died every time.

    Raises:
        ValueError: for an unknown engine or less than one worker.
        ModuleNotFoundError: without Ray.
        Exception: whatever the function raises.
    """
    if engine not in ENGINES or workers < 1:
        raise ValueError(
            f"engine is {engine!r} with {workers} workers, expected one of {', '.join(ENGINES)} and 1 or more"
        )
    if not cases:
        return []
    if engine == "ray":
        found = _with_ray(function, cases, workers, address)
    elif workers == 1:
        found = ((index, function(case)) for index, case in enumerate(cases))
    else:
        found = _with_processes(function, cases, workers, start_method)
    results: list[Any] = [None] * len(cases)
    for index, result in found:
        results[index] = result
        on_done()
    return results


def _with_processes(
    function: Callable[[Any], Any], cases: Sequence[Any], workers: int, start_method: str | None
) -> Iterator[tuple[int, Any]]:
    waiting = list(range(len(cases)))
    for attempt in range(_ATTEMPTS):
        finished: set[int] = set()
        # A pool does not say which case broke it, so in the last attempt each that is left has one to itself.
        groups = [[index] for index in waiting] if attempt == _ATTEMPTS - 1 else [waiting]
        for group in groups:
            for index, result in _with_pool(function, cases, group, workers, start_method):
                finished.add(index)
                yield index, result
        waiting = [index for index in waiting if index not in finished]
        if not waiting:
            return
    for index in waiting:
        reason = f"its worker process died {_ATTEMPTS} times, mostly for lack of memory; fewer workers may help"
        yield index, Failure(reason)


def _with_pool(
    function: Callable[[Any], Any], cases: Sequence[Any], group: Sequence[int], workers: int, start_method: str | None
) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) of the cases of a group that end before a process of their pool dies."""
    context = multiprocessing.get_context(start_method)
    size = min(workers, len(group))
    with ProcessPoolExecutor(size, mp_context=context, initializer=_die_with_parent, initargs=(os.getpid(),)) as pool:
        futures: dict[Future, int] = {pool.submit(function, cases[index]): index for index in group}
        try:
            for future in as_completed(futures):
                try:
                    result = future.result()
                except BrokenProcessPool:
                    continue
                yield futures[future], result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _die_with_parent(parent: int) -> None:
    """Make a worker end when its parent is killed; it would otherwise wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _with_ray(
    function: Callable[[Any], Any], cases: Sequence[Any], workers: int, address: str | None
) -> Iterator[tuple[int, Any]]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ray is not installed, expected it (pip install 'thorax-bundles[cluster]')"
        ) from error
    started = not ray.is_initialized()
    if started:
        size = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **size)
    try:
        remote = ray.remote(lambda case: function(case)).options(max_retries=_ATTEMPTS - 1, num_cpus=1)
        waiting = {remote.remote(case): index for index, case in enumerate(cases)}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            index = waiting.pop(ready)
            try:
                yield index, ray.get(ready)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                yield index, Failure(f"its worker process died {_ATTEMPTS} times, mostly for lack of memory")
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
    finally:
        if started:
            ray.shutdown()
