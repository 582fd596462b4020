"""Whole Hugging Face models in fp32, from weights or from sizes, and their attention read layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

# Tensors that neither encoder reads: a checkpoint may lack them, and without them every parameter gets a gradient.
_UNUSED = {"pooler": "pooler.", "mask_token": "embeddings.mask_token"}
# What a configuration says beside sizes: where it came from, and names of layers and of another task's labels.
_NOT_SIZES = (
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "stage_names",
    "out_features",
    "out_indices",
    "id2label",
    "label2id",
)


def build_model(
    config: Mapping[str, Any], kind: type = AutoModel, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """An untrained model from its sizes; on the meta device under `torch.device("meta")`.

    Args:
        config: `model_type` (Hugging Face's name, "dinov2", "vit", "modernbert", ...) and whatever differs from that
            type's defaults.
        kind: Hugging Face's class that knows what the model is for, such as `AutoModelForCausalLM`.
        dtype: of the parameters.

    Raises:
        ValueError: without a known `model_type`.
    """
    settings = default_config(config)
    if settings.model_type == "dinov2" and "use_mask_token" not in config:
        settings.use_mask_token = False
    return kind.from_config(settings, dtype=dtype)


def default_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Sizes of an untrained model as Hugging Face's configuration; `config` as of `build_model`.

    Raises:
        ValueError: without a known `model_type`.
    """
    sizes = dict(config)
    model_type = sizes.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"config {dict(config)} has no model_type, expected a Hugging Face name such as dinov2")
    return AutoConfig.for_model(model_type, **sizes)


def load_model(
    model: str,
    overrides: Mapping[str, Any] | None,
    allow_download: bool,
    tower: str | None = None,
    pools: Callable[[PreTrainedConfig], bool] = lambda config: False,
    kind: type = AutoModel,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> PreTrainedModel:
    """A trained model from a folder or by its name on the hub, in fp32 unless told otherwise, whatever the file holds.

    Args:
        model: folder with `config.json` and weights, or a hub name (then out of the local cache, unless downloading).
        overrides: settings that replace those of `config.json` (dropout, not sizes).
        allow_download: fetch what is not in the local cache.
        tower: "vision_config" takes the image tower of a model that has several.
        pools: whether the pooling layer of a model with that configuration is used, and so must have weights.
        kind: as of `build_model`.
        dtype: of the parameters.
        options: further ones of `from_pretrained`: how it is quantised, on which devices its layers lie.

    Raises:
        FileNotFoundError: if the model is not there.
        ValueError: if its weights leave tensors of the model unset.
    """
    config = read_config(model, allow_download)
    config = getattr(config, tower, config) if tower else config
    for name, value in (overrides or {}).items():
        setattr(config, name, value)
    try:
        # Without dtype the precision of the file would decide, and bf16 weights do not train.
        network, info = kind.from_pretrained(
            model,
            config=config,
            dtype=dtype,
            local_files_only=not allow_download,
            output_loading_info=True,
            **options,
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{model} has no weights, {_expected(allow_download)}: {reason}") from error
    unused = _UNUSED["mask_token"] if pools(config) else tuple(_UNUSED.values())
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unused))
    if missing:
        raise ValueError(
            f"{model} has no weights for {len(missing)} of {len(network.state_dict())} tensors of "
            f"{type(network).__name__} ({', '.join(missing[:3])}), expected all of them"
        )
    return network


def read_config(model: str, allow_download: bool) -> PreTrainedConfig:
    """Configuration of a model folder or hub model.

    Raises:
        FileNotFoundError: if the model is not there.
    """
    try:
        return AutoConfig.from_pretrained(model, local_files_only=not allow_download)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{model} cannot be read, {_expected(allow_download)}: {reason}") from error


def _expected(allow_download: bool) -> str:
    where = "" if allow_download else " and downloading is off (allow_download=False)"
    return f"expected a folder with config.json and weights, or a model in the Hugging Face cache{where}"


def drop_unused(network: PreTrainedModel, pooler: bool = False) -> PreTrainedModel:
    """Take out the mask token and, unless `pooler`, the pooling layer: unused parameters stop distributed training."""
    if not pooler and isinstance(getattr(network, "pooler", None), nn.Module):
        network.pooler = None
    embeddings = getattr(network, "embeddings", None)
    if getattr(embeddings, "mask_token", None) is not None:
        embeddings.mask_token = None
        network.config.use_mask_token = False
    return network


def definition_of(network: PreTrainedModel) -> dict[str, Any]:
    """The `config` from which `build_model` makes a network of the same names and sizes: what is not the default."""
    model_type = network.config.model_type
    usual = AutoConfig.for_model(model_type).to_dict()
    settings = {k: v for k, v in network.config.to_dict().items() if k not in usual or usual[k] != v}
    for name in _NOT_SIZES:
        settings.pop(name, None)
    return {"model_type": model_type, **settings}


def find_file(model: str, name: str, allow_download: bool) -> Path | None:
    """A file of a model folder or hub model, None if it has no such file (or it is not in the local cache)."""
    path = cached_file(
        model,
        name,
        local_files_only=not allow_download,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(path) if path is not None else None


def read_json(path: Path | None) -> dict[str, Any]:
    """Content of a JSON file; empty for None."""
    return json.loads(path.read_text(encoding="utf-8")) if path is not None else {}


def cls_attention(network: PreTrainedModel, run: Callable[[], object], rollout: bool, layer: int = -1) -> Tensor:
    """How much the first token attends to every token.

    Only one layer's attention is held at a time: all twelve of a 518 pixel image would be 1 GB.

    Args:
        network: with attention layers that return their weights when run in eager mode.
        run: calls the network once.
        rollout: the product over layers of (mean over heads + identity) / 2, Abnar and Zuidema, "Quantifying Attention
            Flow in Transformers" (ACL 2020), in place of one layer's weights.
        layer: which layer, counted as Python does; ignored with `rollout`.

    Returns:
        (B, heads, T), or (B, 1, T) with `rollout`; fp32, sums to 1 over T.

    Raises:
        ValueError: if the network's attention cannot be read.
    """
    kind = (getattr(network, "_can_record_outputs", None) or {}).get("attentions")
    kind = getattr(kind, "target_class", kind)
    modules = [m for m in network.modules() if isinstance(kind, type) and isinstance(m, kind)]
    if not modules:
        raise ValueError(f"{type(network).__name__} does not give its attention weights, expected a plain transformer")
    chosen: list[Tensor] = []

    def collect(_module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor]) -> None:
        weights = output[1].float()
        if not rollout:
            chosen.append(weights[:, :, 0])
            return
        mean = (weights.mean(1) + torch.eye(weights.shape[-1], device=weights.device)) / 2
        chosen[:] = [mean @ chosen[0] if chosen else mean]

    hooks = [m.register_forward_hook(collect) for m in (modules if rollout else [modules[layer]])]
    try:
        with torch.no_grad(), _eager(network):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return chosen[0][:, None, 0] if rollout else chosen[0]


@contextmanager
def _eager(network: PreTrainedModel) -> Iterator[None]:
    """Fused attention does not keep its weights; dropout would change them."""
    before, training = network.config._attn_implementation, network.training
    network.set_attn_implementation("eager")
    nn.Module.train(network, False)
    try:
        yield
    finally:
        network.set_attn_implementation(before)
        network.train(training)
