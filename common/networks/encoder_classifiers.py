"""Image and note encoder, each with a classifier of its own: how encoders are trained where none are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.data.modalities import MODALITIES
from common.networks.mdfnet import StudyParts
from common.networks.modality_fusion import present_columns

__all__ = ["EncoderClassifiers"]

_NOTE = ("input_ids", "attention_mask")


class EncoderClassifiers(StudyParts):
    """Each encoder learns the labels by itself, through batch normalisation and one linear layer.

    A fusion would let the note's encoder rest on the image's. A head without hidden layers, on features of equal
    spread, leaves it to the encoder to lay every label out in its features; under a deeper head they fall onto a line.

    Args:
        vision: VisionEncoder or None.
        text: TextEncoder or None.
        labels: number of outputs.

    Raises:
        ValueError: without any encoder.
    """

    def __init__(self, vision: nn.Module | None = None, text: nn.Module | None = None, labels: int = 14) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        encoders = {name: getattr(self, name) for name in MODALITIES[:2] if getattr(self, name) is not None}
        if not encoders:
            raise ValueError("there is neither a vision nor a text encoder, expected at least one")
        self.modalities = tuple(encoders)
        self.norms = nn.ModuleDict({name: nn.BatchNorm1d(e.features) for name, e in encoders.items()})
        self.heads = nn.ModuleDict({name: nn.Linear(e.features, labels) for name, e in encoders.items()})

    def forward(
        self,
        image: Tensor | None = None,
        note: Mapping[str, Tensor] | None = None,
        clinical: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Classify cases by each input that has an encoder; takes what `MDFNet` takes.

        Args:
            image: (B, 3, H, W), normalised with the encoder's `mean` and `std`.
            note: `input_ids` and `attention_mask`, both (B, T).
            clinical: not looked at.
            present: (B, 3) bool in the order of `MODALITIES`; default those given. Rows of absent ones may hold
                anything.

        Returns:
            fp32 logits: while training (B, encoders, labels), 0 without gradient for an absent input; else (B, labels),
            the mean over what is present.

        Raises:
            ValueError: if none of the encoders has an input.
        """
        columns, given = present_columns(present), {"vision": image, "text": note}
        answers, here = [], []
        for name in self.modalities:
            value = given[name]
            if value is None:
                continue
            first = value if torch.is_tensor(value) else value["input_ids"]
            rows = None if columns[name] is None else columns[name].to(first.device)
            answers.append(self._logits(name, value, rows))
            here.append(torch.ones(len(first), dtype=torch.bool, device=first.device) if rows is None else rows)
        if not answers:
            raise ValueError(f"there is no input for {' and '.join(self.modalities)}, expected one of them")
        logits, weight = torch.stack(answers, 1), torch.stack(here, 1)[..., None]
        if self.training:
            return logits
        return (logits * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _logits(self, name: str, value: Any, rows: Tensor | None) -> Tensor:
        """(B, labels), only rows with the input are encoded, so that the others are in no mean of a batch."""
        if rows is not None and not rows.any():
            return self.heads[name].weight.new_zeros(len(rows), self.heads[name].out_features)
        given = (value,) if name == "vision" else tuple(value[key] for key in _NOTE)
        features = getattr(self, name)(*(given if rows is None else (part[rows] for part in given)))
        norm, features = self.norms[name], features.float()
        if self.training and len(features) == 1:
            # One case has no spread: it is normalised by what earlier batches had.
            features = F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            features = norm(features)
        logits = self.heads[name](features).float()
        if rows is None:
            return logits
        return logits.new_zeros(len(rows), logits.shape[1]).masked_scatter(rows[:, None], logits)

    def parts(self) -> dict[str, nn.Module]:
        """The encoders, which are what is kept of it, by the names that their weights begin with."""
        return {name: getattr(self, name) for name in self.modalities}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: "encoders" and "head"."""
        encoders = [p for name in self.modalities for p in getattr(self, name).parameters()]
        return {"encoders": encoders, "head": [*self.norms.parameters(), *self.heads.parameters()]}
