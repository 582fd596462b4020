"""Run a network in bfloat16 where the device of its input does so soundly, and hand float32 to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

__all__ = ["AutocastInferer", "default_precision"]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": None}


def default_precision(device: torch.device | str) -> str:
    """The dtype that training computes in where nobody says otherwise: "float32" on CPUs, else "bfloat16".

    On CPUs torch 2.13 gives NaN, at random and without an error, as weight gradients of a `Conv3d` in bfloat16 whose
    input has a depth of 2. tests/inferers/test_autocast.py notices when it no longer does.
    """
    return "float32" if torch.device(device).type == "cpu" else "bfloat16"


class AutocastInferer(Inferer):
    """Wrap another inferer in `torch.autocast`, on CPU and GPU alike.

    MONAI engines switch autocast on for CUDA only and pair it with a gradient scaler, which bfloat16 does not need; so
    the engine's `amp` stays False. Weights and optimizer remain float32.

    Args:
        dtype: "bfloat16" or "float32" (no autocast); None is `default_precision` of the device of the input.
        inferer: what calls the network, e.g. a `SlidingWindowInferer`; a plain call by default.

    Raises:
        ValueError: for another dtype; float16 would need a gradient scaler.
    """

    def __init__(self, dtype: str | None = None, inferer: Inferer | None = None) -> None:
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"autocast dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
        self.dtype = dtype
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Any, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call `network(inputs, *args, **kwargs)`; the inputs may be a tensor, or a dict or list of tensors.

        Returns:
            Its output, whose tensors of numbers, in tuples and lists too, are in float32.
        """
        device = _device_type((inputs, args, kwargs))
        dtype = _DTYPES[self.dtype or default_precision(device)]
        if dtype is None:
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast(device, dtype):
            output = self.inferer(inputs, network, *args, **kwargs)
        return _as_float32(output)


def _as_float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, tuple | list):
        parts = map(_as_float32, output)
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def _device_type(inputs: Any) -> str | None:
    """Type of the device of the first tensor found."""
    if isinstance(inputs, Tensor):
        return inputs.device.type
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    return next((kind for kind in map(_device_type, parts) if kind is not None), None)
