import math

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine

from common.handlers.engine_state import iteration_losses
from common.losses.bce_focal import MaskedBCEFocalLoss
from tests.processes import run_together

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


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 0.99, 1.0, 2.0])
def test_a_confident_right_answer_has_no_gradient(gamma):
    """A bug: with gamma below 1 the power has an infinite slope at 0, and the gradient was NaN."""
    logits = torch.tensor([[200.0, -200.0, 40.0, 0.0]], requires_grad=True)
    loss = MaskedBCEFocalLoss(gamma=gamma)
    loss(logits, torch.tensor([[1.0, 0.0, 1.0, 1.0]])).backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 3] < 0
    assert logits.grad[0, :3].abs().max() < 1e-10
    by_hand = focal_by_hand(0.0, 1, 0.25, gamma) / 4
    assert loss.parts["focal"].item() == pytest.approx(by_hand, rel=1e-5)


def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma is -1, expected 0 or more"):
        MaskedBCEFocalLoss(gamma=-1)


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
    assert engine.state.output["bce_loss"].item() == pytest.approx(math.log(2))
    assert iteration_losses(engine).keys() == {"loss", "bce_loss", "focal_loss"}  # a bug: the history had the sum alone


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"target has shape \(2, 4\), expected the logits' \(2, 3\)"):
        MaskedBCEFocalLoss()(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="2 class weights for 3 labels"):
        MaskedBCEFocalLoss(class_weights=[1, 1])(torch.zeros(2, 3), torch.zeros(2, 3))


def _gradients(rank, folder):
    """One of two processes, which know different numbers of labels."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", world_size=2, rank=rank)
    logits, target = torch.load(f"{folder}/cases.pt", weights_only=True)
    x = torch.nn.Parameter(logits)
    loss = MaskedBCEFocalLoss()
    mine = slice(3 * rank, 3 * rank + 3)
    loss(x[mine], target[mine]).backward()
    with torch.no_grad():
        if rank == 0:  # a validation of one process alone waits for nobody
            loss(x, target)
    torch.save(x.grad, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_all_their_cases(tmp_path):
    """A bug: each process took its own mean, so that labels counted more where fewer were known."""
    logits, target = torch.randn(6, 4), torch.randint(0, 2, (6, 4)).float()
    target[0:3, 1:] = target[4, 0] = float("nan")
    torch.save((logits, target), tmp_path / "cases.pt")
    run_together(_gradients, 2, str(tmp_path))
    mean = sum(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)) / 2
    x = torch.nn.Parameter(logits)
    MaskedBCEFocalLoss()(x, target).backward()
    torch.testing.assert_close(mean, x.grad)
