"""Reading a file of weights without running code in it."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_checkpoint(path: Path) -> Mapping:
    """Content of a `.safetensors` file or of one that `torch.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as weights or is no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return content
