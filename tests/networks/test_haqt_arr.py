import math

import numpy as np
import pytest
import torch

from common.data.virtual.body import REGION_ID
from common.data.virtual.patient import make_virtual_patient
from common.data.virtual.xray import optical_depth
from common.networks.haqt_arr import HAQTARR, REGIONS
from common.networks.weights import count_parameters

LUNGS = {
    "right lung": ("right upper lobe", "right middle lobe", "right lower lobe"),
    "left lung": ("left upper lobe", "left lower lobe"),
}
MEDIASTINUM = ("trachea", "aorta", "pulmonary artery", "superior vena cava", "oesophagus", "mediastinum")
SMALL = {"in_features": 12, "features": 20, "width": 16, "heads": 2, "dropout": 0.0}


def small(**changes):
    torch.manual_seed(0)
    return HAQTARR(**SMALL | changes)


def image(n=2, grid=(5, 6), seed=1):
    return torch.randn(n, math.prod(grid), SMALL["in_features"], generator=torch.Generator().manual_seed(seed))


def test_published_size():
    with torch.device("meta"):
        network, large = HAQTARR(), HAQTARR(global_queries=16, region_queries=8)
    assert 50e6 < count_parameters(network) < 61e6
    assert network.queries.shape == (8 + 7 * 4, 1024) and large.queries.shape == (16 + 7 * 8, 1024)


@pytest.mark.parametrize("grid", [(12, 12), (16, 16), (3, 7)])
def test_shapes_and_sums_on_any_grid(grid):
    found = small()(image(3, grid), grid)
    queries = 8 + len(REGIONS) * 4
    assert found.tokens.shape == (3, queries, 20)
    assert found.attention.shape == (3, queries, *grid) and found.priors.shape == (3, len(REGIONS), *grid)
    for sums in (found.routing.sum(1), found.attention.sum((2, 3)), found.priors.sum((2, 3))):
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_another_grid_has_the_same_weights():
    network = small()
    assert [p.shape for p in HAQTARR(**SMALL).parameters()] == [p.shape for p in network.parameters()]
    for grid in ((12, 12), (16, 16)):  # 384 and 512 pixels
        assert torch.isfinite(network(image(1, grid), grid).tokens).all()


@pytest.mark.parametrize("name", REGIONS)
def test_first_centres_are_where_virtual_patients_have_the_region(name):
    """Of a frontal X-ray, with the patient's right on the left of the image."""
    network, off = small(), []
    mine = network.centre_logit.sigmoid()[REGIONS.index(name)].detach().numpy()
    for seed in (70, 71, 72):
        patient = make_virtual_patient(seed, (48, 48, 56), (7.0, 5.3, 6.4))
        off.append(mine - projected_centre(patient, name))
    assert np.abs(np.mean(off, 0)).max() < 0.05


def projected_centre(patient, name):
    """(x, y) of a region's shadow; that of the angles lies between the lowest parts of both lungs."""
    if name == "costophrenic angles":
        return np.mean([centre(shadow(patient, names), 0.95) for names in LUNGS.values()], 0)
    return centre(shadow(patient, (LUNGS | {"mediastinum": MEDIASTINUM}).get(name, (name,))))


def shadow(patient, names, size=64):
    mask = np.isin(patient.regions, [REGION_ID[name] for name in names])
    voxel = np.asarray(patient.spacing) / patient.scale
    return optical_depth(np.where(mask, 0, -1000).astype(np.int16).T, voxel, "PA", size)


def centre(found, lowest=0.0):
    rows, columns = (np.mgrid[: len(found), : len(found)] + 0.5) / len(found)
    inside = found > found.max() / 20
    weights = np.where(rows >= np.quantile(rows[inside], lowest), found, 0)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


def test_priors_are_moved_for_each_image_and_stay_inside_it():
    network = small()
    before = network(image(), (5, 6))
    torch.testing.assert_close(before.centres, network.centre_logit.sigmoid().expand(2, -1, -1))  # not trained yet
    torch.nn.init.normal_(network.refine[-1].weight, std=30)
    moved = network(image(), (5, 6))
    assert (moved.centres[0] - moved.centres[1]).abs().max() > 0.1
    assert (moved.centres >= 0).all() and (moved.centres <= 1).all() and torch.isfinite(moved.tokens).all()


def test_a_prior_is_the_gaussian_of_its_centre_and_width():
    network, grid = small(), (9, 11)
    found = network(image(1, grid), grid)
    low, high = 0.02, 0.60
    width = low + (high - low) * network.width_logit.sigmoid()
    y, x = np.meshgrid((np.arange(9) + 0.5) / 9, (np.arange(11) + 0.5) / 11, indexing="ij")
    for r in range(len(REGIONS)):
        (cx, cy), (sx, sy) = found.centres[0, r].tolist(), width[r].tolist()
        expected = np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
        np.testing.assert_allclose(found.priors[0, r].detach(), expected / expected.sum(), rtol=1e-4)


def test_queries_of_a_region_read_where_its_prior_is():
    network, grid = small(), (8, 8)
    with torch.no_grad():
        network.strength.fill_(20.0)
    found = network(torch.zeros(1, 64, 12), grid)
    regional = found.attention[0, 8:].unflatten(0, (len(REGIONS), 4))
    for r in range(len(REGIONS)):
        under = (regional[r] * (found.priors[0, r] > found.priors[0, r].max() / 2)).sum((1, 2))
        assert (under > 0.99).all()
    plain = small(use_priors=False)(torch.zeros(1, 64, 12), grid).attention[0]
    assert plain.max() < 0.1  # nothing tells the places of an empty image apart but their position


def test_routing_is_used():
    network = small()
    torch.nn.init.normal_(network.router[-1].weight, std=60)
    found = network(image(), (5, 6))
    uniform = small(use_routing=False)
    uniform.load_state_dict(network.state_dict())
    other = uniform(image(), (5, 6))
    assert found.routing.max() > 0.3 and torch.equal(other.routing, torch.full((2, 7), 1 / 7))
    assert (found.tokens - other.tokens).abs().max() > 1e-2


def test_every_part_gets_a_gradient():
    network = small()
    torch.nn.init.normal_(network.refine[-1].weight, std=0.1)
    found = network(image(), (5, 6))
    (found.tokens.square().sum() + found.routing[:, 0].log().sum()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_definition_builds_the_same():
    network = small(use_routing=False, region_queries=2)
    again = HAQTARR(**network.definition())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(image(), (5, 6)).tokens, network.eval()(image(), (5, 6)).tokens)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"width": 18}, "not a multiple"), ({"heads": 0}, "heads is 0"), ({"region_queries": 0}, "region_queries is 0")],
)
def test_sizes_that_do_not_fit(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**changes)


def test_tokens_that_are_not_the_grid():
    with pytest.raises(ValueError, match=r"shape \(2, 30, 12\), expected \(2, 36, 12\) for grid \(6, 6\)"):
        small()(image(), (6, 6))
