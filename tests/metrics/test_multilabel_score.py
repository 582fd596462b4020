import json
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler

from common.metrics.multilabel import multilabel_scores
from common.metrics.multilabel_score import MultilabelScore
from common.metrics.segmentation import OverlapScore
from tests.processes import run_together

NAMES = ("Edema", "Fracture", "Pneumonia")


def problem(n=41):
    rng = np.random.default_rng(0)
    truth = (rng.random((n, 3)) < 0.4).astype(float)
    probabilities = np.clip(0.3 * truth + 0.6 * rng.random((n, 3)), 0, 1)
    return probabilities, np.where(rng.random((n, 3)) < 0.2, np.nan, truth)


def test_batches_give_what_all_cases_at_once_do():
    probabilities, labels = problem()
    score = MultilabelScore(NAMES)
    for rows in np.array_split(np.arange(41), 6):
        score.update(torch.tensor(probabilities[rows]), torch.tensor(labels[rows]))
    expected = multilabel_scores(probabilities, labels, NAMES, draws=30, seed=2).to_dict()
    assert score.compute(draws=30, seed=2).to_dict() == expected
    score.reset()
    with pytest.raises(ValueError, match="0 cases"):
        score.compute()


def test_a_case_dealt_twice_counts_once():
    probabilities, labels = problem()
    once, twice, blind = MultilabelScore(NAMES), MultilabelScore(NAMES), MultilabelScore(NAMES)
    once.update(probabilities, labels)
    order = np.r_[np.random.default_rng(0).permutation(41), 3, 3, 3, 3, 3, 3]
    twice.update(probabilities[order], labels[order], cases=order)
    blind.update(probabilities[order], labels[order])
    assert twice.compute(draws=20).to_dict() == once.compute(draws=20).to_dict()
    assert blind.aggregate() != once.aggregate()


def test_what_cannot_be_accumulated_is_refused():
    probabilities, labels = problem(4)
    score = MultilabelScore(NAMES)
    with pytest.raises(ValueError, match="batch"):
        score.update(probabilities, labels[:3])
    with pytest.raises(ValueError, match="index from 0"):
        score.update(probabilities, labels, cases=[0, 1, 2, -1])
    score.update(probabilities, labels, cases=[0, 1, 2, 3])
    score.update(probabilities[:1] / 2, labels[:1], cases=[0])
    with pytest.raises(ValueError, match="Case 0 was added twice"):
        score.compute()
    score.reset()
    score.update(probabilities, labels, cases=[0, 1, 2, 3])
    score.update(probabilities, labels)
    with pytest.raises(ValueError, match="without"):
        score.compute()


@pytest.mark.filterwarnings("ignore:Key metric is not a scalar")
@pytest.mark.parametrize("metric", [None, "auroc_macro"])
def test_as_metric_of_a_monai_evaluator(metric):
    probabilities, labels = problem()
    batches = [
        {"image": torch.tensor(probabilities[rows]), "label": torch.tensor(labels[rows])}
        for rows in np.array_split(np.arange(41), 4)
    ]
    handler = IgniteMetricHandler(
        MultilabelScore(NAMES, metric),
        output_transform=lambda output: tuple([item[key] for item in output] for key in ("pred", "label")),
    )
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), batches, torch.nn.Identity(), key_val_metric={"score": handler}, decollate=True
    )
    evaluator.run()
    expected = multilabel_scores(probabilities, labels, NAMES, draws=0).summary()
    assert evaluator.state.metrics["score"] == (expected if metric is None else expected[metric])
    if metric is None:
        assert evaluator.state.metrics["auroc_macro"] == expected["auroc_macro"]


def test_an_undefined_metric_is_nan_for_a_handler_and_absent_from_a_summary():
    score = MultilabelScore(NAMES, "auroc_macro")
    score.update(np.full((3, 3), 0.5), np.ones((3, 3)))
    assert math.isnan(score.aggregate())
    assert "auroc_macro" not in score.compute(draws=0).summary()


SHARES = [
    [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 0]],  # the last process repeats a case to be as long as the first
    [list(range(11)), []],  # or has none
]


def one_of_two(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    probabilities, labels = problem(11)
    score, masks = MultilabelScore(NAMES), OverlapScore(("Consolidation",))
    results = []
    for shares in SHARES:
        for case in shares[rank]:
            score.update(probabilities[[case]], labels[[case]], cases=[case])
            mask = torch.arange(8).reshape(1, 1, 2, 2, 2)
            masks.update(mask > case, mask > 3, cases=[case])
        results.append({"labels": score.compute(draws=20).to_dict(), "masks": masks.compute(draws=20).to_dict()})
        score.reset()
        masks.reset()
    (folder / f"rank{rank}").write_text(json.dumps(results, allow_nan=False))
    dist.destroy_process_group()


def test_two_processes_give_what_one_does(tmp_path):
    run_together(one_of_two, 2, tmp_path)
    probabilities, labels = problem(11)
    masks = OverlapScore(("Consolidation",))
    for case in range(11):
        mask = torch.arange(8).reshape(1, 1, 2, 2, 2)
        masks.update(mask > case, mask > 3)
    one = {
        "labels": multilabel_scores(probabilities, labels, NAMES, draws=20).to_dict(),
        "masks": masks.compute(draws=20).to_dict(),
    }
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}").read_text()) == [json.loads(json.dumps(one))] * 2
