import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

from common.networks.slice_unet import SliceUNet
from common.transforms.slabs import ratio_condition

TINY = {
    "num_channels": (8, 16, 16),
    "num_res_blocks": (1, 1, 1),
    "attention_levels": (False, False, True),
    "num_head_channels": (0, 8, 8),
    "norm_num_groups": 8,
}


def tiny(seed=0, **kwargs):
    """A network whose zero-initialised layers are random too, so that every path counts."""
    torch.manual_seed(seed)
    unet = SliceUNet(**TINY, **kwargs)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(batch=2, size=(4, 8, 8)):
    torch.manual_seed(1)
    return torch.randn(batch, 8, *size), torch.randint(0, 1000, (batch,)), torch.randn(batch, 3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_paper_size_is_within_one_percent_of_the_document():
    with torch.device("meta"):
        unet = SliceUNet()
    count = sum(parameter.numel() for parameter in unet.parameters())
    assert count == 266_647_172
    assert abs(count / 264_616_708 - 1) < 0.01
    assert unet.middle_block.attention.attn.num_heads == 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_at_paper_size_on_the_meta_device(checkpointing):
    with torch.device("meta"):
        unet = SliceUNet(gradient_checkpointing=checkpointing)
        out = unet(torch.empty(1, 8, 75, 128, 128), torch.empty(1), torch.empty(1, 3))
    assert out.shape == (1, 4, 75, 128, 128)
    out.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in unet.parameters())


def test_equals_monai_in_names_and_values():
    unet = tiny()
    reference = DiffusionModelUNetMaisi(3, 8, 4, include_fc=True, include_spacing_input=True, **TINY)
    reference.load_state_dict(unet.state_dict(), strict=True)
    x, t, spacing = inputs()
    assert torch.equal(unet(x, t, spacing_tensor=spacing), reference(x, t, spacing_tensor=spacing))


def test_checkpointing_changes_neither_outputs_nor_gradients():
    plain, frugal = tiny(), tiny(gradient_checkpointing=True)
    x, t, spacing = inputs()
    saved = {}
    gradients = {}
    for name, unet in (("plain", plain), ("frugal", frugal)):
        kept = 0

        def pack(tensor):
            nonlocal kept
            kept += tensor.numel()  # noqa: B023 - reset per network
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = unet.train()(x, t, spacing)
        saved[name] = kept
        out.square().sum().backward()
        gradients[name] = [out.detach(), *(parameter.grad for parameter in unet.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(gradients["plain"], gradients["frugal"], strict=True))
    assert saved["frugal"] < 0.5 * saved["plain"]


def test_any_size_is_padded_by_repetition_and_cropped():
    unet = tiny().eval()
    x, t, spacing = inputs(1, (3, 7, 6))
    padded = torch.nn.functional.pad(x, (0, 2, 0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        out = unet(x, t, spacing)
        assert torch.equal(out, unet(padded, t, spacing)[:, :, :3, :7, :6])
    assert out.shape == (1, 4, 3, 7, 6)


def test_condition_and_time_change_the_result():
    unet = tiny().eval()
    x, t, spacing = inputs()
    with torch.no_grad():
        out = unet(x, t, spacing)
        assert not torch.allclose(out, unet(x, t, spacing + 1))
        assert not torch.allclose(out, unet(x, (t + 300) % 1000, spacing))


def test_bfloat16_autocast_on_the_cpu_is_close_and_trains():
    unet = tiny(gradient_checkpointing=True)
    # 12 slices, so that no level has exactly 2: there the weight gradient of oneDNN's bfloat16 convolution reads memory
    # that nobody wrote (NaN now and then)
    x, t, spacing = torch.randn(1, 8, 12, 12, 12), torch.tensor([300]), ratio_condition(5.0, 1.0)[None]
    reference = unet.eval()(x, t, spacing)
    with torch.autocast("cpu", torch.bfloat16):
        out = unet.train()(x, t, spacing)
    assert (out.float() - reference).norm() < 0.05 * reference.norm()
    out.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in unet.parameters())


def test_shapes_that_do_not_belong_together_are_refused():
    unet = tiny()
    x, t, spacing = inputs()
    with pytest.raises(ValueError, match=r"expected \(B, 8, d, h, w\)"):
        unet(x[:, :4], t, spacing)
    with pytest.raises(ValueError, match=r"expected \(2,\) and \(2, 3\)"):
        unet(x, t[:1], spacing)


def test_its_definition_builds_it_again():
    network = SliceUNet(**TINY)
    again = SliceUNet(**network.definition())
    assert again.definition() == network.definition()
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
