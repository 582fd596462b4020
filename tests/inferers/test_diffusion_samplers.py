import math

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import nn

from common.inferers.autocast import AutocastInferer
from common.inferers.diffusion_samplers import DDIMSampler, RFlowSampler, SamplingInferer
from common.networks.slice_unet import SliceUNet

SHAPE = (2, 4, 3, 4, 5)
CONDITION = torch.tensor([[2.3, 2.3, 0.0]])


def thick():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))


def cosine_alphas():
    """Nichol and Dhariwal, formula (17), with betas of at most 0.999."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


class Oracle:
    """A perfect predictor for data that is x0 with probability 1."""

    def __init__(self, x0, kind):
        self.x0, self.kind, self.seen = x0.double(), kind, []

    def __call__(self, x, timesteps, spacing_tensor):
        noisy, given = x.double().split(4, dim=1)
        assert torch.equal(given.float(), thick()) and spacing_tensor.shape == (2, 3)
        t = int(timesteps[0])
        assert (timesteps == t).all()
        self.seen.append((t, noisy))
        if self.kind == "flow":
            return (self.x0 - (noisy - (1 - t / 1000) * self.x0) / (t / 1000)).float()
        alpha = cosine_alphas()[t]
        noise = (noisy - alpha**0.5 * self.x0) / (1 - alpha) ** 0.5
        outputs = {
            "epsilon": noise,
            "sample": self.x0,
            "v_prediction": alpha**0.5 * noise - (1 - alpha) ** 0.5 * self.x0,
        }
        return outputs[self.kind].float()


@pytest.mark.parametrize("steps", [1, 20, 50])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample", "flow"])
def test_a_perfect_predictor_gives_x0(kind, steps):
    x0 = 3 * torch.randn(SHAPE)
    sampler = RFlowSampler(steps) if kind == "flow" else DDIMSampler(steps, prediction_type=kind)
    oracle = Oracle(x0, kind)
    found = sampler(oracle, thick(), CONDITION, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32 and len(oracle.seen) == steps
    # From almost pure noise epsilon says little: one step divides rounding by sqrt(alpha_999) = 5e-5.
    torch.testing.assert_close(found, x0, atol=5e-2 if kind == "epsilon" and steps == 1 else 1e-4, rtol=0)


def levels(sampler, monai=False):
    """How far each noise level that the network is told differs from the one that its input has."""
    x0 = torch.ones(SHAPE)
    oracle = Oracle(x0, "v_prediction")
    if monai:
        scheduler = DDIMScheduler(1000, "cosine", clip_sample=False, prediction_type="v_prediction")
        scheduler.set_timesteps(sampler.steps)
        sampler.scheduler = scheduler
    sampler(oracle, thick(), CONDITION, 0)
    noise = oracle.seen[0][1]  # at t = 999, where sqrt(alpha) is 5e-5
    alphas = cosine_alphas()
    return max((x - alphas[t] ** 0.5 * x0 - (1 - alphas[t]) ** 0.5 * noise).abs().max() for t, x in oracle.seen)


def test_the_network_is_told_the_noise_level_that_its_input_has():
    assert levels(DDIMSampler(20)) < 1e-3
    assert levels(DDIMSampler(20), monai=True) > 0.05, "MONAI has mended its timesteps; ours can go"


@pytest.mark.parametrize("steps", [20, 50])
def test_gaussian_data_against_the_closed_form(steps):
    """For x0 ~ N(0, s^2) the best predictor is linear, so the sample is the noise times a product of known factors."""
    s, alphas = 0.5, cosine_alphas()

    def predictor(x, timesteps, spacing_tensor):
        alpha = alphas[int(timesteps[0])]
        gain = math.sqrt(alpha * (1 - alpha)) * (1 - s**2) / (alpha * s**2 + 1 - alpha)
        return gain * x[:, :4]

    found = DDIMSampler(steps)(predictor, thick(), CONDITION, torch.Generator().manual_seed(3))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    factor = 1.0
    for t in range(999, -1, -1000 // steps):
        a, b = alphas[t], alphas[t - 1000 // steps] if t >= 1000 // steps else 1.0
        variance = a * s**2 + 1 - a
        clean, eps = math.sqrt(a) * s**2 / variance, math.sqrt(1 - a) / variance
        factor *= math.sqrt(b) * clean + math.sqrt(1 - b) * eps
    torch.testing.assert_close(found, (factor * noise.double()).float(), atol=1e-5, rtol=1e-5)
    assert abs(factor / s - 1) < 3 / steps  # the exact flow scales the noise to the spread of the data


def test_scheduler_timesteps_and_divisors():
    scheduler = DDIMSampler(20).scheduler
    assert scheduler.timesteps.tolist() == list(range(999, 0, -50))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), cosine_alphas(), atol=1e-6)
    for steps, nearest in ((30, "25 and 40"), (0, "1"), (1001, "1000")):
        with pytest.raises(ValueError, match=f"nearest that do are {nearest}$"):
            DDIMSampler(steps)


def test_training_noise_uses_the_same_levels():
    training = DDPMScheduler(1000, "cosine", prediction_type="v_prediction", clip_sample=False)
    assert torch.equal(training.alphas_cumprod, DDIMSampler(20).scheduler.alphas_cumprod)


def test_rectified_flow_convention_of_monai():
    scheduler, x0, noise = RFlowScheduler(), torch.randn(SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(scheduler.add_noise(x0, noise, torch.tensor([1000, 1000])), noise)
    torch.testing.assert_close(scheduler.add_noise(x0, noise, torch.tensor([0, 0])), x0)
    assert RFlowSampler(20).timesteps(x0) == list(range(1000, 0, -50))


def test_transformed_timesteps_stay_longer_at_high_noise_and_still_arrive():
    x0 = torch.randn(SHAPE)
    sampler = RFlowSampler(20, use_timestep_transform=True, base_img_size_numel=8)
    timesteps = sampler.timesteps(x0)
    assert timesteps[0] == 1000 and timesteps[10] > 500 and sorted(timesteps, reverse=True) == timesteps
    found = sampler(Oracle(x0, "flow"), thick(), CONDITION, 0)
    torch.testing.assert_close(found, x0, atol=1e-4, rtol=0)


def tiny_unet():
    torch.manual_seed(0)
    unet = SliceUNet(
        num_channels=(8, 8),
        num_res_blocks=(1, 1),
        attention_levels=(False, True),
        num_head_channels=(0, 8),
        norm_num_groups=4,
    )
    for parameter in unet.parameters():  # the zero-initialised layers too, so that the condition counts
        nn.init.normal_(parameter, std=0.1)
    return unet.train()


@pytest.mark.parametrize("sampler", [DDIMSampler(2), RFlowSampler(2)])
def test_seeds_condition_and_mode(sampler):
    unet, latent = tiny_unet(), thick()
    found = sampler(unet, latent, CONDITION, 7)
    assert unet.training and not found.requires_grad
    assert torch.equal(found, sampler(unet, latent, CONDITION, torch.Generator().manual_seed(7)))
    assert not torch.equal(found, sampler(unet, latent, CONDITION, 8))
    assert not torch.equal(found, sampler(unet, latent, CONDITION + 1, 7))
    assert torch.equal(found, SamplingInferer(sampler, 7)(latent, unet, spacing_tensor=CONDITION))


def test_a_batch_of_samples_equals_single_ones():
    unet, latent = tiny_unet(), thick()[:1]
    both = DDIMSampler(2)(unet, latent.expand(2, -1, -1, -1, -1), CONDITION, 0)
    assert not torch.equal(both[0], both[1])
    torch.testing.assert_close(both[:1], DDIMSampler(2)(unet, latent, CONDITION, 0), atol=1e-5, rtol=1e-5)


def test_inferers_around_the_unet():
    unet, latent = tiny_unet(), thick()[:1]
    plain = DDIMSampler(2)(unet, latent, CONDITION, 0)
    half = DDIMSampler(2, inferer=AutocastInferer("bfloat16"))(unet, latent, CONDITION, 0)
    assert half.dtype == torch.float32 and 0 < (half - plain).abs().max() < 0.1
    window = SlidingWindowInferer(roi_size=SHAPE[2:], sw_batch_size=1)
    assert torch.allclose(DDIMSampler(2, inferer=window)(unet, latent, CONDITION, 0), plain, atol=1e-5)


def test_progress_bar(capsys):
    DDIMSampler(2, progress=True)(tiny_unet(), thick(), CONDITION)
    assert "2/2" in capsys.readouterr().err
