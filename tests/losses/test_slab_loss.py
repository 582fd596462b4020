import pytest
import torch

from common.losses.slab_loss import SlabLoss


def test_is_the_relative_squared_error_inside_the_window():
    base = torch.tensor([0.0, 0.5, 0.9, -0.9]).view(1, 4, 1, 1)
    truth = torch.tensor([0.1, 0.5, 3.0, -1.02]).view(1, 4, 1, 1)
    residual = torch.tensor([0.2, 0.0, 0.4, -0.05]).view(1, 4, 1, 1)
    error = (0.1**2 + 0 + 0 + 0.05**2) / 4  # 1.3 and 3.0 are both clipped to 1
    of_base = (0.1**2 + 0 + 0.1**2 + 0.1**2) / 4
    loss = SlabLoss(floor=0.02)(residual, torch.stack([base, truth], 1))
    assert loss.item() == pytest.approx(error / (of_base**0.5 + 0.02), rel=1e-5)


def test_every_patch_is_weighted_by_itself():
    residual, target = torch.randn(3, 5, 4, 4) / 10, torch.randn(3, 2, 5, 4, 4) / 10
    loss = SlabLoss()
    alone = [loss(residual[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(residual, target), torch.stack(alone).mean())


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"target has shape \(1, 5, 4, 4\)"):
        SlabLoss()(torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 4, 4))
