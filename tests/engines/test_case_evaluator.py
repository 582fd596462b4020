"""A case that fails in the network or behind it is left out, and the next ones go on."""

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.transforms import Lambdad

from common.data.datasets.case_loader import CaseLoader
from common.engines.case_evaluator import CaseEvaluator

CASES = [{"case": str(n), "image": torch.full((1, 2), float(n))} for n in range(4)]


class Refusing(torch.nn.Module):
    """Raises for the case that is full of twos."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x == 2).any():
            raise ValueError("two is coarser than the input, expected less")
        return x


def late(x: torch.Tensor) -> torch.Tensor:
    if x.mean() == 1:
        raise KeyError("affine")
    return x


def evaluated(batch_size: int = 1, **options: Any) -> tuple[list[dict[str, str]], list[float]]:
    loader = CaseLoader(Dataset(CASES), [{"case": case["case"]} for case in CASES], batch_size)
    engine = CaseEvaluator(device="cpu", val_data_loader=loader, network=Refusing(), **options)
    seen: list[float] = []

    def keep(engine: CaseEvaluator) -> None:
        seen.extend(float(item["pred"].mean()) for item in engine.state.output or [])

    engine.add_event_handler(Events.ITERATION_COMPLETED, keep)
    engine.run()
    return loader.excluded, seen


def test_a_case_that_the_network_refuses_is_left_out() -> None:
    excluded, seen = evaluated()
    assert seen == [0, 1, 3]
    assert excluded == [{"path": "2", "reason": "two is coarser than the input, expected less"}]


def test_a_case_that_fails_in_a_transform_behind_the_network_is_left_out() -> None:
    excluded, seen = evaluated(postprocessing=Lambdad("pred", late))
    assert seen == [0, 3]
    assert excluded[0] == {"path": "1", "reason": "KeyError: 'affine'"}


def test_a_batch_of_several_does_not_say_whose_fault_it_is() -> None:
    with pytest.raises(ValueError, match="two is coarser"):
        evaluated(batch_size=4)
