"""The image tower of an open_clip checkpoint (timm names) as a Hugging Face ViT or DINOv2.

BiomedCLIP-CXR is distributed as open_clip's state dict: `visual.trunk.*` is timm's `vit_base_patch14_dinov2` at 518
pixels, `visual.head.proj.weight` the projection to the 512 numbers shared with the text, `text.*` the text tower.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.networks.weights import read_checkpoint

__all__ = ["OpenClipTower", "read_open_clip"]

logger = logging.getLogger(__name__)

_TRUNK = "visual.trunk."
_PROJECTION = "visual.head.proj.weight"
# Of a whole CLIP model: not the image's business.
_OTHERS = (
    "text.",
    "logit_scale",
    "logit_bias",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
)
_TOP = {
    "cls_token": "embeddings.cls_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_BLOCK_OF = {
    "dinov2": {
        "norm1": "norm1",
        "norm2": "norm2",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    },
    "vit": {"norm1": "layernorm_before", "norm2": "layernorm_after"},
}
_LAYERS_OF = {"dinov2": "encoder.layer", "vit": "layers"}
_BLOCK = {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
# Training scripts keep NumPy numbers (best scores) beside the weights; they are data, not code.
_NUMPY_NUMBERS = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
]


@dataclass(frozen=True)
class OpenClipTower:
    """An image tower in Hugging Face's names.

    Attributes:
        config: for `common.networks.pretrained_encoder.build_model`.
        state: every tensor of that model.
        projection: (embedding, hidden) of the CLIP head, None if the file has none.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    projection: Tensor | None


def read_open_clip(path: Path, overrides: Mapping[str, Any] | None = None) -> OpenClipTower:
    """Read a checkpoint of open_clip or timm and give its image tower Hugging Face's names.

    Every tensor of the tower must be known, so that none is dropped: register tokens, attention pooling or a
    two-layer head are refused.

    Args:
        path: `.pt`, `.bin` (read without running code) or `.safetensors`.
        overrides: settings that the weights do not tell; `num_attention_heads` is taken as width / 64, as all of
            timm's ViTs have it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has no image tower, or a tensor has no place; names the tensor.
    """
    with torch.serialization.safe_globals(_NUMPY_NUMBERS):
        state = _flat(read_checkpoint(path))
    if not any(name.startswith("visual.") for name in state):
        state = {f"{_TRUNK}{name}": tensor for name, tensor in state.items()}  # timm's model without CLIP around it
    ignored = tuple(name for name in state if name.startswith(_OTHERS))
    tower = {name: tensor.float() for name, tensor in state.items() if name not in ignored}
    if f"{_TRUNK}patch_embed.proj.weight" not in tower:
        raise ValueError(f"{path} has no {_TRUNK}patch_embed.proj.weight, expected open_clip's names of a timm ViT")
    projection = tower.pop(_PROJECTION, None)
    trunk = {name.removeprefix(_TRUNK): tensor for name, tensor in tower.items()}
    model_type = "dinov2" if "blocks.0.ls1.gamma" in trunk else "vit"
    config = _config(path, trunk, model_type) | dict(overrides or {})
    converted: dict[str, Tensor] = {}
    for name, tensor in trunk.items():
        new = _renamed(name, tensor, model_type, config)
        if not new:
            raise ValueError(
                f"{path}: {_TRUNK if f'{_TRUNK}{name}' in tower else ''}{name} {tuple(tensor.shape)} has no place in a "
                f"{model_type} with one class token and no registers, expected a plain timm ViT"
            )
        converted |= new
    logger.info(
        "%s: %d tensors of the image tower read as %s, %d of other parts left out (%s)",
        path,
        len(tower) + (projection is not None),
        model_type,
        len(ignored),
        ", ".join(sorted({n.split(".")[0] for n in ignored})) or "none",
    )
    return OpenClipTower(config, converted, projection)


def _flat(content: Mapping) -> dict[str, Tensor]:
    """The state dict inside a training checkpoint, without the prefix of distributed training."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def _config(path: Path, trunk: Mapping[str, Tensor], model_type: str) -> dict[str, Any]:
    """Sizes of the model, read from the shapes."""
    width, channels, patch, _ = trunk["patch_embed.proj.weight"].shape
    layers = 1 + max((int(n.split(".")[1]) for n in trunk if n.startswith("blocks.")), default=-1)
    for name in ("pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight"):
        if name not in trunk:
            raise ValueError(f"{path} has no {_TRUNK}{name}, expected a plain timm ViT")
    positions = trunk["pos_embed"].shape[1]
    # With a position for the class token there is one more than a square; timm's `no_embed_class` leaves it out.
    side = int(positions**0.5)
    if positions not in (side * side, side * side + 1):
        raise ValueError(f"{path}: {_TRUNK}pos_embed holds {positions} positions, expected a square grid")
    hidden = trunk["blocks.0.mlp.fc1.weight"].shape[0]
    config: dict[str, Any] = {
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": "blocks.0.attn.qkv.bias" in trunk,
        "layer_norm_eps": 1e-6,  # timm's; that of Hugging Face's ViT is another
    }
    if model_type == "vit":
        return config | {"intermediate_size": hidden}
    if hidden % width:
        raise ValueError(f"{path}: the MLP is {hidden} wide for {width}, expected a whole multiple")
    return config | {"mlp_ratio": hidden // width, "use_mask_token": False}


def _renamed(name: str, tensor: Tensor, model_type: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensor under its new name (three of them for qkv); empty if it has none."""
    if name in _TOP:
        return {_TOP[name]: tensor}
    if name == "pos_embed":
        patches = (config["image_size"] // config["patch_size"]) ** 2
        if tensor.shape[1] == patches:
            tensor = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], 1)
        return {"embeddings.position_embeddings": tensor}
    if not name.startswith("blocks."):
        return {}
    _, index, inner = name.split(".", 2)
    where = f"{_LAYERS_OF[model_type]}.{index}"
    if inner in ("attn.qkv.weight", "attn.qkv.bias"):
        kind = inner.rsplit(".", 1)[1]
        return {
            f"{where}.attention.{part}_proj.{kind}": piece.clone()
            for part, piece in zip("qkv", tensor.chunk(3), strict=True)
        }
    table = _BLOCK | _BLOCK_OF[model_type]
    if inner in table:
        return {f"{where}.{table[inner]}": tensor}
    module, _, kind = inner.rpartition(".")
    return {f"{where}.{table[module]}.{kind}": tensor} if module in table else {}
