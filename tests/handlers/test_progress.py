import logging
import os
import re

import pytest
from ignite.engine import Events
from monai.handlers import ValidationHandler

from common.handlers.engine_state import notes
from common.handlers.progress import ProgressHandler, TimeLimitHandler
from common.handlers.training_clock import TrainingClock
from tests.handlers.small_engines import Fail, make_evaluator, make_network, make_trainer


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "train")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "train"]


def test_a_log_has_start_progress_validation_and_end(lines):
    network = make_network()
    evaluator = make_evaluator(network)
    progress = ProgressHandler("diffusion", validator=evaluator, log_seconds=0, bar=False)
    make_trainer([progress, ValidationHandler(1, evaluator)], network).run()
    found = lines()
    assert found[0] == "diffusion: 8 iterations in 2 epochs"
    pattern = r"diffusion 3/8 \(37 %\), epoch 1/2, [\d.]+ (it/s|s/it), 00:00 left, loss \d\.\d{4}"
    assert sum(bool(re.fullmatch(pattern, line)) for line in found) == 1
    assert re.fullmatch(r"diffusion step 4: validation mse \d\.\d{4}", found[5])
    assert re.search(r"best mse \d\.\d{4} \(epoch 1\)$", found[6])
    assert re.fullmatch(r"diffusion: 8 iterations done in 00:0\d, loss .*", found[-1])
    assert len(found) == 1 + 8 + 2 + 1


def test_lines_keep_their_distance_in_time(lines):
    make_trainer([ProgressHandler("refiner", log_seconds=60, bar=False)]).run()
    assert len(lines()) == 2  # start and end


def test_an_evaluator_is_quiet_when_it_is_fast(lines):
    make_evaluator(make_network(), [ProgressHandler("validation", bar=False, leave=False)]).run()
    assert lines() == []


def test_an_evaluator_counts_its_own_iterations(lines):
    evaluator = make_evaluator(make_network(), [ProgressHandler("validation", log_seconds=0, bar=False, leave=False)])
    evaluator.run(3)  # as at the third epoch of a trainer
    assert lines()[-1].startswith("validation 2/2 (100 %), ")
    assert "epoch 3/" not in lines()[-1]


def test_a_prediction_is_announced_without_epochs(lines):
    make_evaluator(make_network(), [ProgressHandler("predict", bar=False)]).run()
    assert lines()[0] == "predict: 2 iterations"
    assert lines()[-1].startswith("predict: 2 iterations done in 00:00, best mse ")


@pytest.mark.parametrize(("columns", "bar"), [(80, True), (0, False)])
def test_a_terminal_without_width_gets_lines(lines, monkeypatch, capsys, columns, bar):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.fileno", lambda: 2)
    monkeypatch.setattr("os.get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
    make_trainer([ProgressHandler("diffusion", log_seconds=0)]).run()
    assert ("100%" in capsys.readouterr().err) == bar
    assert len(lines()) == (2 if bar else 2 + 8)


def test_a_bar_in_a_terminal(lines, capsys):
    make_trainer([ProgressHandler("diffusion", log_seconds=0, bar=True)]).run()
    bar = capsys.readouterr().err
    assert re.search(r"diffusion, epoch 2/2: 100%.*8/8 \[00:0\d<00:00, .*it/s, loss=\d\.\d+\]", bar)
    assert len(lines()) == 2


def test_no_bar_where_stderr_is_no_terminal(capsys):
    make_trainer([ProgressHandler("diffusion")]).run()
    assert "100%" not in capsys.readouterr().err


def test_the_shown_loss_is_the_mean_of_the_last_iterations(lines):
    losses = []
    progress = ProgressHandler("diffusion", bar=False)
    trainer = make_trainer([progress])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    trainer.run()
    assert lines()[-1].endswith(f"loss {sum(losses) / 8:.4f}")


def test_a_resumed_run_counts_from_its_checkpoint(lines):
    trainer = make_trainer([ProgressHandler("diffusion", log_seconds=0, bar=False)])
    trainer.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", 1))
    trainer.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "iteration", 4))
    trainer.run()
    assert lines()[0] == "diffusion: 8 iterations in 2 epochs, resumed after 4"
    assert lines()[1].startswith("diffusion 5/8 (62 %), epoch 2/2")
    assert lines()[-1].startswith("diffusion: 4 iterations done")


def test_an_exception_passes_and_closes_the_bar(capsys):
    progress = ProgressHandler("diffusion", bar=True)
    with pytest.raises(ValueError, match="stop"):
        make_trainer([progress, Fail(ValueError("stop"))]).run()
    assert progress._tqdm is None


def limit(minutes):
    clock = TrainingClock(minutes)
    return [clock, TimeLimitHandler(clock, "diffusion")]


def test_time_limit_ends_where_the_optimizer_steps(lines):
    completed = []
    trainer = make_trainer(limit(1e-9), epochs=5, accumulation_steps=3)
    trainer.add_event_handler(Events.COMPLETED, completed.append)
    trainer.run()
    assert trainer.state.iteration == 3
    assert completed  # so final checkpoints are written
    expected = (
        "diffusion: the limit of 1e-09 minutes is reached at iteration 3 of 20, so training ends here; "
        "--max_minutes 2e-09 allows twice as long."
    )
    assert lines() == [expected]
    assert notes(trainer) == [expected]


def test_time_limit_says_nothing_when_training_is_done_anyway(lines):
    make_trainer(limit(1e-9), epochs=1, accumulation_steps=4).run()
    assert lines() == []


def test_no_time_limit():
    trainer = make_trainer([*limit(None), *limit(60)])
    trainer.run()
    assert trainer.state.iteration == 8
