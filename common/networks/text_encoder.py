"""Note encoder: a Hugging Face text encoder (Clinical ModernBERT) and its pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import is_flash_attn_2_available

from common.networks.pretrained_encoder import build_model, cls_attention, definition_of, drop_unused, load_model

__all__ = ["CLINICAL_MODERNBERT", "TextEncoder"]

# Clinical ModernBERT keeps ModernBERT-base's sizes: 149 M, 22 layers of 768, 8,192 tokens.
CLINICAL_MODERNBERT: dict[str, Any] = {"model_type": "modernbert", "classifier_pooling": "mean"}
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "longformer")


class TextEncoder(nn.Module):
    """Tokens of a note to one vector.

    Where flash attention is installed and the precision allows it (CUDA, fp16 or bf16), padding is taken out of the
    attention; else PyTorch's own attention runs on the padded batch, without a mask when nothing is padded.

    Args:
        model: folder of Hugging Face's or hub name with weights.
        config: without `model` the network (`model_type` and sizes), untrained; with it, settings that replace the
            model's own.
        pooling: "cls" (first token) or "mean" over the tokens of the note; default what the model's own classifier does
            (`classifier_pooling`: "mean" for ModernBERT-base, whose local layers keep the first token from seeing far),
            "cls" if it says nothing.
        gradient_checkpointing: recompute activations in the backward pass.
        allow_download: fetch a hub model that is not in the local cache.

    Attributes:
        model: the Hugging Face model.
        pooling: as used.
        features: length of the vector (768).
        max_tokens: longest note that the model takes (8,192).
        vocab_size: tokens that it knows.
        pad_token_id: as its tokenizer must have it.
        has_weights: built with `model`, so a checkpoint may leave this part out.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: without model and config, for an unknown pooling, or if the weights do not fit.
    """

    def __init__(
        self,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        pooling: str | None = None,
        gradient_checkpointing: bool = False,
        allow_download: bool = False,
    ) -> None:
        super().__init__()
        if model is None and config is None:
            raise ValueError("TextEncoder got neither model nor config, expected weights or sizes")
        network = load_model(model, config, allow_download) if model is not None else build_model(config)
        self.model = drop_unused(network)
        self.pooling = pooling or getattr(network.config, "classifier_pooling", "cls")
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling is {self.pooling!r}, expected cls or mean")
        if gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        self.gradient_checkpointing, self.has_weights = gradient_checkpointing, model is not None
        self.features: int = network.config.hidden_size
        self.vocab_size: int = network.config.vocab_size
        self.pad_token_id: int | None = network.config.pad_token_id
        # RoBERTa counts positions from after its padding index.
        skipped = self.pad_token_id + 1 if network.config.model_type in _POSITIONS_AFTER_PADDING else 0
        self.max_tokens: int = network.config.max_position_embeddings - skipped
        self._fused = network.config._attn_implementation

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode notes.

        Args:
            input_ids: (B, T) ids of the model's own tokenizer.
            attention_mask: (B, T), 1 for tokens and 0 for padding; None if nothing is padded.

        Returns:
            (B, features).

        Raises:
            ValueError: if the notes are longer than `max_tokens`.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._choose_attention(input_ids.device)
        hidden = self._run(input_ids, mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def attention(self, input_ids: Tensor, attention_mask: Tensor | None = None, rollout: bool = True) -> Tensor:
        """How much the first token attends to every token of the note.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T).
            rollout: through all layers (`common.networks.pretrained_encoder.cls_attention`); else the last layer in
                which every token sees every other.

        Returns:
            (B, 1, T) with `rollout`, else (B, heads, T): weights of the first token, 0 on padding.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        kinds = getattr(self.model.config, "layer_types", None) or ["full_attention"]
        last = max((i for i, kind in enumerate(kinds) if kind == "full_attention"), default=len(kinds) - 1)
        layer = last - len(kinds)
        weights = cls_attention(self.model, lambda: self._run(input_ids, mask), rollout, layer)
        return weights * mask[:, None]

    def definition(self) -> dict[str, Any]:
        """Arguments that build the same network without weights, for a checkpoint that holds them."""
        return {
            "config": definition_of(self.model),
            "pooling": self.pooling,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def _run(self, input_ids: Tensor, mask: Tensor) -> Any:
        if input_ids.shape[1] > self.max_tokens:
            raise ValueError(f"a note has {input_ids.shape[1]} tokens, expected at most {self.max_tokens}")
        return self.model(input_ids=input_ids, attention_mask=mask)

    def _choose_attention(self, device: torch.device) -> None:
        """Flash attention takes half precision on CUDA only, and autocast decides that at run time."""
        dtype = self.model.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        half = dtype in (torch.float16, torch.bfloat16)
        flash = device.type == "cuda" and half and self.model._supports_flash_attn and is_flash_attn_2_available()
        wanted = "flash_attention_2" if flash else self._fused
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
