import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from common.losses.answer_loss import AnswerLoss, rare_label_weights


def test_a_mean_over_cases_weighed_by_them():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    target = {"said": torch.tensor([1, 2, 3, 4, 5]), "case": torch.tensor([0, 0, 1, 1, 1])}
    target["weight"] = torch.tensor([2.0, 0.5])
    each = F.cross_entropy(logits, target["said"], reduction="none")
    loss = AnswerLoss(2.5)
    expected = (2 * each[:2].sum() + 0.5 * each[2:].sum()) / (2 * 2.5)
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss.token_mean, each.mean())
    with pytest.raises(ValueError, match="mean_length is 0"):
        AnswerLoss(0)


def test_cases_with_a_rare_label_weigh_more_up_to_a_limit():
    rows = [{"Edema": 1.0}] * 90 + [{"Edema": 1.0, "Fracture": 1.0}] * 10 + [{}] * 10 + [{"Fracture": 0.0}] * 10
    weights = rare_label_weights(rows)
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert weights[95] / weights[0] == pytest.approx(3.0)  # sqrt(100 / 10) is above the limit of 3
    assert weights[105] == weights[0] == weights[115]
    assert rare_label_weights(rows, most=10)[95] / rare_label_weights(rows, most=10)[0] == pytest.approx(10**0.5)
