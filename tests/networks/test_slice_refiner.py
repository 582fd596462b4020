import pytest
import torch
from scipy.integrate import quad

from common.networks.slice_refiner import SliceRefiner, slab_cosines
from common.transforms.slabs import average_slabs, interpolate_slices, project_to_measurement

SMALL = {"context": 3, "channels": (8, 12), "blocks": (1, 1), "n_cosines": 4, "sample_channels": 4}


@pytest.fixture
def refiner():
    """A small refiner whose zero-initialised layers are not zero."""
    torch.manual_seed(0)
    network = SliceRefiner(**SMALL)
    for conv in (network.body.head, network.sample_head.out):
        torch.nn.init.normal_(conv.weight, std=0.05)
    return network.eval()


def thick_hu(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 300


@pytest.mark.parametrize(("n_thick", "n_thin"), [(2, 10), (3, 7), (4, 4), (1, 3)])
def test_cosines_are_means_over_thin_slices(n_thick, n_thin):
    matrix = torch.from_numpy(slab_cosines(n_thick, n_thin, 3))
    for thin in range(n_thin):
        low, high = thin * n_thick / n_thin, (thin + 1) * n_thick / n_thin
        for slab in range(n_thick):
            for k in range(3):

                def wave(position, slab=slab, k=k):
                    inside = slab <= position < slab + 1
                    return torch.cos(torch.tensor((k + 1) * torch.pi * (position - slab))).item() if inside else 0.0

                expected = quad(wave, low, high, points=[p for p in (slab, slab + 1) if low < p < high] or None)[0]
                assert matrix[thin, slab * 3 + k] == pytest.approx(expected / (high - low), abs=1e-5)


def test_cosines_without_more_thin_than_thick_slices_are_refused():
    with pytest.raises(ValueError, match="3 thin slices for 4 thick ones"):
        slab_cosines(4, 3, 2)


@pytest.mark.parametrize("ratio", [2, 5, 9])
def test_residual_has_no_slab_means(refiner, ratio):
    thick = thick_hu(2, 4, 16, 24) / 1000
    base = torch.zeros(2, 2 * ratio, 16, 24)
    for sample in (None, torch.randn_like(base)):
        residual = refiner(thick, base, sample)
        assert residual.shape == base.shape
        assert residual.abs().max() > 0.01
        assert average_slabs(residual, 2).abs().max() < 1e-5


def test_untrained_refiner_is_the_projected_linear_interpolation():
    thick = thick_hu(5, 16, 16)
    thin = SliceRefiner(**SMALL).refine(thick, 12, sample=thick_hu(12, 16, 16), tta=True)
    expected = project_to_measurement(interpolate_slices(thick, 12), thick)
    torch.testing.assert_close(thin, expected, atol=1e-2, rtol=1e-5)


def test_no_sample_equals_sample_equal_to_base(refiner):
    thick, base = thick_hu(1, 5, 8, 8) / 1000, thick_hu(1, 9, 8, 8) / 1000
    assert torch.equal(refiner(thick, base, base), refiner(thick, base))
    assert not torch.allclose(refiner(thick, base, base + 0.1 * torch.randn_like(base)), refiner(thick, base))


@pytest.mark.parametrize("n_thin", [14, 17, 33])
def test_refine_is_forward_whatever_the_chunks(refiner, monkeypatch, n_thin):
    monkeypatch.setattr("common.networks.slice_refiner._computes_in_bfloat16", lambda device: False)
    thick = thick_hu(7, 16, 12)
    sample = thick_hu(n_thin, 16, 12)
    base = project_to_measurement(interpolate_slices(thick, n_thin), thick)
    padded = torch.cat([thick[:1], thick, thick[-1:]])[None] / 1000
    expected = base + 1000 * refiner(padded, base[None] / 1000, sample[None] / 1000)[0]
    for pixels in (1, 3 * 16 * 12, 1 << 20):
        monkeypatch.setattr("common.networks.slice_refiner._PIXELS_AT_ONCE", pixels)
        torch.testing.assert_close(refiner.refine(thick, n_thin, sample=sample), expected, atol=0.05, rtol=1e-4)


def test_sizes_that_are_no_multiple_are_padded(refiner):
    assert refiner.multiple == 4
    thin = refiner.refine(thick_hu(3, 13, 18), 10)
    assert thin.shape == (10, 13, 18)
    assert thin.isfinite().all()


def test_tta_commutes_with_flips(refiner, monkeypatch):
    monkeypatch.setattr("common.networks.slice_refiner._computes_in_bfloat16", lambda device: False)
    thick = thick_hu(4, 8, 8)
    thin = refiner.refine(thick, 11, tta=True)
    assert not torch.allclose(thin, refiner.refine(thick, 11), atol=1)
    for axis in range(3):
        torch.testing.assert_close(
            refiner.refine(thick.flip(axis), 11, tta=True).flip(axis), thin, atol=0.02, rtol=1e-4
        )


def test_learns_a_fixed_detail_at_two_ratios():
    torch.manual_seed(0)
    network = SliceRefiner(**SMALL)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        ratio = (3, 5)[step % 2]
        thick = torch.rand(4, 3, 8, 8) - 0.5
        ramp = torch.arange(ratio).sub((ratio - 1) / 2).div(ratio).view(1, -1, 1, 1)
        residual = network(thick, torch.zeros(4, ratio, 8, 8))
        losses.append((residual - ramp * (thick[:, 2:] - thick[:, :1])).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


def test_default_size():
    assert sum(p.numel() for p in SliceRefiner().parameters()) <= 1_500_000


def test_even_context_is_refused():
    with pytest.raises(ValueError, match="context is 4"):
        SliceRefiner(context=4)


def test_whole_volumes_in_one_piece_equal_the_inferer():
    torch.manual_seed(0)
    network = SliceRefiner(3, [8, 16], [1, 1])
    torch.nn.init.normal_(network.body.head.weight, std=0.05)
    thick = 300 * torch.randn(2, 5, 10, 13)
    found = network.thin(thick, 4)
    for volume, expected in zip(found, thick, strict=True):
        refined = project_to_measurement(network.refine(expected, 20), expected)
        torch.testing.assert_close(volume, refined, atol=8.0, rtol=0)  # bfloat16 there
        torch.testing.assert_close(average_slabs(volume, 5), expected, atol=1e-3, rtol=0)
    found.square().sum().backward()
    assert network.body.stem.weight.grad.abs().sum() > 0


def test_its_definition_builds_it_again():
    network = SliceRefiner(**SMALL)
    again = SliceRefiner(**network.definition())
    assert again.definition() == network.definition()
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
