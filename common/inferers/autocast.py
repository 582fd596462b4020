"""Run a network in bfloat16 on whatever device its input is on, and hand float32 to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

__all__ = ["AutocastInferer"]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": None}


class AutocastInferer(Inferer):
    """Wrap another inferer in `torch.autocast`, on CPU and GPU alike.

    MONAI engines switch autocast on for CUDA only and pair it with a gradient scaler, which bfloat16 does not need; so
    the engine's `amp` stays False. Weights and optimizer remain float32.

    Args:
        dtype: "bfloat16" or "float32" (no autocast).
        inferer: what calls the network, e.g. a `SlidingWindowInferer`; a plain call by default.

    Raises:
        ValueError: for another dtype; float16 would need a gradient scaler.
    """

    def __init__(self, dtype: str = "bfloat16", inferer: Inferer | None = None) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"autocast dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
        self.dtype = dtype
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Any, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call `network(inputs, *args, **kwargs)`; the inputs may be a tensor, or a dict or list of tensors.

        Returns:
            Its output, a tensor or a tuple of tensors, in float32.
        """
        dtype = _DTYPES[self.dtype]
        if dtype is None:
            return self.inferer(inputs, network, *args, **kwargs)
        with torch.autocast(_device_type((inputs, args, kwargs)), dtype):
            output = self.inferer(inputs, network, *args, **kwargs)
        if isinstance(output, (tuple, list)):
            return type(output)(part.float() for part in output)
        return output.float()


def _device_type(inputs: Any) -> str | None:
    """Type of the device of the first tensor found."""
    if isinstance(inputs, Tensor):
        return inputs.device.type
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    return next((kind for kind in map(_device_type, parts) if kind is not None), None)
