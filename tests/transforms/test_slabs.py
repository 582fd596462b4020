import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom

from common.transforms import slabs


@pytest.fixture
def volume():
    return torch.from_numpy(np.random.default_rng(0).normal(0, 300, (30, 5, 4))).float()


def test_average_of_an_integer_ratio_is_the_plain_mean(volume):
    expected = volume.reshape(6, 5, 5, 4).mean(1)
    torch.testing.assert_close(slabs.average_slabs(volume, 6), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_thin", [7, 12, 30, 31])
def test_slab_rows_are_weights(n_thin):
    matrix = torch.from_numpy(slabs.slab_matrix(7, n_thin))
    torch.testing.assert_close(matrix.sum(1), torch.ones(7, dtype=torch.float64))
    # every thin slice is used exactly once
    torch.testing.assert_close(matrix.sum(0), torch.full((n_thin,), 7 / n_thin, dtype=torch.float64))


def test_linear_equals_torch_interpolate(volume):
    thick = volume[:6]
    expected = F.interpolate(thick[None, None], size=(30, 5, 4), mode="trilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(slabs.interpolate_slices(thick, 30, "linear"), expected, atol=1e-3, rtol=0)


def test_nearest_repeats_each_slab(volume):
    assert torch.equal(slabs.interpolate_slices(volume[:6], 30, "nearest"), volume[:6].repeat_interleave(5, 0))


def test_cubic_reproduces_a_cubic_polynomial_between_the_outer_centres():
    thick = (torch.arange(12.0) ** 3)[:, None, None].expand(12, 2, 2)
    centres = (np.arange(60) + 0.5) / 5 - 0.5
    inside = (centres >= 0) & (centres <= 11)
    result = slabs.interpolate_slices(thick, 60, "cubic")[:, 0, 0].numpy()
    np.testing.assert_allclose(result[inside], centres[inside] ** 3, atol=1e-2)


def test_cubic_equals_scipy_zoom_away_from_the_ends():
    thick = torch.sin(torch.arange(20) / 3)[:, None, None].expand(20, 2, 2)
    expected = zoom(thick.numpy(), (4, 1, 1), order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(slabs.interpolate_slices(thick, 80, "cubic")[16:-16], expected[16:-16], atol=1e-3)


@pytest.mark.parametrize("n_thin", [8, 9, 11, 16, 40, 43])
def test_projection_makes_slab_means_exact_and_is_idempotent(n_thin):
    rng = np.random.default_rng(1)
    thick = torch.from_numpy(rng.normal(0, 500, (8, 3, 3)))
    thin = torch.from_numpy(rng.normal(0, 500, (n_thin, 3, 3)))
    projected = slabs.project_to_measurement(thin, thick)
    assert slabs.consistency_error(projected, thick) < 1e-8
    torch.testing.assert_close(slabs.project_to_measurement(projected, thick), projected)


def test_projection_is_the_closest_consistent_volume():
    rng = np.random.default_rng(2)
    thick, thin = torch.from_numpy(rng.normal(size=(3, 1, 1))), torch.from_numpy(rng.normal(size=(10, 1, 1)))
    slab = slabs.slab_matrix(3, 10)
    # least-norm correction by an independent solver
    expected = thin.numpy().ravel() + np.linalg.lstsq(slab, thick.numpy().ravel() - slab @ thin.numpy().ravel())[0]
    np.testing.assert_allclose(slabs.project_to_measurement(thin, thick).numpy().ravel(), expected, atol=1e-10)


def test_projection_never_raises_the_error_against_the_truth(volume):
    thick, target = slabs.simulate_thick(volume, 5)
    linear = slabs.interpolate_slices(thick, 30)
    projected = slabs.project_to_measurement(linear, thick)
    assert (projected - target).square().mean() <= (linear - target).square().mean()


@pytest.mark.parametrize("n_thin", [20, 17])
def test_integer_rounding_keeps_slab_means(n_thin):
    rng = np.random.default_rng(3)
    thick = torch.from_numpy(rng.integers(-1000, 1000, (5, 6, 6))).double()
    thin = slabs.project_to_measurement(torch.from_numpy(rng.normal(0, 400, (n_thin, 6, 6))), thick)
    rounded = slabs.round_keeping_slab_means(thin)
    assert rounded.dtype == torch.int16
    assert slabs.consistency_error(rounded.double(), thick) <= 0.5
    assert (rounded - thin).abs().max() <= 1.0


def test_slice_counts_cover_the_same_extent():
    assert slabs.slices_for_spacing(50, 5.0, 1.0) == 250
    assert slabs.slices_for_spacing(64, 5.0, 1.0) == 320
    with pytest.raises(ValueError, match="coarser"):
        slabs.slices_for_spacing(50, 1.0, 5.0)
    with pytest.raises(ValueError, match="positive"):
        slabs.slices_for_spacing(50, 1.0, 0.0)


def test_affine_keeps_both_outer_faces():
    rng = np.random.default_rng(4)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4))
    thin = slabs.affine_of_slices(affine, 6, 25)
    for thick_face, thin_face in ((-0.5, -0.5), (5.5, 24.5)):
        np.testing.assert_allclose(affine @ [thick_face, 2, 3, 1], thin @ [thin_face, 2, 3, 1])


def test_simulated_thick_drops_the_remainder(volume):
    thick, kept = slabs.simulate_thick(volume, 4)
    assert thick.shape[0] == 7 and kept.shape[0] == 28
    with pytest.raises(ValueError, match="at least 2"):
        slabs.simulate_thick(volume, 20)


def test_ratio_condition():
    torch.testing.assert_close(slabs.ratio_condition(5.0, 1.0), torch.tensor([math.log2(5), math.log2(5), 0.0]))
    torch.testing.assert_close(slabs.ratio_condition(3.0, 1.5), torch.tensor([1.0, math.log2(3), math.log2(1.5)]))
    for thick, thin in ((1.0, 5.0), (1.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="expected 0 < thin <= thick"):
            slabs.ratio_condition(thick, thin)
