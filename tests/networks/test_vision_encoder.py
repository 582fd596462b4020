import json
import logging

import pytest
import torch
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, ConvNextConfig, ConvNextModel

from common.networks.vision_encoder import BIOMEDCLIP_CXR, IMAGENET_MEAN, VisionEncoder
from common.networks.weights import count_parameters, freeze, unfreeze

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14}
DINO = {"model_type": "dinov2", **SIZES}
VIT = {"model_type": "vit", **SIZES, "intermediate_size": 64}


def saved(folder, config, dtype=torch.float32):
    sizes = dict(config)
    model = AutoModel.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def test_paper_size():
    with torch.device("meta"):
        encoder = VisionEncoder(config=BIOMEDCLIP_CXR)
    # ViT-B/14 with layer scale, 1370 positions: 86,579,712; projection 768 x 512.
    assert count_parameters(encoder) == 86_579_712 + 768 * 512
    assert encoder.features == 512 and encoder.image_size == 518


@pytest.mark.parametrize("config", [DINO, VIT], ids=["dinov2", "vit"])
def test_a_folder_of_hugging_face_gives_its_class_token(tmp_path, config):
    model = saved(tmp_path, {**config, "image_size": 56})
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}')
    encoder = VisionEncoder(str(tmp_path), embedding=None).eval()
    image = torch.randn(2, 3, 56, 56)
    expected = model(image).last_hidden_state
    torch.testing.assert_close(encoder(image), expected[:, 0])
    vector, patches, grid = encoder.tokens(image)
    torch.testing.assert_close(patches, expected[:, 1:])
    assert patches.shape[1] == grid[0] * grid[1]
    assert encoder.mean == (0.5, 0.4, 0.3) and encoder.features == 32 == vector.shape[1]
    # Every parameter that is left has a gradient: distributed training waits for all of them.
    encoder(image).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 2, "patch_size": 2}
RESNET = {"model_type": "resnet", "embeddings_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
          "layer_type": "basic"}  # fmt: skip


@pytest.mark.parametrize(("config", "grid"), [(SWIN, (6, 3)), (RESNET, (3, 2))], ids=["swin", "resnet"])
def test_tokens_of_models_without_class_token(config, grid):
    encoder, image = VisionEncoder(config=config, image_size=24, embedding=5).eval(), torch.randn(2, 3, 24, 12)
    vector, tokens, found = encoder.tokens(image)
    assert found == grid and tokens.shape == (2, grid[0] * grid[1], 16)
    torch.testing.assert_close(vector, encoder(image))
    brighter = image.clone()
    brighter[..., :12, :] += 5  # the upper half is the first rows
    changed = (encoder.tokens(brighter)[1] - tokens).abs().sum(2).unflatten(1, grid)[0]
    assert changed[0].min() > changed[-1].max()
    torch.testing.assert_close(encoder.saliency(image), tokens.abs().mean(2).unflatten(1, grid))


def test_swin_base_has_the_published_size():
    sizes = {"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
    with torch.device("meta"):
        encoder = VisionEncoder(config=sizes | {"window_size": 12}, image_size=384, embedding=None)
    assert 86.7e6 < count_parameters(encoder) < 86.9e6 and encoder.features == 1024


@pytest.mark.parametrize("config", [DINO, VIT], ids=["dinov2", "vit"])
def test_another_image_size_interpolates_positions(config):
    encoder = VisionEncoder(config={**config, "image_size": 56}, image_size=84, embedding=8).eval()
    assert encoder(torch.randn(1, 3, 84, 84)).shape == (1, 8)
    assert encoder.attention(torch.randn(1, 3, 84, 42)).shape == (1, 4, 6, 3)


def test_half_precision_files_are_read_as_fp32(tmp_path):
    saved(tmp_path, {**DINO, "image_size": 56}, torch.bfloat16)
    assert {p.dtype for p in VisionEncoder(str(tmp_path), embedding=None).parameters()} == {torch.float32}


def test_attention_is_that_of_the_model(tmp_path):
    model = saved(tmp_path, {**DINO, "image_size": 56})
    encoder = VisionEncoder(str(tmp_path), embedding=None).train()
    image = torch.randn(2, 3, 56, 56)
    model.set_attn_implementation("eager")
    layers = model(image, output_attentions=True).attentions
    torch.testing.assert_close(encoder.attention(image).flatten(2), layers[-1][:, :, 0, 1:])
    rolled = torch.eye(17)
    for layer in layers:
        rolled = (layer.mean(1) + torch.eye(17)) / 2 @ rolled
    torch.testing.assert_close(encoder.attention(image, rollout=True).flatten(1), rolled[:, 0, 1:])
    # It leaves no trace.
    assert encoder.training and encoder.model.training and encoder.model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks for m in encoder.model.modules() if type(m).__name__ == "Dinov2Attention")


def test_what_an_encoder_shows_has_a_name():
    """A convolutional network has a saliency; calling it attention was a bug."""
    assert VisionEncoder(config=VIT, image_size=28).saliency_name == "attention"


def test_attention_works_on_a_frozen_encoder():
    encoder = VisionEncoder(config=DINO, image_size=28, embedding=8)
    freeze(encoder)
    encoder.train()
    assert not encoder.training and not encoder.model.training
    assert encoder.attention(torch.randn(1, 3, 28, 28)).shape == (1, 4, 2, 2)
    assert not encoder(torch.randn(1, 3, 28, 28)).requires_grad
    unfreeze(encoder)
    assert encoder.model.training and encoder(torch.randn(1, 3, 28, 28)).requires_grad


def test_models_without_class_token_pool_as_they_do(tmp_path):
    small = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ConvNextModel(small).save_pretrained(tmp_path)
    encoder = VisionEncoder(str(tmp_path), embedding=None).eval()
    image = torch.randn(2, 3, 64, 64)
    reference = ConvNextModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encoder(image), reference(image).pooler_output)
    assert encoder.features == 16
    with pytest.raises(ValueError, match="no class token"):
        encoder.attention(image)
    assert encoder.saliency_name.startswith("saliency (magnitude")


def test_the_image_tower_of_a_clip_model(tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    CLIPModel(
        CLIPConfig(vision_config={**tower, "image_size": 32, "patch_size": 16}, text_config=text)
    ).save_pretrained(tmp_path)
    reference = CLIPModel.from_pretrained(tmp_path).eval()
    encoder = VisionEncoder(str(tmp_path), embedding=None).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(image), reference.vision_model(image).pooler_output)
    assert not any("text" in name for name in encoder.state_dict())
    again = VisionEncoder(**encoder.definition()).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(image), encoder(image))


@pytest.mark.parametrize("trained_at", [56, 224])  # 224 is the configuration's default
def test_definition_rebuilds_it(tmp_path, trained_at):
    saved(tmp_path, {**DINO, "image_size": trained_at})
    encoder = VisionEncoder(str(tmp_path), embedding=8, image_size=84, gradient_checkpointing=True).eval()
    again = VisionEncoder(**json.loads(json.dumps(encoder.definition()))).eval()
    assert not again.has_weights and again.mean == IMAGENET_MEAN
    again.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 56, 56)
    assert torch.equal(again(image), encoder(image))


def test_gradient_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    plain = VisionEncoder(config=DINO, image_size=28, embedding=8)
    lean = VisionEncoder(config=DINO, image_size=28, embedding=8, gradient_checkpointing=True)
    lean.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 28, 28)
    for encoder in (plain, lean):
        encoder.train()(image).square().sum().backward()
    for a, b in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_an_untrained_projection_is_said(tmp_path, caplog):
    saved(tmp_path, {**DINO, "image_size": 56})
    with caplog.at_level(logging.WARNING):
        VisionEncoder(str(tmp_path), embedding=8)
    assert "drawn at random" in caplog.text


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither model nor config"):
        VisionEncoder()
    with pytest.raises(ValueError, match="no model_type"):
        VisionEncoder(config=SIZES)
    with pytest.raises(FileNotFoundError, match="downloading is off"):
        VisionEncoder("nobody/no-such-model")
    with pytest.raises(FileNotFoundError, match="downloading is off"):
        VisionEncoder(str(tmp_path / "nowhere" / "at" / "all"))
    with pytest.raises(FileNotFoundError, match="downloading is off"):
        VisionEncoder(str(tmp_path))
    encoder = VisionEncoder(config=DINO, image_size=28)
    with pytest.raises(ValueError, match=r"\(2, 1, 28, 28\), expected \(B, 3, H, W\)"):
        encoder(torch.zeros(2, 1, 28, 28))


def test_weights_that_leave_tensors_unset_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(tmp_path, {**DINO, "image_size": 56})
    state = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in state if name.endswith("fc1.weight"))
    save_file({n: t for n, t in state.items() if n != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no weights for 1 of .*fc1.weight"):
        VisionEncoder(str(tmp_path), embedding=None)
