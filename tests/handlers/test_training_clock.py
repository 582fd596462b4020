import pytest
from ignite.engine import Engine

from common.handlers.training_clock import TrainingClock


@pytest.fixture
def now(monkeypatch):
    time = [100.0]
    monkeypatch.setattr("common.handlers.training_clock.time.monotonic", lambda: time[0])
    return time


def test_it_starts_with_the_trainer(now):
    clock = TrainingClock(2)
    now[0] += 50
    assert clock.seconds == clock.spent == 0
    engine = Engine(lambda engine, batch: now.__setitem__(0, now[0] + 30))
    clock.attach(engine)
    engine.run([0, 1])
    assert clock.seconds == 60 and clock.spent == pytest.approx(0.5)


def test_a_resumed_run_goes_on_counting(now):
    clock = TrainingClock(1)
    clock.start()
    now[0] += 30
    again = TrainingClock(1)
    again.start()
    now[0] += 5
    again.load_state_dict(clock.state_dict() | {"seconds": 30.0})
    now[0] += 15
    assert again.seconds == 45 and again.spent == pytest.approx(0.75)


def test_no_limit_is_never_spent(now):
    clock = TrainingClock()
    clock.start()
    now[0] += 1e6
    assert clock.spent == 0 and clock.seconds == 1e6


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_limit_is_positive(minutes):
    with pytest.raises(ValueError, match="expected a positive number of minutes"):
        TrainingClock(minutes)
