import json

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.handlers.history import HistoryHandler
from common.handlers.pictures import PictureHandler
from common.handlers.training_clock import TrainingClock
from common.handlers.watch import watch_training
from tests.handlers.small_engines import make_evaluator, make_network, make_trainer


def board(folder):
    accumulator = EventAccumulator(str(folder / "stage" / "tensorboard"))
    accumulator.Reload()
    return accumulator


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
    seen = board(tmp_path)
    assert [(event.step, event.width) for event in seen.Images("validation/roc")] == [(8, 220)]
    assert (tmp_path / "stage" / "pictures" / "validation_roc.png").is_file()
    assert words(seen) == '| setting | value |\n|---|---|\n| rate | 0.1 |\n| modalities | ["vision", "text"] |'


def test_the_whole_configuration_follows_where_there_is_one(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "config.json").write_text(json.dumps({"loss": "focal"}))
    history = HistoryHandler(tmp_path, "stage")
    make_trainer([PictureHandler(history, settings={"rate": 1}), history]).run()
    assert words(board(tmp_path)).endswith('| rate | 1 |\n\n```json\n{"loss": "focal"}\n```')


def test_nothing_to_show_is_nothing_written(tmp_path):
    history = HistoryHandler(tmp_path, "stage")
    make_trainer([PictureHandler(history, dict), history]).run()
    assert board(tmp_path).Tags()["images"] == [] and not (tmp_path / "stage" / "pictures").exists()
    with pytest.raises(KeyError):
        words(board(tmp_path))
