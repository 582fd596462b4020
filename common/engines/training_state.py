"""What a training is at one moment beyond its modules: random states, counters; and the file that holds it all."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.io.bad_input import BadInput
from common.networks.weights import read_checkpoint, write_checkpoint

__all__ = ["DamagedCheckpoint", "load_random_state", "random_state", "read_state_file", "write_state_file"]

FORMAT = 1


class DamagedCheckpoint(BadInput):
    """A checkpoint whose bytes are not those that were written."""


def random_state() -> dict[str, Any]:
    """States of the global generators of Python, NumPy, torch and every CUDA device, of plain types and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_random_state(state: Mapping[str, Any]) -> None:
    """Bring the global generators into the state that `random_state` saw."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def write_state_file(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training as `common.networks.weights.write_checkpoint` does."""
    write_checkpoint(path, {"format": FORMAT, **state})


def read_state_file(path: Path) -> Mapping[str, Any]:
    """Read what `write_state_file` wrote, tensors on the CPU; code in the file is not run.

    Raises:
        DamagedCheckpoint: if it cannot be read whole.
        BadInput: if it is another kind of file.
    """
    try:
        state = read_checkpoint(path)
    except ValueError as error:
        raise DamagedCheckpoint(path, f"is not a whole checkpoint ({str(error).removeprefix(f'{path} ')})") from error
    if state.get("format") != FORMAT:
        raise BadInput(path, f"is not a checkpoint of a training, expected one of format {FORMAT}")
    return state
