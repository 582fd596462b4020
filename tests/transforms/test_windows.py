import pytest
import torch
from monai.transforms import ScaleIntensityRange

from common.transforms.windows import WINDOWS, scale_window, unscale_window


@pytest.mark.parametrize("window", WINDOWS)
def test_equals_monai(window):
    hu = torch.linspace(-2000, 3000, 501)
    low, high = WINDOWS[window]
    expected = ScaleIntensityRange(low, high, 0, 1, clip=True)(hu)
    torch.testing.assert_close(scale_window(hu, window), torch.as_tensor(expected))


def test_unscaling_inverts_inside_the_window():
    hu = torch.linspace(-160, 240, 9)
    torch.testing.assert_close(unscale_window(scale_window(hu, "soft_tissue"), "soft_tissue"), hu)


def test_unknown_window_is_named():
    with pytest.raises(ValueError, match="'brain'.*soft_tissue"):
        scale_window(torch.zeros(1), "brain")
