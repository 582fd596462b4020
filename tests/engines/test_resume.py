import errno
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from common.engines.resume import ENDED, ResumeHandler, differences
from common.engines.training_state import load_random_state, random_state, read_state_file, write_state_file
from common.io.bad_input import BadInput, DiskFailure
from common.networks.weights import ChosenWeights, freeze
from tests.engines.resumable import EPOCHS, LENGTH, make, result, run
from tests.handlers.small_engines import make_trainer
from tests.processes import CONTEXT, start


class Killed(BaseException):
    pass


def kill_at(iteration, event=Events.ITERATION_COMPLETED):
    class Handler:
        def attach(self, engine):
            engine.add_event_handler(event(once=iteration), lambda _: (_ for _ in ()).throw(Killed()))

    return Handler()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = make(tmp_path_factory.mktemp("whole"))
    trainer.run()
    return result(trainer)


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("iteration", range(1, EPOCHS * LENGTH + 1))
def test_ended_at_any_iteration_it_ends_alike(tmp_path, uninterrupted, iteration):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(iteration)]).run()
    trainer = make(tmp_path)
    if trainer.resume.newest() is not None:
        torch.rand(5)  # what happens before the start does not matter
    trainer.run()
    assert trainer.state.iteration == EPOCHS * LENGTH
    same(result(trainer), uninterrupted)


class OwnSampler(torch.utils.data.Sampler):
    """Random draws, of another number in every epoch; counts what it gives, which without workers is what is had."""

    def __init__(self, lengths, batch_size=2):
        self.lengths, self.batch_size = lengths, batch_size
        self.epoch, self.given, self.drawn = 0, 0, torch.Generator().manual_seed(5)

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        # Else ignite ends after a short epoch when as many iterations are done as all epochs of that length have.
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: setattr(engine.state, "epoch_length", None))

    def _start(self, engine):
        engine.state.epoch_length = self.lengths[engine.state.epoch - 1]

    def __len__(self):
        return self.lengths[self.epoch] * self.batch_size

    def __iter__(self):
        if self.given == len(self):
            self.epoch, self.given = self.epoch + 1, 0
        if self.given == 0:
            self.before = self.drawn.get_state()
        self.drawn.set_state(self.before)
        for index in torch.randint(10, (len(self),), generator=self.drawn).tolist()[self.given :]:
            self.given += 1
            yield index

    def state_dict(self):
        return {"epoch": self.epoch, "given": self.given, "before": self.before, "drawn": self.drawn.get_state()}

    def load_state_dict(self, state):
        self.epoch, self.given, self.before = state["epoch"], state["given"], state["before"]
        self.drawn.set_state(state["drawn"])


@pytest.mark.parametrize("lengths", [(3, 5, 2), (5, 2, 3)])
def test_a_sampler_of_any_kind_and_epochs_of_different_lengths(tmp_path, lengths):
    def begin(name, *handlers):
        return make(tmp_path / name, handlers, epochs=3, sampler=OwnSampler(lengths), accumulation_steps=1)

    whole = begin("whole")
    whole.run()
    assert whole.state.iteration == 10
    expected = result(whole)
    for iteration in range(1, 11):
        with pytest.raises(Killed):
            begin(f"parts{iteration}", kill_at(iteration)).run()
        trainer = begin(f"parts{iteration}")
        if trainer.resume.newest() is not None:
            torch.rand(5)
        trainer.run()
        assert trainer.state.iteration == 10 and trainer.state.epoch == 3
        same(result(trainer), expected)


def test_a_checkpoint_written_before_epochs_could_differ_is_taken_up(tmp_path, uninterrupted):
    for iteration in (8, 11):  # within an epoch, and at the end of one
        with pytest.raises(Killed):
            make(tmp_path / str(iteration), [kill_at(iteration)]).run()
        path = make(tmp_path / str(iteration)).resume.newest()
        state = dict(read_state_file(path))
        del state["sampler"], state["of_epoch"]
        write_state_file(path, state)
        trainer = make(tmp_path / str(iteration))
        trainer.run()
        same(result(trainer), uninterrupted)


def test_what_is_frozen_is_not_saved(tmp_path):
    def begin(name, *handlers):
        trainer = make(tmp_path / name, handlers)
        trainer.resume.objects["network"] = ChosenWeights(trainer.network, ["2.*"])
        freeze(trainer.network[0])
        return trainer

    whole = begin("whole")
    whole.run()
    expected = result(whole)
    with pytest.raises(Killed):
        begin("parts", kill_at(8)).run()
    trainer = begin("parts")
    saved = read_state_file(trainer.resume.newest())["objects"]["network"]
    assert saved.keys() == {"2.weight", "2.bias"}
    trainer.run()
    same(result(trainer), expected)


def test_accumulation_needs_epochs_of_one_length(tmp_path):
    with pytest.raises(ValueError, match="epochs of 3 and 5 iterations and accumulation_steps 2, expected 1"):
        make(tmp_path, epochs=3, sampler=OwnSampler((3, 5, 2))).run()


def test_ended_again_and_again(tmp_path, uninterrupted):
    for iteration in (2, 4, 7, 9, 10, 14, 19):
        with pytest.raises(Killed):
            make(tmp_path, [kill_at(iteration)]).run()
    trainer = make(tmp_path)
    trainer.run()
    same(result(trainer), uninterrupted)


def test_with_workers_of_the_data_loader(tmp_path):
    trainer = make(tmp_path / "whole", workers=2)
    trainer.run()
    whole = result(trainer)
    with pytest.raises(Killed):
        make(tmp_path / "parts", [kill_at(8)], workers=2).run()
    trainer = make(tmp_path / "parts", workers=2)
    trainer.run()
    same(result(trainer), whole)


def started(folder, pause, log):
    """A process that has begun to train."""
    ready = CONTEXT.Event()
    process = start(run, folder, pause, log, ready)
    assert ready.wait(60), log.read_text()
    return process


def test_killed_for_real_at_random_moments(tmp_path, uninterrupted):
    for delay in (0.05, 0.31, None):
        process = started(tmp_path, 0.03, tmp_path / "log")
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.join()
        assert process.exitcode == (0 if delay is None else -signal.SIGKILL)
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    same(found, uninterrupted)


def test_sigterm_saves_and_exits_as_one_that_was_ended(tmp_path, uninterrupted):
    process = started(tmp_path, 0.05, tmp_path / "log")
    time.sleep(0.3)
    process.terminate()
    process.join()
    assert process.exitcode == ENDED == 143  # nothing is finished, so not 0
    assert not (tmp_path / "result.pt").exists() and "asked to end" in (tmp_path / "log").read_text()
    trainer = make(tmp_path)
    trainer.run()
    same(result(trainer), uninterrupted)


def test_sigterm_is_given_back_to_whoever_had_it(tmp_path):
    former = signal.getsignal(signal.SIGTERM)
    make(tmp_path / "whole", epochs=2).run()
    assert signal.getsignal(signal.SIGTERM) is former
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(3)]).run()
    assert signal.getsignal(signal.SIGTERM) is former


def test_the_newest_and_the_best_are_kept(tmp_path):
    trainer = make(tmp_path)
    values = {3: 0.5, 6: 0.3, 9: 0.4, 12: 0.6, 15: 0.7, 18: 0.9}
    trainer.validator.add_event_handler(
        Events.COMPLETED,
        lambda validator: validator.state.metrics.update(mse=values[trainer.state.iteration]),
    )
    # the handler above comes after the one of the resume handler, which therefore is registered once more
    trainer.validator.add_event_handler(Events.COMPLETED, trainer.resume._validated)
    trainer.run()
    names = [path.name for path in trainer.resume.checkpoints()]
    assert len(names) == 3 and [name for name in names if "mse" in name][0].endswith("_mse_0.3.pt")


def test_a_metric_that_is_not_finite_is_no_best(tmp_path):
    """A bug: such a file had a name that neither resume nor cleaning up knew."""
    trainer = make(tmp_path)
    trainer.validator.add_event_handler(
        Events.COMPLETED, lambda validator: validator.state.metrics.update(mse=float("nan"))
    )
    trainer.validator.add_event_handler(Events.COMPLETED, trainer.resume._validated)
    trainer.run()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["iteration_000000017.pt", "iteration_000000019.pt"]


def test_no_checkpoint_between_two_steps_of_the_optimizer(tmp_path):
    seen = []
    trainer = make(tmp_path)
    trainer.resume.save = lambda engine: seen.append(engine.state.iteration)
    trainer.run()
    # two iterations accumulate, the fifth of an epoch steps alone; the last iteration writes the model instead
    assert seen == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19]


def test_other_settings_are_refused_by_name(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(7)]).run()
    with pytest.raises(BadInput, match=r"lr 0.01 \(now 0.02\), seed 0 \(now 3\); expected the same"):
        make(tmp_path, lr=0.02, seed=3).run()
    with pytest.raises(BadInput, match="lr 0.01"):  # still there
        make(tmp_path, lr=0.02).run()


def test_without_resume_it_begins_anew(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(17)], lr=0.02).run()
    trainer = make(tmp_path, resume=False)
    trainer.run()
    same(result(trainer), uninterrupted)
    assert all(read_state_file(path)["settings"]["lr"] == 0.01 for path in trainer.resume.checkpoints())


def test_a_full_disk_is_a_sentence_and_leaves_the_earlier_ones(tmp_path, monkeypatch, uninterrupted):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(8)]).run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch, pytest.raises(DiskFailure, match="No space left on device"):
        patch.setattr("common.io.output_folder.os.fsync", full)
        make(tmp_path).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    trainer = make(tmp_path)
    trainer.run()
    same(result(trainer), uninterrupted)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    for name in (".part0123_iteration_000000004.pt", ".iteration_000000004.pt.123.tmp"):  # now, and of earlier versions
        tmp_path.joinpath(name).write_bytes(b"half")
    make(tmp_path).run()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_next_intact_one_used(tmp_path, uninterrupted, caplog, damage):
    """A bug: a training went on with other weights, and ended with them."""
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(15)]).run()
    *_, before, newest = make(tmp_path).resume.checkpoints()
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[damage])
    trainer = make(tmp_path)
    trainer.run()
    assert f"{newest} is damaged, the next intact checkpoint is used: {before.name}" in caplog.text
    same(result(trainer), uninterrupted)


def test_without_an_intact_checkpoint_it_says_so(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(9)]).run()
    found = make(tmp_path).resume.checkpoints()
    for path in found:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match=rf"{found[-1].name}: is not a whole .*none of the 1 before it.*--resume false"):
        make(tmp_path).run()
    assert make(tmp_path).resume.checkpoints() == found  # nothing is removed


def test_a_loader_that_cannot_begin_in_the_middle_is_refused(tmp_path):
    with pytest.raises(ValueError, match="SequentialSampler, expected an EpochSampler"):
        make_trainer([ResumeHandler(tmp_path, {}, {})]).run()
    with pytest.raises(ValueError, match="has no generator, expected one of its own"):
        make(tmp_path, sampler=OwnSampler((5, 5, 5, 5)), generator=None).run()


def test_an_object_without_a_state_is_named(tmp_path):
    with pytest.raises(ValueError, match="object early_stop is a str"):
        ResumeHandler(tmp_path, {"early_stop": "x"}, {})


@pytest.mark.parametrize("numbers", [{"interval": 0}, {"n_saved": 0}, {"n_best": -1}])
def test_numbers_are_checked(tmp_path, numbers):
    with pytest.raises(ValueError, match="expected 1, 1 and 0 or more"):
        ResumeHandler(tmp_path, {}, {}, **numbers)


def test_parts_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, [kill_at(3)]).run()
    path = make(tmp_path).resume.newest()
    state = read_state_file(path)
    del state["objects"]["network"]["0.bias"]
    write_state_file(path, state)
    with pytest.raises(BadInput, match="does not fit the network"):
        make(tmp_path).run()
    del state["objects"]["network"]
    write_state_file(path, state)
    with pytest.raises(BadInput, match="holds the parts .* expected"):
        make(tmp_path).run()


def test_differences():
    then = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 0}
    now = {"a": 1, "b": {"c": [1, 3], "d": None}, "new": "x"}
    assert differences(then, now) == {"b#c#1": (2, 3), "gone": (0, None), "new": (None, "x")}


def test_random_states_come_back(tmp_path):
    import random

    import numpy as np

    path = tmp_path / "state.pt"
    np.random.randn(3)  # leaves half a pair of normal numbers behind
    write_state_file(path, {"random": random_state()})
    first = random.random(), np.random.randn(3).tolist(), torch.rand(2).tolist()
    load_random_state(read_state_file(path)["random"])
    assert (random.random(), np.random.randn(3).tolist(), torch.rand(2).tolist()) == first


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint at all"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path: Path = tmp_path / "iteration_000000001.pt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="is not a whole checkpoint"):
        read_state_file(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(BadInput, match="is not a checkpoint of a training"):
        read_state_file(path)
    torch.save({"format": 1, "run": os.system}, path)
    with pytest.raises(BadInput, match="is not a whole checkpoint"):
        read_state_file(path)
