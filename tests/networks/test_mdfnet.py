import pytest
import torch

from common.data.modalities import MODALITIES
from common.losses.bce_focal import MaskedBCEFocalLoss
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import FeatureMDFNet, MDFNet
from common.networks.modality_fusion import SUBSETS, FusionHead, subset_modalities
from common.networks.text_encoder import CLINICAL_MODERNBERT, TextEncoder
from common.networks.vision_encoder import BIOMEDCLIP_CXR, VisionEncoder
from common.networks.weights import count_parameters, freeze
from common.optimizers.parameter_groups import parameter_groups

VISION = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
TEXT = {
    "model_type": "modernbert",
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 30,
    "local_attention": 4,
    "attention_dropout": 0.5,
    **{"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
}


def build(modalities=MODALITIES, **settings):
    parts = {
        "vision": lambda: VisionEncoder(config=VISION, image_size=16, embedding=10),
        "text": lambda: TextEncoder(config=TEXT, pooling="mean"),
        "clinical": lambda: ClinicalEncoder(5, (8, 8)),
    }
    own = {m: parts[m]() for m in modalities}
    sizes = {m: e.features for m, e in own.items()}
    fusion = FusionHead(modalities, labels=3, sizes=sizes, width=16, heads=4, hidden=(12, 8), **settings)
    return MDFNet(**own, fusion=fusion)


def batch(size=4, tokens=9):
    mask = torch.arange(tokens)[None] < torch.randint(2, tokens + 1, (size, 1))
    note = {"input_ids": torch.randint(5, 30, (size, tokens)) * mask, "attention_mask": mask.long()}
    return {"image": torch.randn(size, 3, 16, 16), "note": note, "clinical": torch.randn(size, 5)}


def test_paper_size():
    with torch.device("meta"):
        network = MDFNet(
            VisionEncoder(config=BIOMEDCLIP_CXR), TextEncoder(config=CLINICAL_MODERNBERT), ClinicalEncoder()
        )
    sizes = {name: count_parameters(getattr(network, name)) for name in MODALITIES}
    assert sizes == {"vision": 86_972_928, "text": 149_014_272, "clinical": 144_896}
    assert count_parameters(network.fusion) < 5e6


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_trains_on_the_same_batches(name):
    network = build(subset_modalities(name))
    present = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    logits = network(**batch(), present=present)
    target = torch.randint(0, 2, (4, 3)).float()
    target[:, 1] = float("nan")  # no case of the batch knows the second label
    MaskedBCEFocalLoss()(logits, target).backward()
    assert logits.shape == (4, 3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    last = network.fusion.head[-1]
    assert last.weight.grad[1].abs().sum() == 0 and last.weight.grad[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_nothing_is_nan_in_half_precision(dtype):
    torch.manual_seed(0)
    network, loss = build(), MaskedBCEFocalLoss()
    inputs = batch()
    inputs["note"]["attention_mask"][3] = 0  # a note without a token
    inputs["image"][2] = inputs["clinical"][1] = float("nan")
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=torch.bool)
    with torch.autocast("cpu", dtype):
        logits = network(**inputs, present=present)
        value = loss(logits * 1000, torch.tensor([[0, 1, float("nan")]]).repeat(4, 1))
    value.backward()
    assert logits.dtype == value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_rows_of_absent_modalities_do_not_matter():
    network, inputs = build().eval(), batch(2)
    present = torch.tensor([[1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    logits = network(**inputs, present=present)
    inputs["image"][1] = inputs["clinical"][1] = float("nan")
    inputs["note"]["attention_mask"][1] = 0
    torch.testing.assert_close(network(**inputs, present=present), logits)
    torch.testing.assert_close(network(present=present[1:]), logits[1:], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected bool \(B, 3\)"):
        network(**inputs, present=present[:, :2])


def test_features_give_what_inputs_give():
    network, inputs = build().eval(), batch()
    whole = network(**inputs)
    features = {
        "vision": network.vision(inputs["image"]),
        "text": network.text(**inputs["note"]),
        "clinical": inputs["clinical"],
    }
    stage1 = FeatureMDFNet(network.clinical, network.fusion).eval()
    torch.testing.assert_close(stage1(features), whole)
    here = torch.tensor([[1, 1, 0]] * 4, dtype=torch.bool)
    features["clinical"] = torch.full((4, 5), float("nan"))
    torch.testing.assert_close(stage1(features, here), network(inputs["image"], inputs["note"]))


def test_frozen_encoders_stay_as_they_are():
    network = build(modality_dropout=0.0, dropout_fusion=0.0, dropout_head=0.0)
    freeze(network.vision)
    freeze(network.text)
    network.clinical.layers[3] = torch.nn.Dropout(0.0)
    network.train()
    assert network.training and network.clinical.training and network.fusion.training
    assert not network.text.training and not any(m.training for m in network.vision.modules())
    inputs = batch()
    assert torch.equal(network.text(**inputs["note"]), network.text(**inputs["note"]))
    network(**inputs).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(("vision.", "text.")), name
    network.unfreeze_encoders().train()
    assert network.text.training and network.text.model.training
    assert not torch.equal(network.text(**inputs["note"]), network.text(**inputs["note"]))
    network(**inputs).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_learning_rates_by_group():
    network = build()
    rates = {"encoders": 1e-5, "fusion": 1e-4, "head": 1e-3}
    groups = parameter_groups(network, rates)
    assert [(g["name"], g["lr"]) for g in groups] == list(rates.items())
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in network.parameters()}
    assert id(network.clinical.layers[0].weight) in {id(p) for p in groups[1]["params"]}
    torch.optim.AdamW(groups)
    frozen = build()
    freeze(frozen.vision)
    freeze(frozen.text)
    assert [g["name"] for g in parameter_groups(frozen, {"fusion": 1e-3, "head": 1e-3})] == ["fusion", "head"]
    with pytest.raises(ValueError, match="expected one for each of encoders, fusion, head"):
        parameter_groups(network, {"fusion": 1e-3, "head": 1e-3})
    with pytest.raises(ValueError, match="are given for encoder,"):
        parameter_groups(network, {"encoder": 1, **rates})


def test_state_dict_goes_through_a_plain_file(tmp_path):
    network = build(("vision", "clinical")).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    parts = network.definition()
    assert parts["text"] is None
    again = MDFNet(
        vision=VisionEncoder(**parts["vision"]),
        clinical=ClinicalEncoder(**parts["clinical"]),
        fusion=FusionHead(**parts["fusion"]),
    ).load(tmp_path / "model.pt")
    inputs = batch()
    assert torch.equal(again(**inputs), network(**inputs)) and not again.training
    assert {name.split(".")[0] for name in network.state_dict()} == {"vision", "clinical", "fusion"}
    with pytest.raises(ValueError, match="tensors missing"):
        build().load(tmp_path / "model.pt")


def test_stage_2_starts_from_what_stage_1_left(tmp_path):
    source = build()
    stage1 = FeatureMDFNet(source.clinical, source.fusion)
    torch.save(stage1.state_dict(), tmp_path / "stage1.pt")
    whole = build()
    with pytest.raises(ValueError, match="tensors missing"):
        whole.load(tmp_path / "stage1.pt")  # its encoders have no weights of their own
    source.vision.model.save_pretrained(tmp_path / "vit")
    source.text.model.save_pretrained(tmp_path / "bert")
    whole.vision = VisionEncoder(str(tmp_path / "vit"), embedding=10, image_size=16)
    whole.vision.projection.load_state_dict(source.vision.projection.state_dict())
    whole.text = TextEncoder(str(tmp_path / "bert"), pooling="mean")
    whole.load(tmp_path / "stage1.pt")
    inputs = batch()
    torch.testing.assert_close(whole(**inputs), source.eval()(**inputs))
    whole.load_state_dict(torch.load(tmp_path / "stage1.pt", weights_only=True))  # as MONAI's handler does


def test_parts_that_do_not_belong_together_are_refused():
    fusion = FusionHead(("vision",), sizes={"vision": 10})
    with pytest.raises(ValueError, match="the encoders are clinical, expected the head's vision"):
        MDFNet(clinical=ClinicalEncoder(), fusion=fusion)
    with pytest.raises(ValueError, match="the vision encoder gives 9 numbers, the head expects 10"):
        MDFNet(vision=VisionEncoder(config=VISION, image_size=16, embedding=9), fusion=fusion)
    with pytest.raises(ValueError, match="expected one or more"):
        MDFNet()
    with pytest.raises(ValueError, match="the clinical encoder is there"):
        FeatureMDFNet(ClinicalEncoder(), fusion)
    with pytest.raises(ValueError, match="gives 7 numbers"):
        FeatureMDFNet(ClinicalEncoder(5, (7,)), FusionHead(("clinical",)))
