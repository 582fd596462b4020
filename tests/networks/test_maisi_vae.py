import copy
import re

import pytest
import torch
from monai.networks.nets import AutoencoderKL
from safetensors.torch import save_file

from common.networks.maisi_vae import (
    MaisiVAE,
    convert_monai_generative_names,
    load_vae_weights,
)

TINY = {"num_channels": [16, 16, 32], "norm_num_groups": 8, "num_res_blocks": [1, 1, 1]}


def tiny(seed=0, **kwargs):
    torch.manual_seed(seed)
    return MaisiVAE(**{**TINY, **kwargs})


def to_generative(state):
    """The inverse rule: inside the blocks MAISI has one '.conv' more."""
    return {
        re.sub(r"^((?:en|de)coder\.blocks\..*)\.conv\.(weight|bias)$", r"\1.\2", name): t for name, t in state.items()
    }


def same(vae, other):
    return all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), other.state_dict().values(), strict=True))


def test_paper_size_is_20944897_parameters_in_130_tensors():
    with torch.device("meta"):
        vae = MaisiVAE()
    assert sum(p.numel() for p in vae.parameters()) == 20_944_897
    assert len(vae.state_dict()) == 130


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"epoch": 3, "unet_state_dict": s},
        lambda s: {"state_dict": {f"autoencoder.{k}": v for k, v in s.items()}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"module.vae.{k}": v for k, v in s.items()}},
        lambda s: {"state": {"autoencoder_state_dict": s, "discriminator_state_dict": {"conv.weight": torch.ones(1)}}},
    ],
    ids=["plain", "maisi", "prefix", "module", "nested-prefix", "beside-discriminator"],
)
@pytest.mark.parametrize("layout", ["maisi", "monai-generative"])
def test_every_wrapping_loads_completely(tmp_path, wrap, layout):
    donor, vae = tiny(1), tiny(2)
    state = donor.state_dict() if layout == "maisi" else to_generative(donor.state_dict())
    torch.save(wrap(state), tmp_path / "vae.pt")
    n = len(donor.state_dict())
    assert re.fullmatch(
        rf"{n}/{n} VAE tensors loaded.* \({layout} names.*\)", load_vae_weights(vae, tmp_path / "vae.pt")
    )
    assert same(vae, donor)


def test_safetensors_and_meta_device(tmp_path):
    donor = tiny(1)
    save_file(donor.state_dict(), tmp_path / "vae.safetensors")
    with torch.device("meta"):
        vae = tiny()
    load_vae_weights(vae, tmp_path / "vae.safetensors")
    assert same(vae, donor)


def test_tensors_of_other_networks_under_other_prefixes_are_reported(tmp_path):
    state = {f"autoencoder.{k}": v for k, v in tiny(1).state_dict().items()}
    torch.save({"state_dict": {**state, "discriminator.conv.weight": torch.ones(2)}}, tmp_path / "lightning.ckpt")
    said = load_vae_weights(tiny(), tmp_path / "lightning.ckpt")
    assert said.startswith(f"{len(state)}/{len(state)} VAE tensors loaded from 'state_dict:autoencoder.' (maisi names")
    assert said.endswith(", 1 tensors of other networks left out)")


def broken(change):
    state = {k: v.clone() for k, v in tiny(1).state_dict().items()}
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("quant_conv_mu.conv.bias"), r"1 tensors missing \(quant_conv_mu.conv.bias\)"),
        (lambda s: s.update(extra=torch.ones(1)), r"1 unexpected \(extra\)"),
        (
            lambda s: s.update({"quant_conv_mu.conv.bias": torch.ones(7)}),
            r"quant_conv_mu.conv.bias is \(7,\) instead of \(4,\)",
        ),
        (lambda s: s["quant_conv_mu.conv.bias"].fill_(float("nan")), r"1 with NaN or infinite values"),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("decoder")],
            r"\d+ tensors missing \(decoder.*, \.\.\.\)",
        ),
    ],
    ids=["missing", "unexpected", "shape", "nan", "many"],
)
def test_refuses_and_leaves_the_network_alone(tmp_path, change, sentence):
    torch.save(broken(change), tmp_path / "vae.pt")
    vae = tiny(2)
    before = copy.deepcopy(vae)
    with pytest.raises(ValueError, match="nothing was loaded: .*" + sentence):
        load_vae_weights(vae, tmp_path / "vae.pt")
    assert same(vae, before)


def test_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"net.weight": torch.ones(1)}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_vae_weights(tiny(), tmp_path / "absent.pt")
    for name, sentence in [
        ("text.pt", "cannot be read"),
        ("bad.safetensors", "cannot be read"),
        ("other.pt", "no state dict of a KL autoencoder"),
        ("list.pt", "holds a list"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            load_vae_weights(tiny(), tmp_path / name)


def test_two_fitting_state_dicts_need_a_choice(tmp_path):
    last, ema, vae = tiny(1), tiny(2), tiny(3)
    torch.save({"state_dict": last.state_dict(), "ema": ema.state_dict()}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match="choose one by key=: .*'ema'"):
        load_vae_weights(vae, tmp_path / "vae.pt")
    load_vae_weights(vae, tmp_path / "vae.pt", key="ema")
    assert same(vae, ema)
    with pytest.raises(ValueError, match="under 'best'"):
        load_vae_weights(vae, tmp_path / "vae.pt", key="best")


def test_generative_names_by_hand():
    pairs = {
        "encoder.blocks.0.conv.weight": "encoder.blocks.0.conv.conv.weight",
        "encoder.blocks.1.norm1.weight": "encoder.blocks.1.norm1.weight",
        "encoder.blocks.1.conv1.conv.bias": "encoder.blocks.1.conv1.conv.conv.bias",
        "encoder.blocks.3.conv.conv.weight": "encoder.blocks.3.conv.conv.conv.weight",
        "encoder.blocks.4.nin_shortcut.conv.weight": "encoder.blocks.4.nin_shortcut.conv.conv.weight",
        "encoder.blocks.9.weight": "encoder.blocks.9.weight",
        "encoder.blocks.10.conv.weight": "encoder.blocks.10.conv.conv.weight",
        "decoder.blocks.3.conv.conv.bias": "decoder.blocks.3.conv.conv.conv.bias",
        "decoder.blocks.6.postconv.conv.weight": "decoder.blocks.6.conv.conv.conv.weight",
        "encoder.blocks.5.to_q.weight": "encoder.blocks.5.attn.to_q.weight",
        "encoder.blocks.5.proj_attn.bias": "encoder.blocks.5.attn.out_proj.bias",
        "quant_conv_mu.conv.weight": "quant_conv_mu.conv.weight",
        "post_quant_conv.conv.bias": "post_quant_conv.conv.bias",
    }
    old = {name: torch.full((1,), float(i)) for i, name in enumerate(pairs)}
    before = list(old)
    new = convert_monai_generative_names(old)
    assert list(old) == before
    assert {name: t.item() for name, t in new.items()} == {new: float(i) for i, new in enumerate(pairs.values())}


def test_names_of_monais_own_autoencoder_match():
    """MONAI core's `AutoencoderKL` is monai-generative's but for the upsampling 'postconv'."""
    with torch.device("meta"):
        core = AutoencoderKL(
            spatial_dims=3, channels=(64, 128, 256), num_res_blocks=(2, 2, 2), latent_channels=4,
            attention_levels=(False,) * 3, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip
        vae = MaisiVAE()
    converted = convert_monai_generative_names(core.state_dict())
    assert {k: t.shape for k, t in converted.items()} == {k: t.shape for k, t in vae.state_dict().items()}


def test_its_definition_builds_it_again():
    vae = tiny(norm_eps=1e-5)
    assert MaisiVAE(**vae.definition()).definition() == vae.definition()
    assert vae.definition().items() >= (TINY | {"norm_eps": 1e-5, "attention_levels": [False] * 3}).items()
    assert {k: v.shape for k, v in MaisiVAE(**vae.definition()).state_dict().items()} == {
        k: v.shape for k, v in vae.state_dict().items()
    }
