"""Frozen networks as the stage `common.engines.frozen_features` runs them: what all of them share, and images."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.networks.weights import weights_hash

__all__ = ["FrozenEncoder", "ImageFeatures", "ImageTokens", "NetworkFeatures"]


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


class NetworkFeatures(FrozenEncoder):
    """The features of a network that an inferer calls on batches.

    Args:
        network: gives (B, d) vectors or maps; `definition()` tells its settings, `features` is d.
        inferer: calls the network (`common.inferers.autocast.AutocastInferer`).
        device: where it runs.
        dtype: of the features on disk, "float32", "float16" or "bfloat16".
    """

    what = ""

    def __init__(
        self, network: nn.Module, inferer: Callable, device: torch.device | str = "cpu", dtype: str = "float32"
    ) -> None:
        self.network, self.inferer, self.device = network.to(device).eval(), inferer, device
        self.dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
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
        """The entry of a case that lacks this input: zeros of shape (d,)."""
        return {self.tensor: torch.zeros(self.network.features, dtype=self.dtype)}

    def entries(self, features: Tensor) -> list[dict[str, Tensor]]:
        """Entries of the cache from the features of a batch, (B, ...): one for each case, on the CPU."""
        return [{self.tensor: feature} for feature in features.to("cpu", self.dtype)]


class ImageFeatures(NetworkFeatures):
    """Features of images, of cases with "image", a path or None.

    Args:
        network, inferer, device, dtype: see `NetworkFeatures`; the network takes (B, C, H, W).
        transform: takes {"image": path, "case"} to {"image": (C, H, W)}.
        settings: of the transform, for the key: sizes, normalisation.
    """

    unit, what = "images", "vision feature"

    def __init__(
        self, network: nn.Module, inferer: Callable, transform: Callable[[dict], dict],
        settings: Mapping[str, Any], **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(network, inferer, **kwargs)
        self.read, self.transform = transform, self.transform | {"version": 2} | dict(settings)

    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey | None:
        """Weights, the bytes of the image, and how it was read and encoded."""
        if case["image"] is None:
            return None
        return FeatureKey(self.weights, cache.hash_file(case["image"]), self.transform)

    @torch.no_grad()
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of images."""
        return self.entries(self.inferer(self._images(cases), self.network))

    def _images(self, cases: Sequence[Mapping[str, Any]]) -> Tensor:
        images = [self.read({"image": case["image"], "case": case["case"]})["image"] for case in cases]
        return torch.stack([torch.as_tensor(image).as_subclass(Tensor) for image in images]).to(self.device)


class ImageTokens(ImageFeatures):
    """The maps of tokens of images, (N, C), of a network with a method `tokens`; "float16" halves them on disk.

    Args: see `ImageFeatures`.
    """

    what, tensor = "vision tokens", "tokens"

    @torch.no_grad()
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of images."""
        _, tokens, _ = self.inferer(self._images(cases), self.network.tokens)
        return self.entries(tokens)
