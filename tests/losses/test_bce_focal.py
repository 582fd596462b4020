import math

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine

from common.losses.bce_focal import MaskedBCEFocalLoss

NAN = float("nan")


def focal_by_hand(logit, target, alpha, gamma):
    p = 1 / (1 + math.exp(-logit))
    p_t, alpha_t = (p, alpha) if target else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def test_is_the_weighted_sum_of_both():
    logits, target = torch.tensor([[1.5, -0.3], [-2.0, 0.7]]), torch.tensor([[1.0, 0.0], [1.0, NAN]])
    known = [(1.5, 1), (-0.3, 0), (-2.0, 1)]
    bce = sum(-math.log(1 / (1 + math.exp(-x if t else x))) for x, t in known) / 3
    focal = sum(focal_by_hand(x, t, 0.3, 1.5) for x, t in known) / 3
    loss = MaskedBCEFocalLoss(0.6, 0.4, alpha=0.3, gamma=1.5)
    assert loss(logits, target).item() == pytest.approx(0.6 * bce + 0.4 * focal, rel=1e-5)
    assert loss.parts["bce"].item() == pytest.approx(bce, rel=1e-5)
    assert loss.parts["focal"].item() == pytest.approx(focal, rel=1e-5)


def test_without_focal_it_is_pytorchs():
    logits, target = torch.randn(6, 4), torch.rand(6, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0])
    expected = F.binary_cross_entropy_with_logits(logits, target, weight=weights)
    torch.testing.assert_close(MaskedBCEFocalLoss(1, 0, class_weights=weights.tolist())(logits, target), expected)


def test_masked_labels_have_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    target = torch.ones(3, 4)
    target[:, 2] = NAN
    MaskedBCEFocalLoss()(logits, target).backward()
    assert (logits.grad[:, 2] == 0).all() and (logits.grad[:, [0, 1, 3]] != 0).all()


def test_nothing_known_is_zero_with_zero_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = MaskedBCEFocalLoss()(logits, torch.full((2, 3), NAN))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_confident_mistakes_stay_finite(dtype):
    logits = torch.tensor([[60.0, -60.0, 6e4 if dtype == torch.float16 else 1e30]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype):
        loss = MaskedBCEFocalLoss()(logits, torch.tensor([[0.0, 1.0, 1.0]], dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad.isfinite().all()
    # bce 60 twice, focal .75 * 60 and .25 * 60
    assert loss.item() == pytest.approx((0.7 * 120 + 0.3 * 60) / 3, rel=1e-3)


def test_attached_to_a_trainer_it_reports_its_parts():
    from monai.engines.utils import IterationEvents

    loss = MaskedBCEFocalLoss()

    def step(engine, _batch):
        engine.state.output = {"loss": loss(torch.zeros(2, 2), torch.ones(2, 2))}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    loss.attach(engine)
    engine.run([0])
    assert engine.state.output["bce"].item() == pytest.approx(math.log(2))


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"target has shape \(2, 4\), expected the logits' \(2, 3\)"):
        MaskedBCEFocalLoss()(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="2 class weights for 3 labels"):
        MaskedBCEFocalLoss(class_weights=[1, 1])(torch.zeros(2, 3), torch.zeros(2, 3))
