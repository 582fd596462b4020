"""An X-ray to a report: image encoder, anatomical queries, findings, and a decoder that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from common.networks.haqt_arr import HAQTARR, AnatomicalTokens

__all__ = ["FindingTokens", "ReportModel", "ReportOutput"]


class ReportOutput(NamedTuple):
    """What a model says of a batch."""

    logits: Tensor
    """(B, T, vocabulary) of the next token, for the labels that were given."""
    findings: Tensor
    """(B, L) logits of the findings."""
    anatomy: AnatomicalTokens


class FindingTokens(nn.Module):
    """Logits of findings from an image, and a token of each for a decoder: between "absent" and "present".

    The tokens take the probabilities as they are: what a decoder makes of them does not move the head.

    Args:
        image_features: channels of the image tokens.
        features: of the anatomical tokens and of those that are made.
        findings: their number.
        hidden: width of the head.
    """

    def __init__(self, image_features: int, features: int, findings: int = 14, hidden: int = 512) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(image_features + features, hidden), nn.GELU(), nn.Linear(hidden, findings))
        # As large as the anatomical tokens, which a linear layer makes of normalised ones.
        self.absent = nn.Parameter(torch.randn(findings, features) * 0.5)
        self.present = nn.Parameter(torch.randn(findings, features) * 0.5)

    def forward(self, image: Tensor, anatomy: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) logits and (B, L, features) tokens of (B, N, image_features) and (B, Q, features)."""
        logits = self.head(torch.cat([image.mean(1), anatomy.mean(1)], -1))
        return logits, self.tokens(logits.detach().sigmoid())

    def tokens(self, probability: Tensor) -> Tensor:
        """(B, L, features) of (B, L) in [0, 1]."""
        share = probability[..., None].to(self.present.dtype)
        return share * self.present + (1 - share) * self.absent


class ReportModel(nn.Module):
    """Image encoder, HAQT-ARR, findings and decoder, as parts of those names.

    Args:
        queries: reads the encoder's tokens and gives those of the decoder's width.
        decoder: sequence-to-sequence (`common.llm.load.load_language_model`).
        vision: `common.networks.vision_encoder.VisionEncoder`; None where the images' tokens are given.
        findings: number of labels.
        finding_tokens: whether the decoder sees the findings; without, the head is trained beside it (ablation).

    Raises:
        ValueError: if the widths differ.
    """

    def __init__(
        self,
        queries: HAQTARR,
        decoder: PreTrainedModel,
        vision: nn.Module | None = None,
        findings: int = 14,
        finding_tokens: bool = True,
    ) -> None:
        super().__init__()
        width = decoder.config.hidden_size
        if queries.features != width:
            raise ValueError(f"the queries give {queries.features} numbers, expected the decoder's {width}")
        self.vision, self.queries, self.decoder = vision, queries, decoder
        self.findings = FindingTokens(queries.in_features, width, findings, max(8, width // 2))
        self.finding_tokens = finding_tokens

    def forward(
        self,
        labels: Tensor,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        grid: Sequence[int] | None = None,
        more: Tensor | None = None,
    ) -> ReportOutput:
        """Logits of given reports (teacher forcing).

        Args:
            labels: (B, T) ids, `common.llm.tokens.IGNORED` where padded.
            image: (B, 3, H, W), for the image encoder; or
            tokens: (B, N, C) of the images, and
            grid: theirs, (h, w).
            more: as of `states`.
        """
        states, findings, anatomy = self.states(image, tokens, grid, more)
        logits = self.decoder(encoder_outputs=BaseModelOutput(last_hidden_state=states), labels=labels).logits
        return ReportOutput(logits, findings, anatomy)

    def states(
        self,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        grid: Sequence[int] | None = None,
        more: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, AnatomicalTokens]:
        """What the decoder reads of a batch of images, its findings and anatomy.

        Args:
            image: (B, 3, H, W); this, tokens and grid as of `forward`.
            tokens: see there.
            grid: see there.
            more: (B, M, features) further states, such as an indication.

        Returns:
            (B, Q + L + M, features), (B, L) logits, and the anatomical tokens.

        Raises:
            ValueError: without image and tokens, or with an image and no encoder.
        """
        if tokens is None:
            if image is None or self.vision is None:
                raise ValueError("neither tokens nor an image with an encoder is given, expected one of them")
            _, tokens, grid = self.vision.tokens(image)
        tokens = tokens.to(self.queries.queries.dtype)
        anatomy = self.queries(tokens, tuple(grid))
        logits, seen = self.findings(tokens, anatomy.tokens)
        parts = [anatomy.tokens, *([seen] if self.finding_tokens else []), *([] if more is None else [more])]
        return torch.cat(parts, 1), logits, anatomy

    def parts(self) -> dict[str, nn.Module]:
        """The parts that are there, by the names that their weights begin with."""
        return {name: part for name, part in self.named_children() if part is not None}

    def definition(self) -> dict[str, Any]:
        """Arguments beside the parts."""
        return {"findings": len(self.findings.present), "finding_tokens": self.finding_tokens}
