import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.losses.report_loss import ReportLoss, TokenLoss, agreement_loss, prior_loss, routing_loss

LABELS = torch.tensor([[3, 1, 2, -100, -100], [0, 4, 4, 1, 2]])


def logits(seed=0):
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_loss_is_pytorchs_sum_over_cases_and_length(smoothing):
    loss = TokenLoss(4.0, smoothing)
    found = loss(logits(), LABELS)
    expected = F.cross_entropy(logits().mT, LABELS, ignore_index=-100, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected / (2 * 4.0))
    plain = F.cross_entropy(logits().mT, LABELS, ignore_index=-100)
    torch.testing.assert_close(loss.token_mean, plain)


def test_batches_of_other_lengths_add_up_to_the_large_batch():
    """What accumulation and several processes rely on."""
    loss, whole = TokenLoss(4.0), logits().requires_grad_()
    loss(whole, LABELS).backward()
    parts = logits().requires_grad_()
    for i in range(2):
        (loss(parts[i : i + 1], LABELS[i : i + 1]) / 2).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_focal_factor():
    labels = torch.tensor([[1]])
    for p in (0.2, 0.9):
        two = torch.tensor([[[math.log(1 - p), math.log(p)]]])
        assert TokenLoss(1.0, 0.0, gamma=2.0)(two, labels).item() == pytest.approx(-((1 - p) ** 2) * math.log(p))


def test_routing_loss():
    routing = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]])
    regions = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    expected = (-(math.log(0.5) + math.log(0.25)) / 2 - math.log(0.8)) / 3
    assert routing_loss(routing, regions).item() == pytest.approx(expected)
    assert routing_loss(routing[2:], regions[2:]).item() == 0


def test_prior_loss_is_pytorchs_divergence():
    torch.manual_seed(0)
    attention = torch.rand(2, 3 + 2 * 4, 5, 6).flatten(2).softmax(-1).unflatten(-1, (5, 6))
    priors = torch.rand(2, 2, 30).mul(3).softmax(-1).unflatten(-1, (5, 6))
    read = attention[:, 3:].unflatten(1, (2, 4)).mean(2).flatten(2)
    expected = F.kl_div(priors.flatten(2).log(), read, reduction="none").sum(-1).mean()
    torch.testing.assert_close(prior_loss(attention, priors, 3), expected)
    same = priors.repeat_interleave(4, 1)
    assert prior_loss(same, priors, 0).item() == pytest.approx(0, abs=1e-6)


def test_agreement_loss():
    first, second = logits(), logits(1)
    assert agreement_loss(first, first, LABELS).item() == 0
    found = agreement_loss(first, second, LABELS)
    torch.testing.assert_close(found, agreement_loss(second, first, LABELS))
    p, q = first.softmax(-1), second.softmax(-1)
    each = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)) / 2
    torch.testing.assert_close(found, each[LABELS != -100].mean())


def test_settings_that_mean_nothing():
    with pytest.raises(ValueError, match="mean_length, label_smoothing and gamma are 0, 0.1 and 0.0"):
        TokenLoss(0)


def test_the_whole_is_the_weighted_sum_of_its_parts_and_names_them():
    torch.manual_seed(1)
    regions, tokens = torch.tensor([[True, False, False], [False, False, False]]), TokenLoss(4.0)
    attention = torch.rand(2, 1 + 3 * 2, 4).softmax(-1).unflatten(-1, (2, 2))
    priors, routing = torch.rand(2, 3, 4).softmax(-1).unflatten(-1, (2, 2)), torch.rand(2, 3).softmax(-1)
    findings, target = torch.randn(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    anatomy = SimpleNamespace(attention=attention, priors=priors, routing=routing)
    output = SimpleNamespace(logits=logits(), findings=findings, anatomy=anatomy)
    loss = ReportLoss(tokens, nn.BCEWithLogitsLoss(), 1, 0.5, 0.2, 0.1)
    found = loss(output, {"labels": LABELS, "findings": target, "regions": regions})
    expected = tokens(logits(), LABELS) + 0.5 * F.binary_cross_entropy_with_logits(findings, target)
    expected += 0.2 * routing_loss(routing, regions) + 0.1 * prior_loss(attention, priors, 1)
    torch.testing.assert_close(found, expected)
    assert list(loss.parts) == ["token_mean", "finding", "routing", "prior"]
    text = SimpleNamespace(logits=logits(), findings=None, anatomy=None)
    torch.testing.assert_close(loss(text, {"labels": LABELS}), tokens(logits(), LABELS))
    assert list(loss.parts) == ["token_mean"]


def test_two_passes_are_compared_with_each_other():
    twice = SimpleNamespace(logits=torch.cat([logits(0), logits(1)]), findings=None, anatomy=None)
    loss = ReportLoss(TokenLoss(4.0), nn.BCEWithLogitsLoss(), agreement_weight=2.0)
    labels = torch.cat([LABELS, LABELS])
    expected = TokenLoss(4.0)(twice.logits, labels) + 2 * agreement_loss(logits(0), logits(1), LABELS)
    torch.testing.assert_close(loss(twice, {"labels": labels}), expected)
    with pytest.raises(ValueError, match="does not hold every case twice"):
        loss(SimpleNamespace(logits=twice.logits[:3], findings=None, anatomy=None), {"labels": labels[:3]})
