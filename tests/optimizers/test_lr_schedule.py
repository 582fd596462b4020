import math

import pytest
import torch
from monai.bundle import ConfigParser
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from common.optimizers.lr_schedule import warmup_cosine


def rates(count, **kwargs):
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), 2.0)
    schedule, found = warmup_cosine(optimizer, **kwargs), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_per_epoch_against_the_formula():
    found = rates(14, max_epochs=12, warmup_epochs=4)
    assert found[:5] == pytest.approx([2 * f / 5 for f in (1, 2, 3, 4, 5)])
    cosine = [1 + math.cos(math.pi * k / 8) for k in range(9)]
    assert found[4:13] == pytest.approx(cosine)
    assert found[13] == pytest.approx(0)


def test_per_iteration_is_the_same_curve_in_finer_steps():
    fine = rates(100, max_epochs=10, warmup_epochs=2, steps_per_epoch=10)
    assert fine[20] == pytest.approx(2.0) and max(fine) == fine[20]
    assert fine[60] == pytest.approx(2 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert min(fine) > 0


def test_groups_keep_their_own_rate_and_a_resume_follows():
    layers = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = [{"params": layers[0].parameters(), "lr": 1.0}, {"params": layers[1].parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_cosine(optimizer, max_epochs=10, warmup_epochs=3)
    optimizer.step(), schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    again = warmup_cosine(torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0), max_epochs=10, warmup_epochs=3)
    again.load_state_dict(schedule.state_dict())
    assert again.last_epoch == 1


def test_by_target_from_a_configuration():
    config = {
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$[torch.nn.Parameter(torch.ones(1))]", "lr": 1.0},
        "lr_scheduler": {
            "_target_": "common.optimizers.lr_schedule.warmup_cosine", "optimizer": "@optimizer", "max_epochs": 100
        },
        "imports": ["$import torch"],
    }  # fmt: skip
    parser = ConfigParser(config)
    parser.get_parsed_content("imports")
    assert parser.get_parsed_content("lr_scheduler").get_last_lr() == [pytest.approx(1 / 6)]


def test_refusals():
    for kwargs in ({"max_epochs": 5}, {"max_epochs": 5, "warmup_epochs": -1}):
        with pytest.raises(ValueError, match="expected a part of the training"):
            rates(1, **kwargs)


def test_monais_schedule_is_the_same_curve():
    """But for the last digit in the warm-up, and for what comes after the end, which is why ours is kept."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 2.0)
    monai, theirs = WarmupCosineSchedule(optimizer, 18, 630, warmup_multiplier=1 / 19), []
    for _ in range(640):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), monai.step()
    ours = rates(640, max_epochs=70, warmup_epochs=2, steps_per_epoch=9)
    assert ours[:18] == pytest.approx(theirs[:18], rel=1e-15) and ours[:18] != theirs[:18]
    assert ours[18:630] == theirs[18:630]
    assert ours[639] == 0 < theirs[639]
