"""Fusion of image, note and clinical vector by one attention layer, and the classification head."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.data.modalities import MODALITIES

SIZES = {"vision": 512, "text": 768, "clinical": 256}


def subset_name(modalities: Sequence[str]) -> str:
    """Name of a set of modalities: joined with "_" in the order of `MODALITIES`, "all" for the three.

    Raises:
        ValueError: for an unknown or repeated modality or none.
    """
    unknown = [m for m in modalities if m not in MODALITIES]
    if unknown or not modalities or len(set(modalities)) != len(modalities):
        raise ValueError(f"modalities are {list(modalities)}, expected one or more of {', '.join(MODALITIES)}")
    ordered = [m for m in MODALITIES if m in modalities]
    return "all" if len(ordered) == len(MODALITIES) else "_".join(ordered)


SUBSETS = tuple(subset_name(c) for n in range(1, len(MODALITIES) + 1) for c in itertools.combinations(MODALITIES, n))


def subset_modalities(name: str) -> tuple[str, ...]:
    """Modalities of a subset by its name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in (*SUBSETS, "_".join(MODALITIES)):
        raise ValueError(f"the subset is {name!r}, expected one of {', '.join(SUBSETS)}")
    return MODALITIES if name == "all" else tuple(name.split("_"))


def present_columns(present: Tensor | None) -> dict[str, Tensor | None]:
    """(B, 3) bool, which modalities each case has, by their names; None for all of them without it.

    Raises:
        ValueError: for another shape or type.
    """
    if present is None:
        return dict.fromkeys(MODALITIES)
    if present.ndim != 2 or present.shape[1] != len(MODALITIES) or present.dtype != torch.bool:
        raise ValueError(
            f"present is {present.dtype} {tuple(present.shape)}, expected bool (B, {len(MODALITIES)}): "
            f"{', '.join(MODALITIES)}"
        )
    return dict(zip(MODALITIES, present.unbind(1), strict=True))


def modality_dropout(present: Tensor, rate: float) -> Tensor:
    """Hide modalities of single cases at random, never all that a case has.

    Args:
        present: (B, M) bool.
        rate: probability of hiding each.

    Returns:
        (B, M) bool, a subset of `present`; drawn from PyTorch's generator of that device.
    """
    draws = torch.rand(present.shape, device=present.device)
    kept = present & (draws >= rate)
    # Where none is left, the one with the largest draw stays: each with the same probability.
    last = draws.masked_fill(~present, -1).argmax(1, keepdim=True)
    spared = torch.zeros_like(present).scatter(1, last, True) & present
    return torch.where(kept.any(1, keepdim=True), kept, spared)


class FeatureScale(nn.Module):
    """Features minus their mean, over their standard deviation, each by itself, as measured once on a training set.

    What an encoder says of all images alike is most of the length of its features; where cases differ can be a
    hundredth of it. Fixed numbers, unlike batch normalisation: a case does not change with the batch it is in.

    Args:
        size: number of features.

    Attributes:
        mean, std: buffers (size,), 0 and 1 until `fit`.
        fitted: buffer, bool.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Measure both on (N, size) features; a spread below a hundredth of the usual one counts as that.

        Raises:
            ValueError: for another shape, no case, or values that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean) or not len(features):
            raise ValueError(f"the features have shape {tuple(features.shape)}, expected (N, {len(self.mean)})")
        if not features.isfinite().all():
            raise ValueError("the features have values that are not finite")
        features = features.double()
        std = features.std(0, correction=0)
        floor = std.square().mean().sqrt() / 100
        self.mean.copy_(features.mean(0))
        self.std.copy_(std.clamp(min=floor) if floor > 0 else torch.ones_like(std))
        self.fitted.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, size) to the same, of mean 0 and deviation 1 over the training set."""
        return (features - self.mean) / self.std


class FusionHead(nn.Module):
    """Each modality becomes a token; the tokens attend to each other; their mean is classified.

    A modality that a case does not have is replaced by a learned token, so every case has the same number of tokens
    and a case without any still gets an answer (about the labels' frequency).

    Args:
        modalities: those the head is built for.
        labels: number of outputs.
        sizes: length of each modality's vector.
        width: of the tokens.
        heads: of the attention layer.
        hidden: widths of the head's layers; 768 -> 512 -> 256 has 525,056 parameters.
        dropout_fusion: on the tokens and on what attention adds to them.
        dropout_head: after each hidden layer of the head; one number for all of them.
        modality_dropout: probability, while training, of hiding a modality of a case; see `modality_dropout`.

    Attributes:
        modalities: in the order of `MODALITIES`.
        sizes: of those.

    Raises:
        ValueError: for unknown modalities or sizes that do not divide.
    """

    def __init__(
        self,
        modalities: Sequence[str] = MODALITIES,
        labels: int = 14,
        sizes: Mapping[str, int] | None = None,
        width: int = 768,
        heads: int = 8,
        hidden: Sequence[int] = (512, 256),
        dropout_fusion: float = 0.3,
        dropout_head: float | Sequence[float] = (0.3, 0.2),
        modality_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.modalities = subset_modalities(subset_name(modalities))
        given = SIZES | dict(sizes or {})
        self.sizes = {m: given[m] for m in self.modalities}
        rates = [dropout_head] * len(hidden) if isinstance(dropout_head, int | float) else list(dropout_head)
        if len(rates) != len(hidden):
            raise ValueError(f"dropout_head is {dropout_head}, expected one number or one for each of {list(hidden)}")
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if not 0 <= modality_dropout < 1:
            raise ValueError(f"modality_dropout is {modality_dropout}, expected 0 or more and less than 1")
        self.labels, self.width, self.heads, self.hidden = labels, width, heads, tuple(hidden)
        self.dropout_fusion, self.dropout_head, self.modality_dropout = dropout_fusion, tuple(rates), modality_dropout
        # The encoders' outputs differ in scale by orders of magnitude. That of the clinical vector is trained with the
        # head and changes, so it has no fixed scale.
        self.projections = nn.ModuleDict(
            {
                m: nn.Sequential(nn.LayerNorm(n) if m == "clinical" else FeatureScale(n), nn.Linear(n, width))
                for m, n in self.sizes.items()
            }
        )
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.empty(width)) for m in self.modalities})
        for token in self.absent.values():
            nn.init.normal_(token, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout_fusion)
        self.final_norm = nn.LayerNorm(width)
        layers: list[nn.Module] = []
        for before, after, rate in zip((width, *hidden[:-1]), hidden, rates, strict=True):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(rate)]
        self.head = nn.Sequential(*layers, nn.Linear(hidden[-1], labels))

    def forward(self, features: Mapping[str, Tensor | None], present: Tensor | None = None) -> Tensor:
        """Classify cases.

        Args:
            features: modality -> (B, size); those the head is not built for are not looked at, one that is missing is
                absent for all cases. Rows of absent modalities may hold anything, NaN too.
            present: (B, 3) bool in the order of `MODALITIES`, which modalities each case has; default those given. A
                case with none must be said by it.

        Returns:
            (B, labels) logits, fp32.

        Raises:
            ValueError: if shapes differ from those of the head, or a modality is called present but not given.
        """
        present = self._present(features, present)
        if self.training and self.modality_dropout:
            present = modality_dropout(present, self.modality_dropout)
        tokens = self.dropout(
            torch.stack([self._token(m, features, present[:, i]) for i, m in enumerate(self.modalities)], 1)
        )
        normed = self.norm(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens = tokens + self.dropout(attended)
        return self.head(self.final_norm(tokens.mean(1))).float()

    def _token(self, modality: str, features: Mapping[str, Tensor | None], here: Tensor) -> Tensor:
        absent = self.absent[modality].expand(here.shape[0], -1)
        value = features.get(modality)
        if value is None:
            return absent
        # Zeroed before the projection: NaN in a row that is not used would otherwise reach the gradient as 0 * NaN.
        token = self.projections[modality](torch.where(here[:, None], value, 0))
        return torch.where(here[:, None], token, absent.to(token.dtype))

    def _present(self, features: Mapping[str, Tensor | None], present: Tensor | None) -> Tensor:
        """(B, M) bool of the head's own modalities, after checking the shapes."""
        given = {m: features[m] for m in self.modalities if features.get(m) is not None}
        if not given and present is None:
            raise ValueError(f"none of {', '.join(self.modalities)} is given, nor which cases have them (present)")
        # Not len(): a traced network would keep the number of cases that it was traced with.
        batch = present.shape[0] if present is not None else next(iter(given.values())).shape[0]
        for name, value in given.items():
            if value.shape != (batch, self.sizes[name]):
                raise ValueError(
                    f"the {name} features have shape {tuple(value.shape)}, expected {(batch, self.sizes[name])}"
                )
        device = self.head[0].weight.device
        here = torch.tensor([m in given for m in self.modalities], device=device).expand(batch, -1)
        if present is None:
            return here
        columns = present_columns(present)
        own = torch.stack([columns[m] for m in self.modalities], 1).to(device)
        for i, name in enumerate(self.modalities):
            if name not in given and own[:, i].any():
                raise ValueError(f"{name} is present in {int(own[:, i].sum())} of {batch} cases but was not given")
        return own

    def fit_scales(self, features: Mapping[str, Tensor], present: Tensor) -> None:
        """Measure the spread of the encoders' features on a training set, once: what is fitted stays.

        Args:
            features: modality -> (N, size).
            present: (N, 3) bool in the order of `MODALITIES`; cases that lack a modality do not count for it.

        Raises:
            ValueError: if no case has one of the modalities, or as `FeatureScale.fit`.
        """
        columns = present_columns(present)
        for name in self.modalities:
            scale = self.projections[name][0]
            if isinstance(scale, FeatureScale) and not scale.fitted:
                if not columns[name].any():
                    raise ValueError(f"no case of the training set has a {name} input, expected one at least")
                scale.fit(features[name][columns[name]])

    def definition(self) -> dict[str, Any]:
        """Arguments that build the same head."""
        return {
            "modalities": list(self.modalities),
            "labels": self.labels,
            "sizes": dict(self.sizes),
            "width": self.width,
            "heads": self.heads,
            "hidden": list(self.hidden),
            "dropout_fusion": self.dropout_fusion,
            "dropout_head": list(self.dropout_head),
            "modality_dropout": self.modality_dropout,
        }
