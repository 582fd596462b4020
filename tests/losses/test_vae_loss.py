import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from common.losses.vae_loss import VAELoss, kl_divergence


def test_kl_against_torch_distributions():
    torch.manual_seed(0)
    mu, sigma = torch.randn(3, 4, 2, 2, 2), torch.rand(3, 4, 2, 2, 2) + 0.1
    expected = reference_kl(Normal(mu, sigma), Normal(torch.zeros(()), torch.ones(()))).sum((1, 2, 3, 4)).mean()
    torch.testing.assert_close(kl_divergence(mu, sigma), expected)
    assert kl_divergence(torch.zeros(1, 4, 1, 1, 1), torch.ones(1, 4, 1, 1, 1)) == 0


def test_sum_of_the_parts():
    image, mu, sigma = torch.rand(2, 1, 4, 4, 4), torch.randn(2, 4, 1, 1, 1), torch.ones(2, 4, 1, 1, 1)
    loss = VAELoss(kl_weight=0.1)
    found = loss((image + 0.25, mu, sigma), image)
    assert found.item() == pytest.approx(0.25 + 0.1 * 0.5 * mu.square().sum().item() / 2, rel=1e-5)
    assert float(loss.parts["l1_loss"]) == pytest.approx(0.25, rel=1e-5)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4, 4\), expected the image's \(1, 1, 8, 4, 4\)"):
        VAELoss()((torch.zeros(1, 1, 4, 4, 4), torch.zeros(1), torch.ones(1)), torch.zeros(1, 1, 8, 4, 4))
