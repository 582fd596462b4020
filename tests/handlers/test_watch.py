import json
import logging

import pytest

from common.handlers.training_clock import TrainingClock
from common.handlers.watch import watch_training
from tests.handlers.small_engines import Fail, make_evaluator, make_network, make_trainer


def watched(tmp_path, network, **options):
    evaluator = make_evaluator(network)
    watch = watch_training(
        tmp_path,
        "diffusion",
        {"U-Net": network},
        {"train": 8},
        evaluator,
        TrainingClock(),
        ["--resolution 384"],
        **options,
    )
    return watch, evaluator


def test_one_entry_watches_a_training(tmp_path, caplog):
    network = make_network()
    watch, evaluator = watched(tmp_path, network, interval=2, advice={"loader": "--num_workers 8"})
    evaluator.logger.setLevel(logging.WARNING)
    with caplog.at_level(logging.INFO, logger="train"):
        make_trainer([watch], network, epochs=2).run()
    assert json.loads((tmp_path / "diffusion" / "startup.json").read_text())["splits"] == {"train": 8}
    history = json.loads((tmp_path / "diffusion" / "history.json").read_text())
    assert [row["iteration"] for row in history["iterations"]] == [2, 4, 6, 8]
    lines = [record.getMessage() for record in caplog.records]
    assert lines.index("Total parameters: 2") < next(
        i for i, line in enumerate(lines) if line.startswith("diffusion: 8")
    )


def test_the_history_keeps_the_advice_when_memory_runs_out(tmp_path):
    network = make_network()
    watch, _ = watched(tmp_path, network)
    with pytest.raises(MemoryError):
        make_trainer([watch, Fail(MemoryError("no room"))], network).run()
    notes = json.loads((tmp_path / "diffusion" / "history.json").read_text())["notes"]
    assert "--resolution 384" in notes[0] and "ended at iteration 3 by MemoryError" in notes[1]
