import pytest
import torch

from common.data.seeds import seeded_generator


def test_depends_on_all_numbers_in_order():
    def draw(*numbers):
        return torch.randn(8, generator=seeded_generator(*numbers))

    assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
    others = [draw(0, 1, 3), draw(0, 2, 1), draw(1, 1, 2), draw(0, 1, 2, 0), draw(0, 1)]
    assert not any(torch.equal(draw(0, 1, 2), other) for other in others)
    with pytest.raises(ValueError):
        draw(-1)
