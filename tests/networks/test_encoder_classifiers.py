import pytest
import torch

from common.losses.bce_focal import MaskedBCEFocalLoss
from common.networks.encoder_classifiers import EncoderClassifiers
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.optimizers.parameter_groups import parameter_groups
from tests.networks.test_mdfnet import TEXT, VISION, batch


def build(vision=True, text=True):
    return EncoderClassifiers(
        VisionEncoder(config=VISION, image_size=16, embedding=10) if vision else None,
        TextEncoder(config=TEXT | {"attention_dropout": 0.0}, pooling="mean") if text else None,
        labels=3,
    )


def test_each_encoder_answers_while_training_and_their_mean_after_it():
    network, inputs = build(), batch()
    assert network.train()(**inputs).shape == (4, 2, 3)
    network.eval()
    image, note = (network.heads[m](network.norms[m](f)) for m, f in (
        ("vision", network.vision(inputs["image"])),
        ("text", network.text(**inputs["note"])),
    ))  # fmt: skip
    assert torch.allclose(network(**inputs), (image + note) / 2, atol=1e-6)
    only = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    expected = torch.stack([(image + note)[0] / 2, image[1], note[2], torch.zeros(3)])
    assert torch.allclose(network(**inputs, present=only), expected, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_what_an_absent_input_holds_does_not_matter(training):
    network, inputs = build().train(training), batch()
    present = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.bool)
    other = {**inputs, "image": torch.where(present[:, 0, None, None, None], inputs["image"], float("nan"))}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = network(**inputs, present=present)
    network.load_state_dict(state)
    assert torch.equal(first, network(**other, present=present))


def test_the_encoders_do_not_rest_on_each_other():
    """The gradient of one encoder is the same whatever the other one says."""
    network, inputs, target = build().train(), batch(), torch.randint(0, 2, (4, 3)).float()
    gradients = []
    for scale in (1, 50):
        network.zero_grad()
        with torch.no_grad():
            network.heads["text"].weight.mul_(scale)
        MaskedBCEFocalLoss()(network(**inputs), target).backward()
        gradients.append([p.grad.clone() for p in network.vision.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_one_case_alone_can_be_trained_on():
    network = build().train()
    present = torch.tensor([[1, 1, 0]] + 3 * [[1, 0, 0]], dtype=torch.bool)
    logits = network(**batch(), present=present)
    assert logits.isfinite().all() and (logits[1:, 1] == 0).all() and (logits[0, 1] != 0).any()


def test_groups_and_refusals():
    network = build(text=False)
    assert network.train()(torch.randn(2, 3, 16, 16)).shape == (2, 1, 3)
    groups = parameter_groups(network, {"encoders": 1e-3, "head": 1e-2})
    assert [group["name"] for group in groups] == ["encoders", "head"]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    with pytest.raises(ValueError, match="neither a vision nor a text encoder"):
        EncoderClassifiers()
    with pytest.raises(ValueError, match="no input for vision"):
        network(note=batch()["note"])
