import pytest
import torch

from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.weights import count_parameters


def test_paper_size():
    # 45 -> 256 -> 256 -> 256, a norm of 2 x 256 each.
    assert count_parameters(ClinicalEncoder()) == 45 * 256 + 256 + 2 * (256 * 256 + 256) + 3 * 512
    assert ClinicalEncoder().features == 256


def test_a_case_does_not_depend_on_its_batch():
    encoder = ClinicalEncoder(inputs=5, hidden=(8, 6)).eval()
    batch = torch.randn(4, 5)
    torch.testing.assert_close(encoder(batch)[2:3], encoder(batch[2:3]))
    assert encoder(batch).shape == (4, 6)
    assert ClinicalEncoder(**encoder.definition()).definition() == encoder.definition()


def test_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 44\), expected \(B, 45\)"):
        ClinicalEncoder()(torch.zeros(2, 44))
