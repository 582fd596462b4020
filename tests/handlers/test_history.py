import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.handlers import LrScheduleHandler, ValidationHandler
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.handlers.engine_state import add_note
from common.handlers.gradient_clip import GradientClipHandler
from common.handlers.history import HistoryHandler
from common.handlers.training_clock import TrainingClock
from common.handlers.watch import watch_training
from tests.handlers.small_engines import Clock, Fail, make_data, make_evaluator, make_network, make_trainer


def read(run, stage="diffusion") -> dict:
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((run / stage / "history.json").read_text(), parse_constant=refuse)


def events(run, stage="diffusion") -> EventAccumulator:
    accumulator = EventAccumulator(str(run / stage / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.mark.filterwarnings("ignore:Detected call of")  # the schedule steps while gradients accumulate
def test_everything_that_was_measured_is_in_the_file_and_in_tensorboard(tmp_path):
    network, losses, rates, measured = make_network(), [], [], []
    evaluator = make_evaluator(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    handlers = [
        LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
        HistoryHandler(tmp_path, "diffusion", validator=evaluator),
        ValidationHandler(1, evaluator),
        GradientClipHandler(1.0),
    ]
    trainer = make_trainer(handlers, network, optimizer=optimizer, accumulation_steps=2)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda e: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: measured.append(evaluator.state.metrics["mse"]))
    trainer.run()

    history = read(tmp_path)
    assert list(history) == ["stage", "seconds", "iterations", "validations", "metrics", "notes"]
    assert (history["stage"], history["notes"]) == ("diffusion", [])
    rows = history["iterations"]
    assert [(row["iteration"], row["epoch"]) for row in rows] == [(i, 1 + (i > 4)) for i in range(1, 9)]
    assert [row["loss"] for row in rows] == losses
    assert [row["lr"] for row in rows] == rates == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
    assert ["grad_norm" in row for row in rows] == [False, True] * 4
    assert all(row["samples_per_second"] > 0 and 0.05 < row["memory_gib"] < 60 for row in rows)
    assert history["validations"] == [
        {"iteration": 4, "epoch": 1, "mse": measured[0]},
        {"iteration": 8, "epoch": 2, "mse": measured[1]},
    ]
    metrics = history["metrics"]
    assert metrics["iterations"] == 8 and metrics["val_mse"] == measured[1]
    assert metrics["train_loss"] == pytest.approx(sum(losses) / 8)
    assert metrics["best_mse"] == min(measured) and metrics["best_epoch"] == 1 + measured.index(min(measured))

    board = events(tmp_path)
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == [
        (i + 1, pytest.approx(loss)) for i, loss in enumerate(losses)
    ]
    assert [e.step for e in board.Scalars("val/mse")] == [4, 8]
    assert {"train/lr", "train/grad_norm", "train/samples_per_second", "train/memory_gib"} <= set(
        board.Tags()["scalars"]
    )
    assert not list((tmp_path / "diffusion").glob(".part*"))


def test_parameter_groups_by_name(tmp_path):
    network, other = make_network(), torch.nn.Linear(2, 2)
    groups = [{"params": network.parameters(), "lr": 0.1, "name": "unet"}, {"params": other.parameters(), "lr": 0.2}]
    history = HistoryHandler(tmp_path, "diffusion")
    make_trainer([history], network, optimizer=torch.optim.SGD(groups)).run()
    row = read(tmp_path)["iterations"][0]
    assert (row["lr"], row["lr/unet"], row["lr/1"]) == (0.1, 0.1, 0.2)


def test_an_interval_records_means(tmp_path):
    losses = []
    trainer = make_trainer([HistoryHandler(tmp_path, "diffusion", interval=3)])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"])))
    trainer.run()
    rows = read(tmp_path)["iterations"]
    assert [row["iteration"] for row in rows] == [3, 4, 7, 8]  # an epoch ends with what is left of it
    parts = [losses[:3], losses[3:4], losses[4:7], losses[7:]]
    assert [row["loss"] for row in rows] == [pytest.approx(sum(part) / len(part)) for part in parts]


def test_a_resumed_run_goes_on_and_a_new_one_starts_again(tmp_path):
    with pytest.raises(ValueError, match="killed"):
        make_trainer([HistoryHandler(tmp_path, "diffusion"), Fail(ValueError("killed"), 7)]).run()
    before = read(tmp_path)
    assert len(before["iterations"]) == 7
    assert before["notes"] == ["diffusion ended at iteration 7 by ValueError."]

    resumed = make_trainer([HistoryHandler(tmp_path, "diffusion")], epochs=3)
    # as a checkpoint loader does, at the start of the run and after the history was attached
    resumed.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", 1))
    resumed.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "iteration", 4))
    resumed.run()
    after = read(tmp_path)
    assert [row["iteration"] for row in after["iterations"]] == list(range(1, 13))
    assert after["iterations"][:4] == before["iterations"][:4]
    assert after["seconds"] > before["seconds"]
    assert after["notes"] == before["notes"]
    assert [e.step for e in events(tmp_path).Scalars("train/loss")] == list(range(1, 13))

    make_trainer([HistoryHandler(tmp_path, "diffusion")], epochs=1).run()
    assert [row["iteration"] for row in read(tmp_path)["iterations"]] == [1, 2, 3, 4]


def test_a_run_with_nothing_left_keeps_the_file(tmp_path):
    make_trainer([HistoryHandler(tmp_path, "diffusion")]).run()
    before = (tmp_path / "diffusion" / "history.json").read_bytes()
    network = make_network()
    evaluator = make_evaluator(network)
    again = make_trainer([HistoryHandler(tmp_path, "diffusion", validator=evaluator)], network)
    again.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", 2))
    again.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "iteration", 8))
    again.run()
    assert (tmp_path / "diffusion" / "history.json").read_bytes() == before
    evaluator.run()  # a final validation on its own is added to it
    history = read(tmp_path)
    assert len(history["iterations"]) == 8
    assert [row["iteration"] for row in history["validations"]] == [8]


def test_values_that_are_not_finite_become_null_and_a_sentence(tmp_path):
    trainer = make_trainer([HistoryHandler(tmp_path, "diffusion")], data=make_data(bad_at=5))
    add_note(trainer, "A note of another handler.")
    trainer.run()
    history = read(tmp_path)
    assert history["iterations"][2]["loss"] is None and history["iterations"][1]["loss"] > 0
    assert history["metrics"]["train_loss"] is None
    assert history["notes"] == ["A note of another handler.", "diffusion: loss is not finite (nan) at iteration 3."]


def test_metrics_that_are_no_scalars(tmp_path):
    network = make_network()
    evaluator = make_evaluator(network)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def more(engine):
        engine.state.metrics |= {"per_class": torch.tensor([0.25, 0.5]), "text": "no", "undefined": math.nan}
        engine.state.metrics |= {"a": 0.5, "both": {"a": 0.5}}  # as ignite leaves a metric that gives a dict

    trainer = make_trainer([HistoryHandler(tmp_path, "diffusion", evaluator), ValidationHandler(2, evaluator)], network)
    trainer.run()
    history = read(tmp_path)
    assert history["validations"][0]["per_class"] == [0.25, 0.5]
    assert history["validations"][0]["undefined"] is None
    assert "Metric text is a str, which the history does not keep." in history["notes"]
    assert history["validations"][0]["a"] == 0.5 and not any("both" in note for note in history["notes"])
    assert "val/per_class" not in events(tmp_path).Tags()["scalars"]


def test_speed_is_that_of_training_without_validation(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("common.handlers.history.time", clock)
    network = make_network()
    evaluator = make_evaluator(network)
    evaluator.add_event_handler(Events.STARTED, lambda _: clock.sleep(30))
    handlers = [ValidationHandler(2, evaluator, epoch_level=False), HistoryHandler(tmp_path, "diffusion", evaluator)]
    trainer = make_trainer(handlers, network, epochs=1)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: clock.sleep(0.5))
    trainer.run()
    rates = [row["samples_per_second"] for row in read(tmp_path)["iterations"]]
    assert rates == pytest.approx([2 / 0.5] * 4)  # batches of two


def test_the_handlers_are_made_from_a_configuration(tmp_path):
    parser = ConfigParser(
        {
            "output_dir": str(tmp_path),
            "stage": "diffusion",
            "clock": {"_target_": "common.handlers.training_clock.TrainingClock", "max_minutes": None},
            "network": {"_target_": "tests.handlers.small_engines.make_network"},
            "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1},
            "evaluator": {"_target_": "tests.handlers.small_engines.make_evaluator", "network": "@network"},
            "handlers": [
                {
                    "_target_": "common.handlers.startup_report.StartupReportHandler",
                    "parts": {"U-Net": "@network"},
                    "splits": {"train": 2, "val": 1, "test": 1},
                    "chunks": [{"what": "encoding", "slices": 50, "size": 32}],
                    "output_dir": "@output_dir",
                    "stage": "@stage",
                },
                {"_target_": "common.handlers.out_of_memory.OOMAdviceHandler", "advice": ["--resolution 384"]},
                {"_target_": "common.handlers.gradient_clip.GradientClipHandler", "max_norm": 1.0},
                {
                    "_target_": "common.handlers.history.HistoryHandler",
                    "output_dir": "@output_dir",
                    "stage": "@stage",
                    "validator": "@evaluator",
                },
                {
                    "_target_": "common.handlers.progress.ProgressHandler",
                    "name": "@stage",
                    "validator": "@evaluator",
                },
                {
                    "_target_": "common.handlers.progress.TimeLimitHandler",
                    "clock": "@clock",
                    "name": "@stage",
                },
                {"_target_": "ValidationHandler", "validator": "@evaluator", "interval": 1},
            ],
            "trainer": {
                "_target_": "tests.handlers.small_engines.make_trainer",
                "handlers": "@handlers",
                "network": "@network",
                "optimizer": "@optimizer",
            },
        }
    )
    parser.get_parsed_content("trainer").run()
    assert len(read(tmp_path)["validations"]) == 2
    assert (tmp_path / "diffusion" / "startup.json").is_file()


def test_pictures(tmp_path):
    history = HistoryHandler(tmp_path, "diffusion")
    trainer = make_trainer([history])
    trainer.run()
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    path = history.add_image("samples/case 1", figure, "A line, grössere Zahl rechts.")
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[1, 2] = (255, 0, 10)
    plain = history.add_image("pixels", pixels, "Pixels.")
    assert path == tmp_path / "diffusion" / "pictures" / "samples_case_1.png"
    assert Image.open(path).info["Description"] == "A line, grössere Zahl rechts."
    assert (np.asarray(Image.open(plain)) == pixels).all()
    history._writer.close()
    board = events(tmp_path)
    assert [(e.step, e.width, e.height) for e in board.Images("pixels")] == [(8, 6, 4)]
    assert [e.step for e in board.Images("samples/case 1")] == [8]


def test_the_interval_is_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="at least 1 iteration"):
        HistoryHandler(tmp_path, "diffusion", interval=0)


def words(accumulator):
    return accumulator.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()


def pictures():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    return {"validation/roc": (figure, "A line.")}


def test_pictures_and_settings_reach_tensorboard_and_the_page(tmp_path):
    network = make_network()
    watch = watch_training(
        tmp_path, "stage", {"net": network}, {"train": 8}, make_evaluator(network), TrainingClock(), ["--less"],
        pictures=pictures, settings={"rate": 0.1, "modalities": ["vision", "text"]},
    )  # fmt: skip
    make_trainer([watch], network, epochs=2).run()
    seen = events(tmp_path, "stage")
    assert [(event.step, event.width) for event in seen.Images("validation/roc")] == [(8, 220)]
    assert (tmp_path / "stage" / "pictures" / "validation_roc.png").is_file()
    assert words(seen) == '| setting | value |\n|---|---|\n| rate | 0.1 |\n| modalities | ["vision", "text"] |'


def test_the_whole_configuration_follows_where_there_is_one(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "config.json").write_text(json.dumps({"loss": "focal"}))
    make_trainer([HistoryHandler(tmp_path, "stage", settings={"rate": 1})]).run()
    assert words(events(tmp_path, "stage")).endswith('| rate | 1 |\n\n```json\n{"loss": "focal"}\n```')


def test_nothing_to_show_is_nothing_written(tmp_path):
    make_trainer([HistoryHandler(tmp_path, "stage", pictures=dict)]).run()
    assert events(tmp_path, "stage").Tags()["images"] == [] and not (tmp_path / "stage" / "pictures").exists()
    with pytest.raises(KeyError):
        words(events(tmp_path, "stage"))
