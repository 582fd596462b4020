import contextlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle  # noqa: F401 -- before workers are forked, each of which would import it for seconds
import pytest

from common.apps.search import page as tune_page  # noqa: F401 -- as monai.bundle
from common.apps.search import trial as tune_trial
from common.apps.search import worker as tune_worker
from common.apps.search.tune import tune
from tests.toy_bundle import make_manifest, make_toy_bundle
from tests.toy_search import Worker, formula_command, write_search


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    bundle = make_toy_bundle(tmp_path)
    make_manifest(tmp_path / "data")
    write_search(bundle)
    return bundle


@pytest.fixture
def search(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Search the toy bundle with trials that compute a formula."""
    monkeypatch.setattr(tune_trial, "trial_command", formula_command)
    monkeypatch.setattr(tune_worker, "_POLL_SECONDS", 0.05)

    def run(kind: str = "random", n_trials: int | None = 4, out: str = "out", **options: Any) -> dict[str, Any]:
        return tune(toy, kind, n_trials, output_dir=tmp_path / out, **{"dataset_dir": tmp_path / "data"} | options)

    return run


@pytest.fixture
def worker(search: Any, tmp_path: Path) -> Iterator[Any]:
    """Start a worker as a process of its own; forked, because a new one would first import for seconds."""
    started = []

    def start(storage: str, n_trials: int, seconds: float, **options: Any) -> Worker:
        log = tmp_path / f"worker_{len(started)}.log"

        def work() -> None:
            tune_trial.trial_command = lambda folder: formula_command(folder, seconds)
            with log.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
                with contextlib.suppress(KeyboardInterrupt):
                    search("random", n_trials, "shared", storage=storage, heartbeat=0.2, **options)
                    print("done", flush=True)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        started.append(process)
        return Worker(process, log)

    yield start
    for process in started:
        process.kill()
        process.join()
