"""HAQT-ARR: anatomical queries read an image's tokens under spatial priors, and are routed over seven regions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.text.difficulty import REGIONS

__all__ = ["HAQTARR", "REGIONS", "AnatomicalTokens"]

# Centre (x, y) and width (one standard deviation) of each, as shares of a frontal image, where the patient's right is
# on the left; about where and how far the regions of virtual patients are projected.
_CENTRES = ((0.30, 0.47), (0.71, 0.48), (0.55, 0.60), (0.50, 0.43), (0.50, 0.51), (0.50, 0.75), (0.50, 0.82))
_WIDTHS = ((0.12, 0.21), (0.12, 0.21), (0.12, 0.09), (0.08, 0.25), (0.05, 0.35), (0.27, 0.08), (0.35, 0.08))
_WIDTH_RANGE = (0.02, 0.60)


class AnatomicalTokens(NamedTuple):
    """What HAQT-ARR makes of a batch of images; G global queries, R regions of q queries, a grid of (h, w) tokens."""

    tokens: Tensor
    """(B, G + R * q, features): the global ones first, then region by region."""
    routing: Tensor
    """(B, R), sums to 1: how much each region counts."""
    attention: Tensor
    """(B, G + R * q, h, w), sums to 1 over the grid: where each query read, mean of the heads of the last layer."""
    priors: Tensor
    """(B, R, h, w), sums to 1 over the grid: each region's refined Gaussian."""
    centres: Tensor
    """(B, R, 2): its centre (x, y) as shares of the image, in (0, 1)."""


class HAQTARR(nn.Module):
    """Tokens of an image to a few tokens for a decoder: some of the whole image, the others each of one region.

    The log of a region's Gaussian, times a learned strength, is added to the attention of its queries over the image.
    The Gaussians are learned and then moved for each image by what it shows under them. Routing, a softmax over the
    regions, is added as its log to the attention that the tokens pay to each region's tokens in the cross-region
    layers, so a region that counts half is half as much looked at.

    Args:
        in_features: channels of the image tokens.
        features: of the tokens that are returned, as the decoder takes them.
        global_queries: of the whole image.
        region_queries: of each region.
        width: within.
        heads: of every attention.
        query_layers: in which queries read the image.
        region_layers: in which they read each other.
        dropout: on what each layer adds.
        use_priors: without, queries of a region read the image as global ones do (ablation).
        use_routing: without, all regions count alike (ablation).

    Attributes:
        regions: their names, in the order of everything that has one of them each.

    Raises:
        ValueError: if a size is not positive or `width` no multiple of `heads` and of 4.
    """

    regions = REGIONS

    def __init__(
        self,
        in_features: int = 1024,
        features: int = 1024,
        global_queries: int = 8,
        region_queries: int = 4,
        width: int = 1024,
        heads: int = 16,
        query_layers: int = 2,
        region_layers: int = 2,
        dropout: float = 0.1,
        use_priors: bool = True,
        use_routing: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "features": features, "region_queries": region_queries, "heads": heads}
        sizes |= {"width": width, "query_layers": query_layers, "region_layers": region_layers}
        for name, value in (sizes | {"global_queries": global_queries + 1}).items():
            if value < 1:
                raise ValueError(f"{name} is {value}, expected a positive number")
        if width % heads or width % 4:
            raise ValueError(f"width {width} is not a multiple of 4 and of heads {heads}")
        self.in_features, self.features, self.width, self.heads = in_features, features, width, heads
        self.global_queries, self.region_queries, self.dropout = global_queries, region_queries, dropout
        self.use_priors, self.use_routing = use_priors, use_routing
        self.queries = nn.Parameter(torch.randn(global_queries + len(REGIONS) * region_queries, width) * 0.02)
        self.image = nn.Sequential(nn.LayerNorm(in_features), nn.Linear(in_features, width))
        low, high = _WIDTH_RANGE
        self.centre_logit = nn.Parameter(torch.logit(torch.tensor(_CENTRES)))
        self.width_logit = nn.Parameter(torch.logit((torch.tensor(_WIDTHS) - low) / (high - low)))
        self.strength = nn.Parameter(torch.full((len(REGIONS),), math.log(math.e - 1)))  # 1 after softplus
        self.refine = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 4))
        nn.init.zeros_(self.refine[-1].weight)  # training starts from the priors as they are
        nn.init.zeros_(self.refine[-1].bias)
        self.query_layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(query_layers))
        self.router = nn.Sequential(nn.Linear(2 * width, width // 2), nn.GELU(), nn.Linear(width // 2, 1))
        if not use_priors:
            self.strength.requires_grad_(False)  # what gets no gradient stops distributed training
        if not use_routing:
            self.router.requires_grad_(False)
        self.region_layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(region_layers))
        self.projection = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, features))

    def forward(self, image: Tensor, grid: tuple[int, int]) -> AnatomicalTokens:
        """Read a batch of images.

        Args:
            image: (B, h * w, in_features), row by row from the image's upper left corner.
            grid: (h, w).

        Raises:
            ValueError: if the number of tokens is not that of the grid, or their channels differ.
        """
        if image.ndim != 3 or image.shape[1] != math.prod(grid) or image.shape[2] != self.in_features:
            expected = (image.shape[0], math.prod(grid), self.in_features)
            raise ValueError(f"the image tokens have shape {tuple(image.shape)}, expected {expected} for grid {grid}")
        place = _places(grid, image.device)
        seen = self.image(image)
        seen = seen + _sine_embedding(place, self.width).to(seen.dtype)
        log_priors, centres = self._log_priors(seen, place)
        mask = self._prior_mask(log_priors) if self.use_priors else None
        tokens = self.queries.expand(len(image), -1, -1)
        for layer in self.query_layers:
            tokens, attention = layer(tokens, seen, mask)
        routing = self._routing(seen, tokens)
        bias = self._routing_mask(routing)
        for layer in self.region_layers:
            tokens, _ = layer(tokens, None, bias)
        return AnatomicalTokens(
            self.projection(tokens),
            routing,
            attention.unflatten(-1, grid),
            log_priors.softmax(-1).unflatten(-1, grid),
            centres,
        )

    def definition(self) -> dict[str, Any]:
        """Arguments that build the same network."""
        return {
            "in_features": self.in_features,
            "features": self.features,
            "global_queries": self.global_queries,
            "region_queries": self.region_queries,
            "width": self.width,
            "heads": self.heads,
            "query_layers": len(self.query_layers),
            "region_layers": len(self.region_layers),
            "dropout": self.dropout,
            "use_priors": self.use_priors,
            "use_routing": self.use_routing,
        }

    def _log_priors(self, seen: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R, N) log of the refined Gaussians, 0 at their centres, and (B, R, 2) centres; fp32."""
        first, _ = self._gaussians(self.centre_logit, self.width_logit, place)  # (R, N)
        under = first.softmax(-1).to(seen.dtype) @ seen  # (B, R, width): what the image shows under each
        moved = self.refine(under).float()
        centre_logit = self.centre_logit + moved[..., :2]
        return self._gaussians(centre_logit, self.width_logit + moved[..., 2:], place)

    def _gaussians(self, centre_logit: Tensor, width_logit: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N) logs of Gaussians and their centres: logits keep centres in the image and widths in their range."""
        low, high = _WIDTH_RANGE
        centre, width = centre_logit.sigmoid(), low + (high - low) * width_logit.sigmoid()
        apart = (place - centre[..., None, :]) / width[..., None, :]
        return -0.5 * apart.square().sum(-1), centre

    def _prior_mask(self, log_priors: Tensor) -> Tensor:
        """(B, 1, Q, N), to be added to attention over the image: nothing for global queries."""
        per_region = F.softplus(self.strength)[:, None] * log_priors
        per_query = per_region.repeat_interleave(self.region_queries, 1)
        return F.pad(per_query, (0, 0, self.global_queries, 0))[:, None]

    def _routing(self, seen: Tensor, tokens: Tensor) -> Tensor:
        """(B, R) softmax from the mean of the image and the mean of each region's queries; fp32."""
        regions = tokens[:, self.global_queries :].unflatten(1, (len(REGIONS), -1)).mean(2)
        both = torch.cat([seen.mean(1, keepdim=True).expand_as(regions), regions], -1)
        scores = self.router(both)[..., 0].float()
        return scores.softmax(-1) if self.use_routing else torch.full_like(scores, 1 / len(REGIONS))

    def _routing_mask(self, routing: Tensor) -> Tensor:
        """(B, 1, 1, Q), to be added to attention over the tokens: 0 for global ones and where all count alike."""
        log = (routing * len(REGIONS)).clamp(min=1e-6).log().repeat_interleave(self.region_queries, 1)
        return F.pad(log, (self.global_queries, 0))[:, None, None]


class _Layer(nn.Module):
    """Attention (over an image, or over the tokens themselves) and a perceptron, each added to normalised tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, image: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, Q, width) tokens, and their attention: (B, Q, N) fp32, mean over the heads."""
        normed = self.norm(tokens)
        key, value = self.key_value(normed if image is None else image).chunk(2, -1)
        query, key, value = (self._split(x) for x in (self.query(normed), key, value))
        scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(key.shape[-1])
        weights = (scores if mask is None else scores + mask).softmax(-1)
        read = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.out(read))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens))), weights.mean(1)

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, width) to (B, heads, N, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _places(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, 2): centre (x, y) of each token as shares of the image."""
    y, x = ((torch.arange(n, device=device) + 0.5) / n for n in grid)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1)


def _sine_embedding(place: Tensor, width: int) -> Tensor:
    """(N, width): sines and cosines of x and y, so that any grid has positions (Vaswani et al., 2017, in 2-D)."""
    steps = torch.arange(width // 4, device=place.device) / (width // 4)
    angles = place[..., None] * 2 * math.pi * 32.0**steps  # (N, 2, width / 4): 1 to 32 periods an image
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
