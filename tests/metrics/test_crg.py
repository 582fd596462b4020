import math

import numpy as np
import pytest

from common.metrics.crg import CRG_FLOOR, crg, crg_best_constant
from common.text.ct_labels import CT_RATE_LABELS


def table(array):
    return [dict(zip(CT_RATE_LABELS, row, strict=True)) for row in array.astype(int).tolist()]


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return (rng.random((200, 18)) < np.linspace(0.02, 0.5, 18)).astype(int)


def value(predicted, truth):
    return crg(table(predicted), table(truth), CT_RATE_LABELS).value()["crg"]


def test_formula(truth):
    predicted = (truth + (np.random.default_rng(1).random(truth.shape) < 0.1)) % 2
    tp, fn, fp = (((predicted == p) & (truth == t)).sum() for p, t in ((1, 1), (0, 1), (1, 0)))
    cells, positive = truth.size, truth.sum()
    r = (cells - positive) / (2 * positive)
    expected = (cells - positive) / 2 / ((cells - positive) - (r * tp - r * fn - fp))
    assert value(predicted, truth) == pytest.approx(expected, abs=1e-12)


def test_ends_and_floor(truth):
    assert value(truth, truth) == 1
    assert value(1 - truth, truth) == pytest.approx(1 / 5)
    assert value(np.zeros_like(truth), truth) == pytest.approx(CRG_FLOOR)
    assert value(np.ones_like(truth), truth) == pytest.approx(CRG_FLOOR)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_label_at_one_rate_is_at_the_floor(truth, rate):
    rng = np.random.default_rng(2)
    values = [value(rng.random(truth.shape) < rate, truth) for _ in range(40)]
    assert np.mean(values) == pytest.approx(CRG_FLOOR, abs=0.004)


def test_the_best_constant_report_beats_the_floor_and_every_other_constant(truth):
    best = crg_best_constant(table(truth), CT_RATE_LABELS)
    assert best > CRG_FLOOR + 0.02
    order = np.argsort(-truth.sum(axis=0))
    constants = [np.isin(np.arange(18), order[:k]) for k in range(19)]
    assert best == pytest.approx(max(value(np.tile(row, (200, 1)), truth) for row in constants))


def test_undefined_without_a_positive_and_without_a_negative(truth):
    assert math.isnan(value(truth, np.zeros_like(truth)))
    assert math.isnan(value(truth, np.ones_like(truth)))


def test_only_1_and_0_are_taken(truth):
    rows = table(truth[:2])
    with pytest.raises(ValueError, match="Cardiomegaly of report 1 is -1, expected 1 or 0"):
        crg(rows, [rows[0], rows[1] | {"Cardiomegaly": -1}], CT_RATE_LABELS)
    with pytest.raises(ValueError, match="2 reports are compared with those of 1"):
        crg(rows, rows[:1], CT_RATE_LABELS)
