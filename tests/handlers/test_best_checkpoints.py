import math

import pytest
import torch
from ignite.engine import Engine, Events

from common.handlers.best_checkpoints import BestCheckpoints
from common.handlers.engine_state import notes
from common.io.bad_input import DiskFailure
from common.networks.weights import ChosenWeights

CRITERIA = {"best_auroc": "pooled_auroc", "best_mean": "mean_auroc", "best_rare": "rare_auroc"}
VALUES = [  # of seven epochs: pooled, mean, rare
    (0.60, 0.50, 0.7), (0.70, 0.55, 0.6), (0.65, 0.80, None), (0.71, 0.80, 0.6), (0.60, 0.70, math.nan),
    (0.71, 0.60, 0.9), (0.50, 0.50, 0.9),
]  # fmt: skip
BEST = {"best_auroc": 4, "best_mean": 3, "best_rare": 6}  # the first of equal ones


def make(folder, epochs=7, values=VALUES, **settings):
    """A trainer whose network holds the number of its epoch."""
    network = torch.nn.Linear(1, 1)
    trainer, validator = Engine(lambda *_: None), Engine(lambda *_: None)
    best = BestCheckpoints(str(folder), network, validator, CRITERIA, **settings)

    @trainer.on(Events.EPOCH_STARTED)
    def train(engine):
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    @validator.on(Events.STARTED)
    def measure(engine):
        pairs = zip(CRITERIA.values(), values[trainer.state.epoch - 1], strict=True)
        engine.state.metrics = {name: value for name, value in pairs if value is not None}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run([0]))
    best.attach(trainer)
    trainer.network, trainer.best, trainer.epochs = network, best, epochs
    return trainer


def epoch_of(path):
    state = torch.load(path, weights_only=True)
    assert set(state) == {"weight", "bias"}  # a plain state dict
    return int(state["weight"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_best_of_each_criterion_and_the_weights_of_one_at_the_end(tmp_path):
    trainer = make(tmp_path / "new")
    trainer.run([0], max_epochs=7)
    assert {name: epoch_of(tmp_path / "new" / f"{name}.pt") for name in BEST} == BEST
    assert names(tmp_path / "new") == sorted([*(f"{name}.pt" for name in BEST), "epoch_005.pt"])
    assert trainer.network.weight.item() == BEST["best_mean"]
    assert notes(trainer) == ["the weights are those of epoch 3, mean_auroc 0.8000."]


@pytest.mark.parametrize(("final", "epoch"), [("best_auroc", 4), ("best_rare", 6), (None, 7)])
def test_what_the_weights_are_at_the_end_can_be_chosen(tmp_path, final, epoch):
    trainer = make(tmp_path, final=final)
    trainer.run([0], max_epochs=7)
    assert trainer.network.weight.item() == epoch and len(notes(trainer)) == (final is not None)


def test_handlers_after_it_see_the_best_weights(tmp_path):
    trainer, seen = make(tmp_path), []
    trainer.add_event_handler(Events.COMPLETED, lambda engine: seen.append(trainer.network.weight.item()))
    trainer.run([0], max_epochs=7)
    assert seen == [3]


@pytest.mark.parametrize(
    ("epochs", "every", "kept"),
    [(4, 5, []), (7, 2, [2, 4, 6]), (12, 2, [8, 10, 12]), (30, 5, [20, 25, 30]), (4, 1, [2, 3, 4])],
)
def test_the_last_three_of_every_few_epochs(tmp_path, epochs, every, kept):
    make(tmp_path, values=[VALUES[0]] * epochs, every=every).run([0], max_epochs=epochs)
    found = {path.name: epoch_of(path) for path in tmp_path.glob("epoch_*.pt")}
    assert found == {f"epoch_{epoch:03d}.pt": epoch for epoch in kept}


def test_a_training_that_begins_anew_keeps_its_own_epochs(tmp_path):
    """A bug: it removed each of its own at once, as long as an earlier training's later epochs were there."""
    make(tmp_path, values=[VALUES[0]] * 12, every=2).run([0], max_epochs=12)
    make(tmp_path, values=[VALUES[1]] * 4, every=2).run([0], max_epochs=4)
    assert [path.name for path in sorted(tmp_path.glob("epoch_*.pt"))] == ["epoch_002.pt", "epoch_004.pt"]


@pytest.mark.parametrize("ended", range(1, 7))
def test_resumed_after_any_epoch_it_ends_alike(tmp_path, ended):
    first = make(tmp_path)
    first.best._completed = lambda engine: None
    first.run([0], max_epochs=ended)
    torch.save(first.best.state_dict(), tmp_path / "state.pt")
    trainer = make(tmp_path)

    @trainer.on(Events.STARTED)
    def load(engine):
        trainer.best.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        engine.state.epoch = engine.state.iteration = ended

    trainer.run([0], max_epochs=7)
    assert {name: epoch_of(tmp_path / f"{name}.pt") for name in BEST} == BEST
    assert {name: entry["epoch"] for name, entry in trainer.best.best.items()} == BEST
    assert trainer.network.weight.item() == BEST["best_mean"]


def test_smaller_may_be_better(tmp_path):
    trainer = make(tmp_path, mode={"best_auroc": "min", "best_mean": "max", "best_rare": "min"}, final="best_rare")
    trainer.run([0], max_epochs=7)
    assert {name: epoch_of(tmp_path / f"{name}.pt") for name in BEST} == {
        "best_auroc": 7, "best_mean": 3, "best_rare": 2,
    }  # fmt: skip
    assert trainer.network.weight.item() == 2
    make(tmp_path / "all", mode="min").run([0], max_epochs=7)
    assert epoch_of(tmp_path / "all" / "best_mean.pt") == 1


def test_a_choice_of_names_is_what_is_kept_and_comes_back(tmp_path):
    trainer = make(tmp_path)
    trainer.best.network = ChosenWeights(trainer.network, ["weight"])
    torch.nn.init.constant_(trainer.network.bias, 5.0)
    trainer.run([0], max_epochs=7)
    assert torch.load(tmp_path / "best_mean.pt", weights_only=True).keys() == {"weight"}
    assert trainer.network.weight.item() == 3 and trainer.network.bias.item() == 5


def test_without_any_score_the_last_weights_stay(tmp_path):
    trainer = make(tmp_path / "none", values=[(None, None, None)] * 2)
    trainer.run([0], max_epochs=2)
    assert trainer.network.weight.item() == 2 and not (tmp_path / "none").exists() and notes(trainer) == []


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="final is 'best', expected one of best_auroc, best_mean, best_rare"):
        make(tmp_path, final="best")
    for mode in ("best", {"best_mean": "min"}, dict.fromkeys(CRITERIA, "least")):
        with pytest.raises(ValueError, match="expected max or min, or one of them for each of best_auroc, best_mean"):
            make(tmp_path, mode=mode)
    for numbers in ({"every": 0}, {"n_saved": 0}):
        with pytest.raises(ValueError, match="expected at least 1"):
            make(tmp_path, **numbers)


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    make(tmp_path).run([0], max_epochs=3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.networks.weights.torch.save", full)
    with pytest.raises(DiskFailure, match=r"\.pt: cannot be written \(No space left on device\), expected room for it"):
        make(tmp_path).run([0], max_epochs=3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
