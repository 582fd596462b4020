import os
import signal
import time
from functools import partial

import pytest

from common.io.parallel import Failure, map_cases


def square(case):
    return case**2


def fail_at(case, bad):
    if case == bad:
        raise ValueError(f"case {case}")
    return case


def die_once(case, folder, bad):
    """The process of some cases is killed the first time."""
    mark = folder / str(case)
    if case in bad and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return case


def die_always(case, bad):
    if case == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return case


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    seen = []
    assert map_cases(square, range(20), workers, on_done=lambda: seen.append(1)) == [i**2 for i in range(20)]
    assert len(seen) == 20
    assert map_cases(square, [], workers) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_is_raised(workers):
    with pytest.raises(ValueError, match="case 3"):
        map_cases(partial(fail_at, bad=3), range(8), workers)


def test_a_process_that_is_killed_loses_nothing(tmp_path):
    assert map_cases(partial(die_once, folder=tmp_path, bad=(3, 11)), range(20), 2) == list(range(20))


def test_the_case_that_kills_every_process_is_named_and_the_others_are_done():
    results = map_cases(partial(die_always, bad=4), range(9), 2)
    assert [r for i, r in enumerate(results) if i != 4] == [i for i in range(9) if i != 4]
    assert isinstance(results[4], Failure) and "died 3 times" in results[4].reason


def test_engine_and_workers_are_checked():
    with pytest.raises(ValueError, match="expected one of local, ray"):
        map_cases(square, [1], 1, "slurm")
    with pytest.raises(ValueError, match="with 0 workers"):
        map_cases(square, [1], 0)


def test_ray_gives_the_same(tmp_path):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    assert map_cases(square, range(20), 2, "ray") == [i**2 for i in range(20)]
    assert map_cases(partial(die_once, folder=tmp_path, bad=(3,)), range(6), 2, "ray") == list(range(6))
    with pytest.raises(ValueError, match="case 3"):
        map_cases(partial(fail_at, bad=3), range(8), 2, "ray")
