import pytest
import torch

from common.networks.modality_fusion import (
    MODALITIES,
    SUBSETS,
    FeatureScale,
    FusionHead,
    modality_dropout,
    subset_modalities,
    subset_name,
)
from common.networks.weights import count_parameters

SIZES = {"vision": 6, "text": 10, "clinical": 4}


def head(modalities=MODALITIES, **settings):
    return FusionHead(modalities, labels=3, sizes=SIZES, width=16, heads=4, hidden=(12, 8), **settings)


def features(batch=5):
    return {m: torch.randn(batch, n) * 10 for m, n in SIZES.items()}


def present(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_the_documents_two_head_layers():
    layers = [m for m in FusionHead().head if isinstance(m, torch.nn.Linear)]
    assert sum(count_parameters(m) for m in layers[:2]) == 525_056
    assert layers[2].out_features == 14


def test_the_seven_subsets_by_name():
    assert SUBSETS == ("vision", "text", "clinical", "vision_text", "vision_clinical", "text_clinical", "all")
    for name in SUBSETS:
        assert subset_name(subset_modalities(name)[::-1]) == name
    for wrong in ([], ["image"], ["text", "text"]):
        with pytest.raises(ValueError, match="expected one or more"):
            subset_name(wrong)
    with pytest.raises(ValueError, match="'text_vision'"):
        subset_modalities("text_vision")


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_runs_and_trains(name):
    own = subset_modalities(name)
    network = head(own, modality_dropout=0.5)
    assert set(network.projections) == set(own) == set(network.absent)
    logits = network(features(), present([1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]))
    assert logits.shape == (5, 3) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(token.grad.abs().sum() > 0 for token in network.absent.values())


def test_a_case_is_judged_by_what_it_has_alone():
    network, values = head().eval(), features(3)
    here = present([1, 1, 1], [1, 0, 1], [0, 0, 0])
    logits = network(values, here)
    other = {m: v.clone() for m, v in values.items()}
    other["text"][1:] = float("nan")
    other["vision"][2] = other["clinical"][2] = float("inf")
    assert torch.equal(network(other, here), logits)
    alone = network({m: values[m][1:2] for m in ("vision", "clinical")})
    torch.testing.assert_close(logits[1:2], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits[2:], network({}, present([0, 0, 0])), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits[0], network(values, present([1, 1, 0], *here[1:].tolist()))[0])


def test_nan_of_absent_rows_does_not_reach_gradients():
    network, values = head(), features(2)
    values["text"][1] = float("nan")
    network(values, present([1, 1, 1], [1, 0, 1])).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_gradients_reach_the_absent_token_of_the_absent_alone():
    network = head(modality_dropout=0.0)
    network(features(2), present([1, 0, 1], [1, 1, 1])).sum().backward()
    assert network.absent["text"].grad.abs().sum() > 0
    assert network.absent["vision"].grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_finite_fp32_logits(dtype):
    network = head()
    with torch.autocast("cpu", dtype):
        logits = network(features(), present(*[[1, 1, 1]] * 4, [0, 0, 0]))
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_modality_dropout_never_takes_all():
    torch.manual_seed(0)
    here = present([1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]).repeat(5000, 1)
    kept = modality_dropout(here, 0.3)
    assert not (kept & ~here).any()
    assert torch.equal(kept.any(1), here.any(1))
    full = kept[0::4]
    # Kept with 0.7, and one of three in the 0.3^3 where all would have gone.
    torch.testing.assert_close(full.float().mean(0), torch.full((3,), 0.7 + 0.3**3 / 3), atol=0.02, rtol=0)
    assert kept[2::4, 1].all()
    single = modality_dropout(here[0::4], 0.99)
    assert (single.sum(1) >= 1).all()
    torch.testing.assert_close(single.float().mean(0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_modality_dropout_follows_the_seed_and_trains_only():
    network, values = head(modality_dropout=0.5, dropout_fusion=0.0, dropout_head=0.0), features(64)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(network(values))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    network.eval()
    assert torch.equal(network(values), network(values))


def test_definition_rebuilds_it():
    network = head(("text", "clinical"), dropout_head=0.4).eval()
    again = FusionHead(**network.definition()).eval()
    again.load_state_dict(network.state_dict())
    values = features()
    assert torch.equal(again(values), network(values)) and again.dropout_head == (0.4, 0.4)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="not a multiple"):
        FusionHead(width=10, heads=4)
    with pytest.raises(ValueError, match="dropout_head"):
        FusionHead(dropout_head=(0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="modality_dropout is 1"):
        FusionHead(modality_dropout=1)
    network = head()
    with pytest.raises(ValueError, match=r"text features have shape \(5, 9\), expected \(5, 10\)"):
        network(features() | {"text": torch.zeros(5, 9)})
    with pytest.raises(ValueError, match=r"expected bool \(B, 3\)"):
        network(features(), torch.ones(5, 3))
    with pytest.raises(ValueError, match="vision is present in 2 of 2 cases but was not given"):
        network({"text": torch.zeros(2, 10)}, present([1, 1, 0], [1, 1, 0]))
    with pytest.raises(ValueError, match="none of"):
        network({})


def test_the_scale_is_that_of_the_training_set_and_measured_once():
    torch.manual_seed(0)
    train = features(50) | {"vision": 5 + torch.randn(50, 6) * torch.tensor([1, 2, 3, 1e-9, 0, 1.0])}
    here = torch.ones(50, 3, dtype=torch.bool)
    here[30:, 0] = False
    train["vision"][30:] = torch.nan  # of cases without an image
    network = head()
    network.fit_scales(train, here)
    scale = network.projections["vision"][0]
    known = train["vision"][:30]
    assert torch.allclose(scale.mean, known.mean(0)) and scale.fitted
    deviation = known.double().std(0, correction=0)
    floor = deviation.square().mean().sqrt().item() / 100
    assert torch.allclose(scale.std[:3].double(), deviation[:3], rtol=1e-5)
    assert scale.std[3:5].tolist() == pytest.approx([floor, floor])
    standard = scale(known)
    assert torch.allclose(standard[:, :3].std(0, correction=0), torch.ones(3), atol=1e-4)
    assert standard.mean(0).abs().max() < 1e-3
    assert isinstance(network.projections["clinical"][0], torch.nn.LayerNorm)
    mean = scale.mean.clone()
    network.fit_scales({name: x * 7 for name, x in train.items()}, here)  # of other patients, later
    assert torch.equal(scale.mean, mean)
    copy = head()
    copy.load_state_dict(network.state_dict())
    assert copy.projections["vision"][0].fitted


def test_a_scale_that_cannot_be_measured():
    with pytest.raises(ValueError, match="no case of the training set has a text input"):
        head().fit_scales(features(), present([1, 0, 1]).expand(5, -1))
    with pytest.raises(ValueError, match="not finite"):
        FeatureScale(2).fit(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \(N, 2\)"):
        FeatureScale(2).fit(torch.zeros(3, 4))
    same = FeatureScale(2)
    same.fit(torch.full((3, 2), 4.0))
    assert same(torch.full((1, 2), 5.0)).tolist() == [[1.0, 1.0]]
