"""Latents of CT slices from the frozen VAE, for the stage of frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.inferers.chunked_vae import ChunkedVAE
from common.inferers.frozen_encoders import FrozenEncoder
from common.networks.weights import weights_hash
from common.transforms.ct_pairs import PairReader
from common.transforms.slabs import interpolate_slices, ratio_condition
from common.transforms.windows import scale_window

__all__ = ["SliceLatents"]


class SliceLatents(FrozenEncoder):
    """Latents of a CT's thin slices, or of its thick ones interpolated to the same grid: the VAE's `z_mu`.

    No sampling noise, not times the scale factor. Takes the cases of `common.transforms.ct_pairs.pair_cases`; their
    column `spacing` is the (3,) `common.transforms.slabs.ratio_condition`.

    Args:
        chunked_vae: the frozen VAE with its chunk sizes.
        side: "thin" or "thick".
        pairs: reads a case; shared by both sides, so that each CT is read once.
    """

    unit, tensor = "volumes", "latent"

    def __init__(self, chunked_vae: ChunkedVAE, side: Literal["thin", "thick"], pairs: PairReader) -> None:
        self.chunked_vae, self.side, self.pairs = chunked_vae, side, pairs
        self.weights = weights_hash(chunked_vae.vae)
        norms = [module for module in chunked_vae.vae.modules() if isinstance(module, nn.GroupNorm)]
        self.transform = {
            "what": "slice latents",
            "version": 2,  # raised whenever the preprocessing changes, so that older latents are not reused
            "window": "wide",
            "resolution": pairs.resolution,
            # What of the VAE changes latents and is no weight; chunk sizes are exact and do not count.
            "settings": {
                "norms": sorted({(norm.num_groups, norm.eps) for norm in norms}),
                "spool_dtype": str(chunked_vae.spool_dtype),
                "dtype": str(next(chunked_vae.vae.parameters()).dtype),
            },
            "side": side,
        }

    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey:
        """Weights, the bytes of the CT, and how it was read and encoded."""
        return FeatureKey(self.weights, cache.hash_file(case["image"]), self.transform | {"ratio": case["ratio"]})

    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of CTs, one after the other: `latent` (4, d, h, w), `shape` of the CT, `spacing_mm` of both."""
        entries = []
        for case in cases:
            pair = self.pairs(case)
            hu = pair.thin if self.side == "thin" else interpolate_slices(pair.thick, len(pair.thin))
            latent, _ = self.chunked_vae.encode_volume(scale_window(hu)[None, None])
            spacing = torch.tensor([pair.thin_mm, pair.thick_mm], dtype=torch.float64)
            entries.append({"latent": latent[0].float(), "shape": torch.tensor(hu.shape), "spacing_mm": spacing})
        return entries

    def columns(self, entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Column `spacing` of a case: `ratio_condition` of its thick and thin spacing, (3,)."""
        thin_mm, thick_mm = entry["spacing_mm"].tolist()
        return {"spacing": ratio_condition(thick_mm, thin_mm)}
