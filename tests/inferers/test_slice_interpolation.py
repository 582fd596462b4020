import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from common.inferers.slice_interpolation import SliceInterpolationInferer
from common.networks.slice_interpolator import SliceInterpolator
from common.transforms.slabs import average_slabs, consistency_error, interpolate_slices


class FakeRefiner(nn.Module):
    """Adds a constant, so that what the projection removes is known."""

    uses_samples = True

    def refine(self, thick, n_thin, sample=None, tta=False):
        return interpolate_slices(thick, n_thin) + 7 if sample is None else sample


@pytest.fixture
def thick():
    hu = torch.from_numpy(np.random.default_rng(0).normal(0, 300, (1, 1, 6, 8, 8))).float()
    affine = torch.diag(torch.tensor([5.0, 0.8, 0.7, 1.0], dtype=torch.float64))
    return MetaTensor(hu, affine=affine[None])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic", "refiner"])
@pytest.mark.parametrize("target", [{"target_spacing": 1.0}, {"target_slices": 17}, {"target_ratio": 3}])
def test_covers_the_same_millimetres_and_keeps_the_acquired_slices(thick, mode, target):
    out = SliceInterpolationInferer(mode, **target)(thick, SliceInterpolator(refiner=FakeRefiner()))
    n_thin = {"target_spacing": 30, "target_slices": 17, "target_ratio": 18}[next(iter(target))]
    assert out.shape == (1, 1, n_thin, 8, 8)
    assert float(np.linalg.norm(out.affine[0, :3, 0])) == pytest.approx(30 / n_thin)
    assert consistency_error(torch.as_tensor(out[0, 0]), torch.as_tensor(thick[0, 0])) < 1e-2


def test_without_projection_the_refiner_is_returned_as_it_is(thick):
    inferer = SliceInterpolationInferer("refiner", target_ratio=3, project=False)
    out = inferer(thick, SliceInterpolator(refiner=FakeRefiner()))
    linear = interpolate_slices(torch.as_tensor(thick[0, 0]), 18)
    torch.testing.assert_close(torch.as_tensor(out[0, 0]), linear + 7)


class FakeVAE(nn.Module):
    """Latent = 4-fold average; decoding repeats it."""


def test_diffusion_samples_give_mean_and_standard_deviation(thick, monkeypatch):
    class FakeChunkedVAE:
        def __init__(self, vae, **kwargs):
            pass

        def encode_volume(self, x):
            return x[:, :, ::4, ::4, ::4].expand(-1, 4, -1, -1, -1), None

        def decode(self, z, shape):
            return torch.full((1, 1, *shape), float(z.mean()))

    monkeypatch.setattr("common.inferers.slice_interpolation.ChunkedVAE", FakeChunkedVAE)
    seen = []

    def sampler(unet, latent, condition, generator):
        seen.append(generator.initial_seed())
        np.testing.assert_allclose(condition[0], np.log2([3, 5, 5 / 3]), rtol=1e-5)
        return torch.rand((), generator=generator) * torch.ones_like(latent)

    inferer = SliceInterpolationInferer(
        "diffusion", target_ratio=3, n_samples=3, seed=11, sampler=sampler, project=False
    )
    out = inferer(thick, SliceInterpolator(FakeVAE(), nn.Identity(), FakeRefiner(), scale_factor=2.0))
    assert seen == [11, 12, 13]
    values = [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() / 2 * 2000 - 1000 for seed in seen]
    assert out.shape[1] == 2
    assert out[0, 0].mean().item() == pytest.approx(np.mean(values), abs=0.1)
    assert out[0, 1].mean().item() == pytest.approx(np.std(values, ddof=1), rel=1e-3)


def test_a_refiner_that_never_saw_samples_is_refused(thick):
    refiner = FakeRefiner()
    refiner.uses_samples = False
    inferer = SliceInterpolationInferer("diffusion", target_ratio=3, sampler=lambda *a: None)
    with pytest.raises(ValueError, match="--refine_samples false"):
        inferer(thick, SliceInterpolator(FakeVAE(), nn.Identity(), refiner))


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"mode": "sinc", "target_ratio": 2}, "'sinc'"),
        ({}, "exactly one"),
        ({"target_ratio": 2, "target_slices": 9}, "exactly one"),
        ({"mode": "refiner", "target_ratio": 2, "n_samples": 4}, "n_samples is 4"),
    ],
)
def test_wrong_settings_are_named(kwargs, what):
    with pytest.raises(ValueError, match=what):
        SliceInterpolationInferer(**kwargs)


def test_fewer_slices_than_acquired_are_refused(thick):
    with pytest.raises(ValueError, match="target_slices is 3"):
        SliceInterpolationInferer("linear", target_slices=3)(thick, SliceInterpolator())


def test_slab_means_of_nearest_need_no_projection(thick):
    out = SliceInterpolationInferer("nearest", target_ratio=4, project=False)(thick, SliceInterpolator())
    torch.testing.assert_close(average_slabs(torch.as_tensor(out[0, 0]), 6), torch.as_tensor(thick[0, 0]))
