"""What `run` does with stages is in test_recipe.py."""

import shlex
from pathlib import Path
from typing import Any

import fire
import pytest
import torch

from common.apps.run.bundle import cpu_count
from common.apps.run.stage_runner import monai_command, settings_of_torch

VALUES = {
    "train#trainer#max_epochs": 3,
    "rate": 1e-4,
    "label": "000123",
    "number_as_text": "123",
    "words": "a,b",
    "spaces": "two words",
    "dollar": "$@seed + 1",
    "quotes": 'it\'s "quoted" `now`',
    "switch": False,
    "sizes": [32, 64],
    "names": ["a", "b"],
    "nested": {"a": [1, "x"]},
    "path": "/tmp/a b/$HOME",
}


def test_the_command_gives_back_every_value() -> None:
    files = ["bundles/a/configs/train.json", "bundles/a/configs/first stage.json"]
    words = shlex.split(monai_command(files, Path("logging.conf"), VALUES | {"nothing": None}))
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    seen: dict[str, Any] = {}
    fire.Fire(lambda **options: seen.update(options), command=words[4:])
    assert seen == VALUES | {"nothing": "$None", "config_file": files, "logging_file": "logging.conf"}


def test_the_command_is_readable() -> None:
    command = monai_command(["a/train.json", "a/first.json"], None, {"seed": 0, "train#trainer#max_epochs": 3})
    assert command == (
        "python -m monai.bundle run --config_file \"['a/train.json', 'a/first.json']\" --seed 0 "
        "--train#trainer#max_epochs 3"
    )


def test_threads_are_those_of_the_machine_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with settings_of_torch():
        assert torch.get_num_threads() == cpu_count()
    assert torch.get_num_threads() == before
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    with settings_of_torch():
        assert torch.get_num_threads() == before
