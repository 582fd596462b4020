import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common.networks.open_clip_weights import read_open_clip
from common.networks.vision_encoder import CLIP_MEAN, IMAGENET_MEAN, VisionEncoder

HEADS, WIDTH, LAYERS = 2, 128, 3


def trunk(patch=14, side=4, layer_scale=True, class_position=True, seed=0):
    """A state dict as timm's VisionTransformer names it."""
    g = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*shape, generator=g) * 0.1

    state = {
        "cls_token": r(1, 1, WIDTH),
        "pos_embed": r(1, side * side + class_position, WIDTH),
        "patch_embed.proj.weight": r(WIDTH, 3, patch, patch),
        "patch_embed.proj.bias": r(WIDTH),
        "norm.weight": 1 + r(WIDTH),
        "norm.bias": r(WIDTH),
    }
    for i in range(LAYERS):
        shapes = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }
        if layer_scale:
            shapes |= {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}
        state |= {f"blocks.{i}.{name}": r(*shape) for name, shape in shapes.items()}
    return state


def clip(**settings):
    """The same inside open_clip's CLIP, with a text tower."""
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk(**settings).items()}
    head = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(7))
    text = {"text.transformer.embeddings.word_embeddings.weight": torch.randn(9, 4), "text.proj.0.weight": torch.eye(2)}
    return state | {"visual.head.proj.weight": head, "logit_scale": torch.tensor(4.6)} | text


def timm_forward(state, image):
    """timm's VisionTransformer with token pooling, then open_clip's linear head, in plain torch."""
    s = {name.removeprefix("visual.trunk."): t for name, t in state.items()}
    x = F.conv2d(
        image, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=s["patch_embed.proj.weight"].shape[-1]
    )
    x = x.flatten(2).transpose(1, 2)
    cls = s["cls_token"].expand(len(x), -1, -1)
    if s["pos_embed"].shape[1] == x.shape[1]:  # timm's no_embed_class
        x = torch.cat([cls, x + s["pos_embed"]], 1)
    else:
        x = torch.cat([cls, x], 1) + s["pos_embed"]
    norm = lambda t, name: F.layer_norm(t, (WIDTH,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)  # noqa: E731
    for i in range(LAYERS):
        b = f"blocks.{i}."
        qkv = F.linear(norm(x, f"{b}norm1"), s[f"{b}attn.qkv.weight"], s[f"{b}attn.qkv.bias"])
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(y, s[f"{b}attn.proj.weight"], s[f"{b}attn.proj.bias"]) * s.get(f"{b}ls1.gamma", 1)
        y = F.gelu(F.linear(norm(x, f"{b}norm2"), s[f"{b}mlp.fc1.weight"], s[f"{b}mlp.fc1.bias"]))
        x = x + F.linear(y, s[f"{b}mlp.fc2.weight"], s[f"{b}mlp.fc2.bias"]) * s.get(f"{b}ls2.gamma", 1)
    return norm(x, "norm")[:, 0] @ state["visual.head.proj.weight"].T, weights[:, :, 0, 1:]


@pytest.mark.parametrize(
    "settings",
    [{}, {"layer_scale": False, "patch": 16}, {"patch": 16}, {"class_position": False}],
    ids=["dinov2_14", "vit_16", "dinov2_16", "no_embed_class"],
)
def test_gives_what_timm_gives(tmp_path, settings):
    state = clip(**settings)
    torch.save(state, tmp_path / "clip.pt")
    encoder = VisionEncoder(str(tmp_path / "clip.pt"), embedding=16).eval()
    image = torch.randn(2, 3, *[4 * settings.get("patch", 14)] * 2)
    expected, attention = timm_forward(state, image)
    assert expected.std() > 0.1  # the comparison is of something
    torch.testing.assert_close(encoder(image), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder.attention(image).flatten(2), attention, atol=1e-5, rtol=1e-5)
    assert encoder.mean == CLIP_MEAN and encoder.has_weights


def test_reports_what_belongs_to_the_text(tmp_path, caplog):
    torch.save(clip(), tmp_path / "clip.pt")
    with caplog.at_level("INFO"):
        tower = read_open_clip(tmp_path / "clip.pt")
    assert "3 of other parts left out (logit_scale, text)" in caplog.text
    assert tower.config["num_attention_heads"] == 2 and tower.config["image_size"] == 56


def test_reads_training_checkpoints_and_safetensors(tmp_path):
    state = clip()
    training = {"epoch": 3, "best": np.float64(0.5), "state_dict": {f"module.{n}": t for n, t in state.items()}}
    torch.save(training, tmp_path / "epoch_3.pt")
    save_file(state, tmp_path / "clip.safetensors")
    (tmp_path / "folder").mkdir()
    save_file(state, tmp_path / "folder" / "open_clip_model.safetensors")
    (tmp_path / "folder" / "open_clip_config.json").write_text('{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}')
    torch.save({n.removeprefix("visual.trunk."): t for n, t in state.items() if "trunk" in n}, tmp_path / "timm.pth")
    whole = read_open_clip(tmp_path / "epoch_3.pt")
    for name in ("clip.safetensors", "timm.pth"):
        other = read_open_clip(tmp_path / name)
        assert other.state.keys() == whole.state.keys()
        assert all(torch.equal(other.state[n], t) for n, t in whole.state.items())
    assert VisionEncoder(str(tmp_path / "folder"), embedding=16).mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "extra",
    [
        "visual.trunk.reg_token",
        "visual.trunk.blocks.1.attn.q_norm.weight",
        "visual.trunk.norm_pre.weight",
        "visual.head.mlp.fc1.weight",
    ],
)
def test_a_tensor_without_a_place_is_named(tmp_path, extra):
    torch.save(clip() | {extra: torch.zeros(1, 4, WIDTH)}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=f"{extra.replace('.', '[.]')} .*has no place"):
        read_open_clip(tmp_path / "clip.pt")


@pytest.mark.parametrize(
    "name", ["norm.bias", "blocks.2.mlp.fc2.weight", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.weight", "pos_embed"]
)
def test_a_missing_tensor_is_refused(tmp_path, name):
    state = clip()
    del state[f"visual.trunk.{name}"]
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="1 tensors missing|has no visual"):
        VisionEncoder(str(tmp_path / "clip.pt"), embedding=16)


def test_other_files_are_refused(tmp_path):
    torch.save({"visual.conv1.weight": torch.zeros(3)}, tmp_path / "openai.pt")
    with pytest.raises(ValueError, match="expected open_clip's names"):
        read_open_clip(tmp_path / "openai.pt")
    with pytest.raises(FileNotFoundError, match="nothing.pt does not exist"):
        VisionEncoder(str(tmp_path / "nothing.pt"))
    torch.save(clip(), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="visual.head.proj does not fit"):
        VisionEncoder(str(tmp_path / "clip.pt"), embedding=512)
    assert IMAGENET_MEAN != CLIP_MEAN
