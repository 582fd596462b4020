"""Language models that write: any sequence-to-sequence or causal one of Hugging Face, trained or of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from common.networks.pretrained_encoder import build_model, default_config, load_model, read_config

__all__ = ["load_language_model"]


def load_language_model(
    model: str | None = None,
    config: Mapping[str, Any] | None = None,
    text_encoder: bool = False,
    allow_download: bool = False,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """A language model in fp32.

    Args:
        model: weights: a folder of Hugging Face's, or a hub name (out of the local cache, unless downloading).
        config: without `model` the network (`model_type` and sizes), untrained, on the meta device under
            `torch.device("meta")`; with it, settings that replace the model's own.
        text_encoder: of a sequence-to-sequence model, whether the encoder of texts is built. A decoder that reads an
            image needs none: it then has no layers, and its embeddings, which stay, are frozen, since distributed
            training stops at parameters that get no gradient.
        allow_download: fetch a hub model that is not in the local cache.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: without model and config, if the weights leave tensors of the model unset (they are named), or if
            the encoder of texts cannot be left out.
    """
    if model is None and config is None:
        raise ValueError("load_language_model got neither model nor config, expected weights or sizes")
    settings = dict(config or {})
    known = read_config(model, allow_download) if model is not None else default_config(settings)
    without_encoder = known.is_encoder_decoder and not text_encoder
    if without_encoder:
        if not hasattr(known, "encoder_layers"):
            raise ValueError(f"{known.model_type} has no encoder_layers, expected a model like bart or text_encoder")
        settings["encoder_layers"] = 0
    kind = AutoModelForSeq2SeqLM if known.is_encoder_decoder else AutoModelForCausalLM
    if model is None:
        network = build_model(settings, kind)
    else:
        network = load_model(model, settings, allow_download, kind=kind)
    network.tie_weights()  # as a plan needs it, which builds networks without the initial values that come with it
    # Rules of decoding that come with published weights (BART's are of news summaries) are not those of reports.
    network.generation_config = GenerationConfig.from_model_config(network.config)
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if without_encoder:
        shared = {id(parameter) for parameter in network.get_decoder().parameters()}
        for parameter in network.get_encoder().parameters():
            parameter.requires_grad_(id(parameter) in shared)  # the words' embeddings are the decoder's, too
    return network
