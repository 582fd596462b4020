import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from common.metrics.image_quality import histogram_distance, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.integers(-1200, 1200, (4, 20, 24)).astype(np.float32)
    return torch.from_numpy(target + rng.normal(0, 60, target.shape).astype(np.float32)), torch.from_numpy(target)


def scaled(hu, low, high):
    return (hu.clamp(low, high).double().numpy() - low) / (high - low)


@pytest.mark.parametrize(("window", "low", "high"), [("wide", -1000, 1000), ("lung", -1350, 150), ("bone", -450, 1050)])
def test_equal_to_scikit_image(pair, window, low, high):
    a, b = (scaled(x, low, high) for x in pair)
    assert psnr(*pair, window) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-5)
    expected = np.mean([structural_similarity(p, t, win_size=7, data_range=1.0) for p, t in zip(a, b, strict=True)])
    assert ssim(*pair, window) == pytest.approx(expected, abs=1e-6)


def test_histogram_distance_is_wasserstein_1(pair):
    a, b = (x.clamp(-1000, 1000).numpy().ravel() for x in pair)
    assert histogram_distance(*pair) == pytest.approx(wasserstein_distance(a, b), abs=0.5)


def test_a_shift_moves_the_histogram_by_itself():
    target = torch.linspace(-500, 500, 2000)
    assert histogram_distance(target + 25, target) == pytest.approx(25, abs=0.1)


def test_identical_volumes(pair):
    assert psnr(pair[1], pair[1]) == math.inf
    assert ssim(pair[1], pair[1]) == pytest.approx(1)
    assert histogram_distance(pair[1], pair[1]) == 0
