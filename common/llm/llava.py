"""LLaVA of Hugging Face: loaded whole or in 4 or 8 bits, and its image tokens computed apart from the language model.

tokens = image_tokens(model, pixels)  # once an image: the tower is frozen
model(input_ids=ids, mm_encoder_outputs=mm_outputs(model, tokens))  # as often as the projector is trained
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
    LlavaForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from common.llm.llava_conversion import is_original_layout
from common.networks.pretrained_encoder import build_model, find_file, load_model, read_config

__all__ = ["image_tokens", "llava_of", "load_llava", "mm_outputs"]

_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# By their full names: bitsandbytes takes no notice of shorter ones, and would quantise the projector, which is trained.
_WHOLE = ("model.vision_tower", "model.multi_modal_projector", "lm_head")


def load_llava(
    model: str | None = None,
    config: Mapping[str, Any] | None = None,
    precision: str = "bfloat16",
    quantization: str | None = None,
    allow_download: bool = False,
    gradient_checkpointing: bool = False,
    device_map: str | None = None,
) -> LlavaForConditionalGeneration:
    """A LLaVA that never writes `<image>`, padding or a row that only fills up the vocabulary.

    Args:
        model: weights as `common.llm.llava_conversion.convert_llava` writes them: a folder, or a hub name.
        config: in place of `model` the sizes (`model_type: llava`, `vision_config`, `text_config`, ...), untrained, on
            the meta device under `torch.device("meta")`.
        precision: "bfloat16" or "float32", of the parameters; with `quantization` of those that are kept whole and of
            what is computed.
        quantization: "4bit" (NF4, its scales quantised as well) or "8bit", of the language model's layers alone.
        allow_download: fetch a hub model that is not in the local cache.
        gradient_checkpointing: recompute activations in the backward pass.
        device_map: "auto" spreads the layers over the devices that are there; None keeps them together.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is in the original's layout, no LLaVA, or lacks weights, such as those of the vision tower;
            for unknown arguments; for a quantization that cannot be had here.
    """
    if (model is None) == (config is None):
        raise ValueError("load_llava got both or none of model and config, expected either weights or sizes")
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
    dtype = _PRECISIONS[precision]
    if model is None:
        if quantization is not None:
            raise ValueError(f"quantization is {quantization!r} of an untrained model, expected weights (model)")
        _expect_llava("config", config.get("model_type"))
        network = build_model(config, AutoModelForImageTextToText, dtype)
    else:
        if _is_original(model, allow_download):
            raise ValueError(
                f"{model} is in the layout of LLaVA's own code, which transformers does not know, expected one that "
                "common.llm.llava_conversion.convert_llava has written"
            )
        _expect_llava(model, read_config(model, allow_download).model_type)
        options = {"quantization_config": _quantizer(quantization, dtype), "device_map": device_map}
        options = {name: value for name, value in options.items() if value is not None}
        network = load_model(model, None, allow_download, kind=LlavaForConditionalGeneration, dtype=dtype, **options)
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would change weights that are only looked at
            module.support_avx512bf16_for_cpu = False
    network.generation_config = _generation(network)
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    return network


def _expect_llava(what: str, kind: str | None) -> None:
    if kind != "llava":
        raise ValueError(f"{what} has model_type {kind}, expected llava")


def _is_original(model: str, allow_download: bool) -> bool:
    try:
        path = find_file(model, "config.json", allow_download)
    except OSError:  # there is no such model, as `read_config` will say
        return False
    return path is not None and is_original_layout(path.parent)


def _quantizer(quantization: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization is None:
        return None
    if quantization not in ("4bit", "8bit"):
        raise ValueError(f"quantization is {quantization!r}, expected 4bit, 8bit or None")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantization {quantization} needs bitsandbytes, expected it to be installed: "
            "pip install 'thorax-bundles[llm]'"
        )
    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(_WHOLE),
    )


def _generation(network: LlavaForConditionalGeneration) -> GenerationConfig:
    """Rules of decoding without those of published weights, and without the rows that stand for no text."""
    settings = GenerationConfig.from_model_config(network.config)
    text, image = network.config.text_config, network.config.image_token_id
    # What a conversion adds to the vocabulary begins with <image>.
    never = {*range(image, text.vocab_size), text.pad_token_id} - {None}
    settings.suppress_tokens = sorted(never) or None
    settings.pad_token_id = text.pad_token_id
    return settings


def llava_of(model: nn.Module) -> LlavaForConditionalGeneration:
    """The model itself, or the one within adapters and distributed training."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def image_tokens(model: nn.Module, pixels: Tensor) -> Tensor:
    """Patch tokens of the layer that the projector reads, without gradient.

    Args:
        model: of `load_llava`, with adapters or without.
        pixels: (B, 3, S, S), normalised as CLIP's.

    Returns:
        (B, P, C) in the tower's precision: (B, 576, 1024) of 336 pixels.
    """
    llava = llava_of(model)
    tower = llava.model.vision_tower
    with torch.no_grad():
        states = tower(pixels.to(tower.device, tower.dtype), output_hidden_states=True).hidden_states
    return states[llava.config.vision_feature_layer][:, 1:]


def mm_outputs(model: nn.Module, tokens: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    """What `forward` and `generate` take as `mm_encoder_outputs` in place of pixels.

    `generate` with beams changes it in place: give each call one of its own.

    Args:
        model: of `load_llava`, with adapters or without.
        tokens: (B, P, C) of `image_tokens`, one image for each text of the batch.
    """
    projector = llava_of(model).model.multi_modal_projector
    weight = projector.linear_1.weight
    return {"image": BaseModelOutputWithPooling(pooler_output=list(projector(tokens.to(weight.device, weight.dtype))))}
