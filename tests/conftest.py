"""One thread for every process, set before torch is imported: `make test` fills the cores with processes instead."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
MOST_WORKERS = 8  # each holds about a gigabyte
TESTS = Path(__file__).parent

# For this process and those that tests start.
os.environ |= dict.fromkeys(THREADS, "1") | {"HF_HUB_OFFLINE": "1"}


@pytest.hookimpl(optionalhook=True)  # there is no such hook without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a process for each core that this one may use."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a module go to one worker, as they share fixtures; those of the contract bundle by bundle."""
    if config.getvalue("dist") != "load":  # asked for by name
        return None
    from xdist.scheduler import LoadScopeScheduling

    places = (TESTS.parent / "bundles", TESTS / "bundles")
    bundles = [path.parents[1].name for place in places for path in place.glob("*/configs/metadata.json")]

    class ByModuleAndBundle(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module, _, name = nodeid.partition("::")
            named = [bundle for bundle in bundles if bundle in name] if module.endswith("test_contract.py") else []
            return "::".join([module, *named[:1]])

    config.option.loadscopereorder = False  # the long ones, apps and bundles, are the first in the alphabet
    return ByModuleAndBundle(config, log)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same in every worker."""
    folder = tmp_path_factory.getbasetemp()
    shared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "made_once"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(shared_folder: Path) -> None:
    """No test reads or fills the cache of the user who runs it."""
    os.environ["THORAX_CACHE"] = str(shared_folder / "cache")


@pytest.fixture(scope="session")
def made_once(shared_folder: Path) -> Callable[[str, Callable[[Path], Any]], tuple[Path, Any]]:
    """Make a folder once per test run, whichever worker asks first, and share it with all: for reading alone.

    `made_once(name, make)` calls `make(folder)` unless another test has, and gives the folder and what `make`
    returned (as JSON keeps it).
    """

    def get(name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
        place, result = shared_folder / name, shared_folder / f"{name}.json"
        with FileLock(shared_folder / f"{name}.lock"):
            if not result.is_file():
                shutil.rmtree(place, ignore_errors=True)  # what a failed call left
                place.mkdir()
                result.write_text(json.dumps(make(place)))
        return place, json.loads(result.read_text())

    return get


@pytest.fixture(scope="session")
def smoke_run(made_once: Callable[..., tuple[Path, Any]]) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    """Run the smallest recipe of a bundle, once: `smoke_run(bundle)` gives the run folder and what `run_recipe` gave.

    Who writes in that folder holds `FileLock(f"{folder}.lock")`, as a test in another worker may do so too.
    """

    def get(bundle: Path) -> tuple[Path, dict[str, Any]]:
        from common.apps.run.recipe import run_recipe

        scale = "demo+smoke" if (bundle / "configs" / "smoke.json").is_file() else "demo"
        return made_once(bundle.name, lambda out: run_recipe(bundle, scale, output_dir=out))

    return get
