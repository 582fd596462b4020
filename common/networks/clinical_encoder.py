"""Encoder of the clinical vector (vital signs, age, ... and what of them is missing)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["ClinicalEncoder"]


class ClinicalEncoder(nn.Module):
    """Dense layers, 45 -> 256 -> 256 -> 256, each with LayerNorm and GELU.

    LayerNorm and not BatchNorm: a case must not change with the batch it is in.

    Args:
        inputs: length of the clinical vector.
        hidden: width of each layer.
        dropout: after each layer but the last.

    Attributes:
        features: length of the output.
    """

    def __init__(self, inputs: int = 45, hidden: Sequence[int] = (256, 256, 256), dropout: float = 0.1) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers[:-1])
        self.inputs, self.hidden, self.dropout, self.features = inputs, tuple(hidden), dropout, widths[-1]

    def forward(self, clinical: Tensor) -> Tensor:
        """Encode clinical vectors.

        Args:
            clinical: (B, inputs), standardised, no NaN.

        Returns:
            (B, features).

        Raises:
            ValueError: for another shape.
        """
        if clinical.ndim != 2 or clinical.shape[1] != self.inputs:
            raise ValueError(f"the clinical vector has shape {tuple(clinical.shape)}, expected (B, {self.inputs})")
        return self.layers(clinical)

    def definition(self) -> dict[str, Any]:
        """Arguments that build the same network."""
        return {"inputs": self.inputs, "hidden": list(self.hidden), "dropout": self.dropout}
