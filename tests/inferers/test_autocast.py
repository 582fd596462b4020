import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from common.inferers.autocast import AutocastInferer


class Spy(nn.Module):
    """Two outputs, and a note of the dtype it computed in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x, factor=1.0, both=False):
        out = self.layer(x) * factor
        self.dtype = out.dtype
        return (out, out + 1) if both else out


def test_bfloat16_inside_float32_outside():
    network, x = Spy(), torch.randn(1, 1, 4, 4, 4)
    out = AutocastInferer("bfloat16")(x, network, 2.0)
    assert network.dtype == torch.bfloat16 and out.dtype == torch.float32
    reference = network(x, 2.0)
    assert not torch.equal(out, reference)
    torch.testing.assert_close(out, reference, atol=0.02, rtol=0.02)
    first, second = AutocastInferer()(x, network, both=True)
    assert first.dtype == second.dtype == torch.float32


def test_float32_is_a_plain_call():
    network, x = Spy(), torch.randn(1, 1, 4, 4, 4)
    assert torch.equal(AutocastInferer("float32")(x, network, factor=3.0), network(x, factor=3.0))
    assert network.dtype == torch.float32


def test_gradients_stay_float32():
    network = Spy()
    AutocastInferer()(torch.randn(1, 1, 4, 4, 4), network).mean().backward()
    assert network.layer.weight.grad.dtype == torch.float32


def test_wraps_a_sliding_window():
    network, x = Spy(), torch.randn(1, 1, 8, 8, 8)
    window = SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0)
    out = AutocastInferer("bfloat16", window)(x, network)
    assert network.dtype == torch.bfloat16 and out.dtype == torch.float32 and out.shape == x.shape


def test_float16_is_refused():
    with pytest.raises(ValueError, match="'float16', expected one of bfloat16, float32"):
        AutocastInferer("float16")
