import csv

from ignite.engine import Engine, Events

from common.handlers.epoch_table import EpochTable
from common.visualize.charts import epoch_curves
from common.visualize.figures import picture_caption


def train(out, stage, first_epoch, scores):
    """Epochs of two iterations with losses 2 and 4, and these scores; the table as it then is."""
    validator = Engine(lambda engine, batch: None)
    engine = Engine(lambda engine, batch: {"loss": batch})

    @engine.on(Events.EPOCH_STARTED)
    def validated(engine):
        score = scores[engine.state.epoch - 1]
        if score is not None:  # else there is no validation in this epoch
            validator.run([0])
            validator.state.metrics["b"] = score

    EpochTable(str(out), stage, first_epoch, validator, {"BLEU-4": "b", "loss": "other"}).attach(engine)
    engine.run([2.0, 4.0], max_epochs=len(scores))
    with (out / "epochs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_epochs_are_counted_through_the_stages(tmp_path):
    train(tmp_path, "warmup", 0, [0.1, 0.11])
    rows = train(tmp_path, "easy", 2, [0.2, 0.25])
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        ("warmup", "1"), ("warmup", "2"), ("easy", "3"), ("easy", "4"),
    ]  # fmt: skip
    assert {row["train loss"] for row in rows} == {"3.0000"} and {row["loss"] for row in rows} == {""}
    assert [row["BLEU-4 against epoch 1 (%)"] for row in rows] == ["+0.0", "+10.0", "+100.0", "+150.0"]
    assert [row["BLEU-4 in this stage (%)"] for row in rows] == ["+0.0", "+10.0", "+0.0", "+25.0"]
    figure = epoch_curves(rows, ["train loss", "BLEU-4", "loss"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["train loss", "BLEU-4", "loss"]
    curve, border = figure.axes[1].lines
    assert list(curve.get_ydata()) == [0.1, 0.11, 0.2, 0.25] and border.get_xdata()[0] == 2.5
    assert picture_caption(tmp_path / "pictures" / "epochs.png").startswith("The epochs of all stages")


def test_a_stage_that_runs_again_replaces_its_rows_and_those_after_it(tmp_path):
    train(tmp_path, "warmup", 0, [0.1, 0.11])
    train(tmp_path, "easy", 2, [0.2])
    rows = train(tmp_path, "warmup", 0, [0.0, 0.3])
    assert [row["BLEU-4"] for row in rows] == ["0.0000", "0.3000"]
    assert rows[1]["BLEU-4 against epoch 1 (%)"] == ""  # of nothing there is no percentage


def test_an_epoch_without_a_validation_has_blanks_and_one_that_was_interrupted_all_its_losses(tmp_path):
    rows = train(tmp_path, "warmup", 0, [0.1, None, 0.3])
    assert [row["BLEU-4"] for row in rows] == ["0.1000", "", "0.3000"]
    trained = EpochTable(str(tmp_path), "warmup", 0, Engine(lambda e, b: None), {})
    trained._sum, trained._count = 5.0, 2
    again = EpochTable(str(tmp_path), "warmup", 0, Engine(lambda e, b: None), {})
    again.load_state_dict(trained.state_dict())
    engine = Engine(lambda engine, batch: {"loss": batch})
    again.attach(engine)
    engine.run([1.0], max_epochs=1)
    with (tmp_path / "epochs.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["train loss"] == "2.0000"
