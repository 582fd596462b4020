"""An X-ray to a report: image encoder, anatomical queries, findings, and a decoder that reads them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from common.networks.haqt_arr import HAQTARR, AnatomicalTokens
from common.networks.pretrained_encoder import definition_of
from common.networks.weights import load_exactly, read_state

__all__ = ["ContextTokens", "FindingTokens", "ReportModel", "ReportOutput", "ReportStates"]


class ReportOutput(NamedTuple):
    """What a model says of a batch."""

    logits: Tensor
    """(B, T, vocabulary) of the next token, for the labels that were given."""
    findings: Tensor | None
    """(B, L) logits of the findings; None where they were given."""
    anatomy: AnatomicalTokens | None
    """None without an image."""


class ReportStates(NamedTuple):
    """What a decoder reads of a batch, and what it is made of."""

    states: Tensor
    """(B, N, features)."""
    mask: Tensor | None
    """(B, N), 1 where a state counts; None for all."""
    findings: Tensor | None
    """As of `ReportOutput`."""
    anatomy: AnatomicalTokens | None
    """As of `ReportOutput`."""


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


class ContextTokens(nn.Module):
    """A text as states for a decoder: its tokens' embeddings with places, and one layer of attention among them.

    Args:
        features: of the decoder.
        most: tokens.
        drop: share of the cases whose text is hidden while it trains, so that the decoder also knows to do without.
    """

    def __init__(self, features: int, most: int, drop: float = 0.3) -> None:
        super().__init__()
        self.places = nn.Embedding(most, features)
        self.layer = nn.TransformerEncoderLayer(
            features, max(1, features // 64), 2 * features, activation="gelu", batch_first=True, norm_first=True
        )
        self.drop = drop

    def forward(self, embeddings: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, M, features) and which of them count, of embeddings and (B, M) bool: never none of a case."""
        if self.training and self.drop:
            shown = torch.rand(len(known), 1, device=known.device) >= self.drop
            known = known & shown
        first = torch.arange(known.shape[1], device=known.device) == 0
        known = known | first  # the beginning of the text, which says nothing
        places = self.places.weight[: known.shape[1]]
        return self.layer(embeddings + places, src_key_padding_mask=~known), known


class ReportModel(nn.Module):
    """Image encoder, HAQT-ARR, findings and decoder, as parts of those names, and what reads a context.

    Args:
        queries: reads the encoder's tokens and gives those of the decoder's width.
        decoder: sequence-to-sequence (`common.llm.load.load_language_model`).
        vision: `common.networks.vision_encoder.VisionEncoder`; None where the images' tokens are given.
        findings: number of labels.
        finding_tokens: whether the decoder sees the findings; without, the head is trained beside it (ablation).
        context_tokens: of a text beside the image that it reads, such as the indication; 0 for none.

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
        context_tokens: int = 0,
    ) -> None:
        super().__init__()
        width = decoder.config.hidden_size
        if queries.features != width:
            raise ValueError(f"the queries give {queries.features} numbers, expected the decoder's {width}")
        self.vision, self.queries, self.decoder = vision, queries, decoder
        self.findings = FindingTokens(queries.in_features, width, findings, max(8, width // 2))
        self.finding_tokens, self.context_tokens = finding_tokens, context_tokens
        self.context = ContextTokens(width, context_tokens) if context_tokens else None
        for token in (self.findings.absent, self.findings.present):
            token.requires_grad_(finding_tokens)  # what gets no gradient stops distributed training

    @property
    def features_of(self) -> tuple[str, ...]:
        """The parts whose features it takes in place of having them."""
        return ("vision",) if self.vision is None else ()

    def forward(self, inputs: Tensor, labels: Tensor, context: Tensor | None = None) -> ReportOutput:
        """Logits of given reports (teacher forcing).

        Args:
            inputs: as of `states`.
            labels: (B, T) ids, `common.llm.tokens.IGNORED` where padded.
            context: as of `states`.
        """
        read = self.states(inputs, context)
        return ReportOutput(self.given(read, labels), read.findings, read.anatomy)

    def given(self, read: ReportStates, labels: Tensor) -> Tensor:
        """(B, T, vocabulary) logits of the next token after each part of given reports, see `states` and `forward`."""
        states = BaseModelOutput(last_hidden_state=read.states)
        return self.decoder(encoder_outputs=states, attention_mask=read.mask, labels=labels).logits

    def states(self, inputs: Tensor, context: Tensor | None = None) -> ReportStates:
        """What the decoder reads.

        Args:
            inputs: (B, 3, H, W) images, for the image encoder; or (B, N, C) tokens that it made of square images; or
                (B, L) findings in [0, 1] alone, of a text without an image.
            context: (B, M) ids of a text, `common.llm.tokens.IGNORED` where padded; the model must read one.

        Raises:
            ValueError: for an image without an encoder, tokens of no square, or inputs of another shape.
        """
        if inputs.ndim == 2:
            return ReportStates(*self._with(self.findings.tokens(inputs), context), None, None)
        if inputs.ndim == 4:
            if self.vision is None:
                raise ValueError("there is no image encoder, expected the tokens that one made of the images")
            _, tokens, grid = self.vision.tokens(inputs)
        elif inputs.ndim == 3 and math.isqrt(inputs.shape[1]) ** 2 == inputs.shape[1]:
            tokens, grid = inputs, (math.isqrt(inputs.shape[1]),) * 2
        else:
            expected = "images (B, 3, H, W), tokens (B, n * n, C) or findings (B, L)"
            raise ValueError(f"the inputs have shape {tuple(inputs.shape)}, expected {expected}")
        tokens = tokens.to(self.queries.queries.dtype)  # a cache keeps halves
        anatomy = self.queries(tokens, grid)
        logits, seen = self.findings(tokens, anatomy.tokens)
        states = torch.cat([anatomy.tokens, seen], 1) if self.finding_tokens else anatomy.tokens
        return ReportStates(*self._with(states, context), logits, anatomy)

    def _with(self, states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The states with those of a context behind them, and which count."""
        if context is None:
            return states, None
        if self.context is None:
            raise ValueError("the model reads no context, expected one with context_tokens")
        known = context >= 0
        more, counted = self.context(self.decoder.get_input_embeddings()(context.clamp(min=0)), known)
        mask = torch.cat([counted.new_ones(states.shape[:2]), counted], 1)
        return torch.cat([states, more.to(states.dtype)], 1), mask.long()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are trained, by learning rate: "encoder", "projection" (what is between), "decoder"."""
        parts = {"encoder": [self.vision], "projection": [self.queries, self.findings, self.context]}
        parts["decoder"] = [self.decoder]
        return {
            name: [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
            for name, modules in parts.items()
        }

    def load(self, path: str | os.PathLike[str], make_weights: str | None = None) -> ReportModel:
        """Load a plain state dict without running code in it, all parts or none; then in eval mode.

        Args:
            path: `model.pt`.
            make_weights: the command that makes it, for the sentence that says it is missing.

        Raises:
            MissingWeights: if there is no such file.
            ValueError: if it has other names or shapes.
        """
        load_exactly(self, read_state(path, make_weights), f"{path}")
        return self.eval()

    def parts(self) -> dict[str, nn.Module]:
        """The parts that are there, by the names that their weights begin with."""
        return {name: part for name, part in self.named_children() if part is not None}

    def definitions(self, parts: Sequence[str]) -> dict[str, Any]:
        """Ids of a configuration that build these parts: `vision_def#...`, `queries_def#...`, `decoder_def#config`."""
        found = {
            f"{name}_def#{key}": value
            for name in parts
            if name in ("vision", "queries")
            for key, value in getattr(self, name).definition().items()
        }
        if "decoder" in parts:
            found["decoder_def#config"] = definition_of(self.decoder)
        if "findings" in parts:
            found |= {f"network_def#{key}": value for key, value in self.definition().items()}
        return found

    def definition(self) -> dict[str, Any]:
        """Arguments beside the parts."""
        found = {"findings": len(self.findings.present), "finding_tokens": self.finding_tokens}
        return found | {"context_tokens": self.context_tokens}
