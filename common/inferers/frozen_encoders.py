"""Frozen networks as the stage of frozen features runs them (`common.engines.frozen_features`), one class per input."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.data.datasets.feature_cache import FeatureCache, FeatureKey, hash_array
from common.data.note_tokenizer import NoteTokenizer
from common.inferers.chunked_vae import ChunkedVAE
from common.networks.maisi_vae import weights_hash
from common.networks.slice_unet import ratio_condition
from common.transforms.ct_pairs import PairReader
from common.transforms.slabs import interpolate_slices
from common.transforms.windows import scale_window

__all__ = ["FrozenEncoder", "ImageFeatures", "NoteFeatures", "SliceLatents"]


class FrozenEncoder(ABC):
    """From cases, as a list of them describes each, to entries of the cache: {name: tensor}.

    Attributes:
        unit: what it encodes, in the plural.
        tensor: name of the feature itself in an entry: a vector, or a map of any shape.
    """

    unit = "inputs"
    tensor = "feature"

    @abstractmethod
    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey | None:
        """What the entry of a case depends on; None for a case that lacks this input."""

    @abstractmethod
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of cases."""

    def absent(self) -> dict[str, Tensor]:
        """The entry of a case that lacks this input, whose feature is a vector."""
        raise NotImplementedError(f"{type(self).__name__} needs its input of every case")

    def columns(self, entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Further vectors that an entry gives its case, by the names of their columns."""
        return {}


class _NetworkFeatures(FrozenEncoder):
    """What images and notes share.

    Args:
        network: gives (B, d) vectors or maps; `definition()` tells its settings, `features` is d.
        inferer: calls the network (`common.inferers.autocast.AutocastInferer`).
        device: where it runs.
        dtype: of the features on disk, "float32" or "float16".
    """

    what = ""

    def __init__(
        self, network: nn.Module, inferer: Callable, device: torch.device | str = "cpu", dtype: str = "float32"
    ) -> None:
        self.network, self.inferer, self.device = network.to(device).eval(), inferer, device
        self.dtype = {"float32": torch.float32, "float16": torch.float16}[dtype]
        # Settings are what the weights do not tell: number of heads, pooling; how memory is saved changes no feature.
        settings = {name: value for name, value in network.definition().items() if name != "gradient_checkpointing"}
        self.weights = weights_hash(network)
        self.transform: dict[str, Any] = {
            "what": self.what,
            "version": 1,  # raised whenever the preprocessing changes, so that older features are not reused
            "dtype": getattr(inferer, "dtype", "float32"),
            "encoder": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        } | ({} if dtype == "float32" else {"stored": dtype})

    def absent(self) -> dict[str, Tensor]:
        """(d,) zeros."""
        return {self.tensor: torch.zeros(self.network.features, dtype=self.dtype)}

    def _entries(self, features: Tensor) -> list[dict[str, Tensor]]:
        return [{self.tensor: feature} for feature in features.to("cpu", self.dtype)]


class ImageFeatures(_NetworkFeatures):
    """Features of images, of cases with "image", a path or None.

    Args:
        network, inferer, device, dtype: see `FrozenEncoder` and `common.inferers.autocast`; the network takes
            (B, C, H, W).
        transform: takes {"image": path, "case"} to {"image": (C, H, W)}.
        settings: of the transform, for the key: sizes, normalisation.
    """

    unit, what = "images", "vision feature"

    def __init__(
        self, network: nn.Module, inferer: Callable, transform: Callable[[dict], dict],
        settings: Mapping[str, Any], **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(network, inferer, **kwargs)
        self.read, self.transform = transform, self.transform | dict(settings)

    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey | None:
        """Weights, the bytes of the image, and how it was read and encoded."""
        if case["image"] is None:
            return None
        return FeatureKey(self.weights, cache.hash_file(case["image"]), self.transform)

    @torch.no_grad()
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of images."""
        images = [self.read({"image": case["image"], "case": case["case"]})["image"] for case in cases]
        batch = torch.stack([torch.as_tensor(image).as_subclass(Tensor) for image in images])
        return self._entries(self.inferer(batch.to(self.device), self.network))


class NoteFeatures(_NetworkFeatures):
    """Features of notes, of cases with "note", a text that may be empty.

    Args:
        network, inferer, device, dtype: see `FrozenEncoder` and `common.inferers.autocast`; the network takes
            `input_ids` and `attention_mask` (B, T).
        tokenizer: of the network.
    """

    unit, what = "notes", "text feature"

    def __init__(self, network: nn.Module, inferer: Callable, tokenizer: NoteTokenizer, **kwargs: Any) -> None:
        super().__init__(network, inferer, **kwargs)
        self.collate, self.ids = tokenizer.collate, lru_cache(maxsize=1024)(tokenizer.encode)

    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey | None:
        """Weights, the tokens, and how they were encoded."""
        if not case["note"]:
            return None
        return FeatureKey(self.weights, hash_array(np.asarray(self.ids(case["note"]), np.int64)), self.transform)

    @torch.no_grad()
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of notes."""
        note = self.collate([self.ids(case["note"]) for case in cases])
        note = {name: ids.to(self.device) for name, ids in note.items()}
        return self._entries(self.inferer(note, lambda note: self.network(note["input_ids"], note["attention_mask"])))


class SliceLatents(FrozenEncoder):
    """Latents of a CT's thin slices, or of its thick ones interpolated to the same grid: the VAE's `z_mu`.

    No sampling noise, not times the scale factor. Takes the cases of `common.transforms.ct_pairs.pair_cases`; their
    column `spacing` is the (3,) `common.networks.slice_unet.ratio_condition`.

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
            "version": 1,  # raised whenever the preprocessing changes, so that older latents are not reused
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
        """`spacing`."""
        thin_mm, thick_mm = entry["spacing_mm"].tolist()
        return {"spacing": ratio_condition(thick_mm, thin_mm)}
