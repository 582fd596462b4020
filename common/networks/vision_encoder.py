"""Image encoder: a Hugging Face vision transformer and the projection of the CLIP head."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from common.networks.open_clip_weights import read_open_clip
from common.networks.pretrained_encoder import (
    build_model,
    cls_attention,
    definition_of,
    drop_unused,
    find_file,
    load_model,
    read_json,
)
from common.networks.weights import load_exactly

__all__ = ["BIOMEDCLIP_CXR", "VisionEncoder"]

logger = logging.getLogger(__name__)

# BiomedCLIP-CXR: timm's vit_base_patch14_dinov2 at 518 pixels (1,370 tokens), 86.6 M without the projection to 512.
BIOMEDCLIP_CXR: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 518,
    "patch_size": 14,
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "biomedclipcxr_518_checkpoint.pt")
_CLASS_TOKEN_FIRST = ("vit", "deit", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit")


class VisionEncoder(nn.Module):
    """X-ray to one vector.

    The vector is the normalised class token (or what the model pools by itself, for models without one), projected
    without bias as CLIP does.

    Args:
        model: weights: an open_clip checkpoint (BiomedCLIP-CXR's file, or a folder or hub model that has one), a folder
            of Hugging Face's or a hub name.
        config: without `model` the network (`model_type` and sizes), untrained; with it, settings that replace the
            model's own.
        embedding: length of the vector; None leaves out the projection. A `model` without a CLIP head gets an untrained
            projection, with a warning.
        image_size: pixels; positions are interpolated when the model was trained on another size.
        gradient_checkpointing: recompute activations in the backward pass.
        allow_download: fetch a hub model that is not in the local cache.
        mean: of the input's channels (in 0..1) before normalisation; default the model's own, ImageNet's if untrained.
        std: likewise.

    Attributes:
        model: the Hugging Face model.
        projection: nn.Linear or nn.Identity.
        features: length of the vector.
        has_weights: built with `model`, so a checkpoint may leave this part out.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: without model and config, or if the weights do not fit.
    """

    def __init__(
        self,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        embedding: int | None = 512,
        image_size: int = 518,
        gradient_checkpointing: bool = False,
        allow_download: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if model is None and config is None:
            raise ValueError("VisionEncoder got neither model nor config, expected weights or sizes")
        own_mean, own_std, head = IMAGENET_MEAN, IMAGENET_STD, None
        file = _open_clip_file(model, allow_download) if model is not None else None
        if file is not None:
            tower = read_open_clip(file, config)
            network = drop_unused(build_model(tower.config))
            load_exactly(network, tower.state, f"{file}: image tower as {tower.config['model_type']}")
            head = tower.projection
            settings = read_json(find_file(str(file.parent), "open_clip_config.json", False)).get("preprocess_cfg", {})
            own_mean, own_std = settings.get("mean", CLIP_MEAN), settings.get("std", CLIP_STD)
        elif model is not None:
            network = load_model(model, config, allow_download, "vision_config", lambda c: not _has_class_token(c))
            settings = read_json(find_file(model, "preprocessor_config.json", allow_download))
            own_mean, own_std = settings.get("image_mean", own_mean), settings.get("image_std", own_std)
        else:
            network = build_model({"image_size": image_size, **config})
        self._has_class_token = _has_class_token(network.config)
        self.model = drop_unused(network, pooler=not self._has_class_token)
        self._accepts_other_sizes = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
        if gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        self.gradient_checkpointing = gradient_checkpointing
        self.has_weights, self.image_size = model is not None, image_size
        self.mean, self.std = tuple(mean or own_mean), tuple(std or own_std)
        self.projection = self._projection(head, embedding, model)

    def _projection(self, head: Tensor | None, embedding: int | None, model: str | None) -> nn.Module:
        sizes = getattr(self.model.config, "hidden_sizes", None)
        hidden = sizes[-1] if sizes else self.model.config.hidden_size
        self.features = hidden if embedding is None else embedding
        if embedding is None:
            return nn.Identity()
        projection = nn.Linear(hidden, embedding, bias=False)
        if head is not None:
            load_exactly(projection, {"weight": head}, f"{model}: visual.head.proj")
        elif model is not None:
            logger.warning(
                "%s has no projection to %d numbers: it is drawn at random; embedding=None gives its own %d.",
                model,
                embedding,
                hidden,
            )
        return projection

    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: (B, 3, H, W), normalised with `mean` and `std`.

        Returns:
            (B, features).
        """
        return self.projection(self._pooled(self._run(image)))

    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The vector, and the map that it is pooled from.

        Args:
            image: (B, 3, H, W).

        Returns:
            (B, features), (B, h * w, hidden) tokens row by row, and their grid (h, w).
        """
        output = self._run(image)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:  # of a convolutional network, (B, hidden, h, w)
            grid = (hidden.shape[2], hidden.shape[3])
            hidden = hidden.flatten(2).mT
        elif self._has_class_token:
            grid = self._grid(image)
        else:  # a grid shaped as the image, after what else the model puts first
            height = max(1, int(math.sqrt(hidden.shape[1] * image.shape[-2] / image.shape[-1])))
            grid = (height, hidden.shape[1] // height)
        return self.projection(self._pooled(output)), hidden[:, -math.prod(grid) :], grid

    def attention(self, image: Tensor, rollout: bool = False) -> Tensor:
        """How much the class token attends to every patch.

        Args:
            image: (B, 3, H, W).
            rollout: through all layers (`common.networks.pretrained_encoder.cls_attention`), not the last one alone.

        Returns:
            (B, heads, grid_h, grid_w), or (B, 1, grid_h, grid_w) with `rollout`; the rest of the sum of 1 stays on the
            class token and registers.

        Raises:
            ValueError: if the model has no class token or does not give its attention.
        """
        grid = self._grid(image)
        weights = cls_attention(self.model, lambda: self._run(image), rollout)
        return weights[..., -math.prod(grid) :].unflatten(-1, grid)

    @torch.no_grad()
    def saliency(self, image: Tensor) -> Tensor:
        """Where an image speaks most to the encoder, for a picture.

        Args:
            image: (B, 3, H, W).

        Returns:
            (B, h, w) of at least 0: `attention` with rollout, or for a model without class token (a convolutional one)
            the mean magnitude of its last feature map or tokens.
        """
        if self._has_class_token:
            return self.attention(image, rollout=True)[:, 0]
        _, tokens, grid = self.tokens(image)
        return tokens.abs().mean(2).unflatten(1, grid)

    @property
    def saliency_name(self) -> str:
        """What `saliency` shows, in words: only a model with a class token has attention to read."""
        return "attention" if self._has_class_token else "saliency (magnitude of its last features)"

    def definition(self) -> dict[str, Any]:
        """Arguments that build the same network without weights, for a checkpoint that holds them."""
        # Said even where it is the default: without it the positions would be made for `image_size`.
        trained_at = {"image_size": s} if (s := getattr(self.model.config, "image_size", None)) else {}
        return {
            "config": definition_of(self.model) | trained_at,
            "embedding": None if isinstance(self.projection, nn.Identity) else self.features,
            "image_size": self.image_size,
            "gradient_checkpointing": self.gradient_checkpointing,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def _grid(self, image: Tensor) -> tuple[int, int]:
        if not self._has_class_token:
            raise ValueError(f"{type(self.model).__name__} has no class token, expected one of {_CLASS_TOKEN_FIRST}")
        patch = self.model.config.patch_size
        return image.shape[-2] // patch, image.shape[-1] // patch

    def _run(self, image: Tensor) -> Any:
        channels = getattr(self.model.config, "num_channels", 3)
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(f"the image has shape {tuple(image.shape)}, expected (B, {channels}, H, W)")
        return self.model(image, **({"interpolate_pos_encoding": True} if self._accepts_other_sizes else {}))

    def _pooled(self, output: Any) -> Tensor:
        if self._has_class_token:
            return output.last_hidden_state[:, 0]
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)


def _has_class_token(config: PreTrainedConfig) -> bool:
    """The normalised class token is the first of `last_hidden_state`, and the model's own pooling is not needed."""
    return config.model_type in _CLASS_TOKEN_FIRST


def _open_clip_file(model: str, allow_download: bool) -> Path | None:
    """The open_clip checkpoint that `model` is or has; None for Hugging Face's own layout."""
    path = Path(model)
    if path.is_file():
        return path
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise FileNotFoundError(f"{model} does not exist, expected a checkpoint of open_clip")
    for name in _OPEN_CLIP_FILES:
        found = find_file(model, name, allow_download) if path.is_dir() or model.count("/") == 1 else None
        if found is not None:
            return found
    return None
