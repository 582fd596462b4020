import numpy as np
import pytest
from sklearn import metrics as sk

from common.metrics.weighted_labels import LabelCells

ORACLES = {
    "auroc": sk.roc_auc_score,
    "auprc": sk.average_precision_score,
    "brier": sk.brier_score_loss,
    "f1@0.5": lambda y, p, sample_weight: sk.f1_score(y, p >= 0.5, sample_weight=sample_weight),
    "specificity@0.5": lambda y, p, sample_weight: sk.recall_score(
        y, p >= 0.5, pos_label=0, sample_weight=sample_weight
    ),
}


@pytest.mark.parametrize("decimals", [16, 1])
@pytest.mark.parametrize("metric", ORACLES)
def test_weights_are_scikit_learns_sample_weight(metric, decimals):
    rng = np.random.default_rng(0)
    labels = rng.choice([0.0, 1.0, np.nan], (80, 2))
    probabilities = rng.random((80, 2)).round(decimals)
    weights = np.stack([rng.integers(0, 3, 80), rng.random(80)], axis=1)
    cells = LabelCells(probabilities, labels, ("a", "b"), {"0.5": {"a": 0.5, "b": 0.5}})
    ours = cells.weighted(weights)[metric]
    for draw in range(2):
        for row, columns in enumerate(([0], [1], [0, 1])):
            case, column = np.nonzero(~np.isnan(labels[:, columns]))
            y, p = labels[:, columns][case, column], probabilities[:, columns][case, column]
            expected = ORACLES[metric](y, p, sample_weight=weights[case, draw])
            assert ours[row, draw] == pytest.approx(expected, abs=1e-9)


def test_a_weighting_without_one_of_the_classes_has_no_area():
    cells = LabelCells(np.array([[0.2], [0.7], [0.4]]), np.array([[0.0], [1.0], [0.0]]), ("a",), {})
    weights = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.array_equal(cells.weighted(weights)["auroc"][0], [1, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(cells.weighted(weights)["auprc"][0], [1, np.nan, np.nan], equal_nan=True)
