"""A vision-language model that answers questions about an image: its adapter and its projector are what is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from common.io.bad_input import BadInput
from common.llm.decoding import Decoding, generate_answers
from common.llm.llava import image_tokens, llava_of, load_llava, mm_outputs
from common.llm.llava_conversion import base_hash as weights_of_base
from common.llm.lora import add_lora, load_trainable, trainable_state
from common.networks.weights import load_part

__all__ = ["AnswerModel", "ImageTower", "planned_model"]


class ImageTower(nn.Module):
    """The vision tower of an `AnswerModel` by itself: what the tokens of an image depend on."""

    def __init__(self, model: AnswerModel) -> None:
        super().__init__()
        self.vision_tower = model.base.model.vision_tower
        self._llava = [model.base]  # not a part of this module

    def tokens(self, images: Tensor) -> tuple[None, Tensor, tuple[int, int]]:
        """As of `AnswerModel`."""
        found = image_tokens(self._llava[0], images)
        return None, found, (math.isqrt(found.shape[1]),) * 2

    def definition(self) -> dict[str, Any]:
        """What the weights do not tell."""
        config = self._llava[0].config
        return {"layer": config.vision_feature_layer, "heads": config.vision_config.num_attention_heads}


class AnswerModel(nn.Module):
    """LLaVA with a LoRA adapter.

    Its state is what is trained alone, so that a checkpoint of a model of seven billion parameters stays small.

    Args:
        base: of `common.llm.llava.load_llava`.
        r: rank of the adapter; 0 trains the whole language model instead, of a base that is being made.
        alpha: its scale is alpha / r.
        dropout: before the adapter.
    """

    def __init__(self, base: LlavaForConditionalGeneration, r: int = 16, alpha: float = 32, dropout: float = 0.05):
        super().__init__()
        self.r, self.alpha, self.dropout = r, alpha, dropout
        if r:
            self.model: nn.Module = add_lora(base, r, alpha, dropout)
        else:
            self.model = base
            base.model.vision_tower.requires_grad_(False)
            base.model.multi_modal_projector.requires_grad_(False)
        base.model.vision_tower.eval()

    @property
    def base(self) -> LlavaForConditionalGeneration:
        """The model, with the adapter in its layers."""
        return llava_of(self.model)

    @property
    def features_of(self) -> tuple[str, ...]:
        """The tower's tokens may be given in place of an image."""
        return ("vision",)

    @property
    def image_tokens(self) -> int:
        """Number of tokens of an image."""
        vision = self.base.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def tower(self) -> ImageTower:
        """What makes the tokens of images, for a cache of them."""
        return ImageTower(self)

    def train(self, mode: bool = True) -> AnswerModel:
        """As `nn.Module.train`, but for the tower, which is frozen."""
        super().train(mode)
        self.base.model.vision_tower.eval()
        return self

    def tokens(self, images: Tensor) -> tuple[None, Tensor, tuple[int, int]]:
        """(B, N, C) tokens of images (B, 3, H, W) before the projector, and their grid."""
        return self.tower().tokens(images)

    def forward(self, inputs: Tensor | None, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Logits of given answers (teacher forcing), where there is one: (N, vocabulary).

        Args:
            inputs: (B, 3, H, W) images, or (B, N, C) tokens of them; None for a question without an image.
            ids: (B, T) of questions with their answers.
            mask: (B, T), 1 where there is a token.
            places: (N,) of the B * (T - 1) tokens those after which something is to be said.
        """
        seen = self._seen(inputs)
        hidden = self.base.model(input_ids=ids, attention_mask=mask, mm_encoder_outputs=seen).last_hidden_state
        return self.base.lm_head(hidden[:, :-1].flatten(0, 1).index_select(0, places))

    @torch.no_grad()
    def answers(
        self, inputs: Tensor | None, prompt: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase,
        decoding: Decoding, seed: int = 0,
    ) -> list[list[str]]:  # fmt: skip
        """Answers to questions, see `common.llm.decoding.generate_answers`."""
        return generate_answers(self.base, tokenizer, decoding, prompt, mask, lambda: self._seen(inputs), seed)

    def _seen(self, inputs: Tensor | None) -> dict[str, Any] | None:
        if inputs is None:
            return None
        tokens = self.tokens(inputs)[1] if inputs.ndim == 4 else inputs
        return mm_outputs(self.base, tokens)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are trained, by learning rate: "projector" and "adapter" (or "language")."""
        projector = [p for p in self.base.model.multi_modal_projector.parameters() if p.requires_grad]
        known = {id(p) for p in projector}
        others = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        pairs = {"projector": projector, "adapter" if self.r else "language": others}
        return {name: params for name, params in pairs.items() if params}

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """What is trained, by the names that its layers have in the model without an adapter."""
        if self.r:
            state = trainable_state(self.model)
        else:
            state = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return {f"{prefix}{name}": tensor for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:  # noqa: ARG002
        """Load exactly what `state_dict` gives."""
        if self.r:
            load_trainable(self.model, state)
        else:
            self.model.load_state_dict(state, strict=False)

    def load(
        self, path: str | os.PathLike[str], make_weights: str | None = None, base_hash: str | None = None,
        base: str | None = None,
    ) -> AnswerModel:  # fmt: skip
        """Load `model.pt` without running code in it, all of it or nothing; then in eval mode.

        Args:
            path: of the file.
            make_weights: the command that makes it, for the sentence that says it is missing.
            base_hash: of the base that it was trained on; None if that is not known.
            base: folder of the base that is loaded.

        Raises:
            MissingWeights: if there is no such file.
            ValueError: if it has other names or shapes.
            BadInput: if it was trained on another base.
        """
        if base_hash is not None and base is not None and Path(base).is_dir() and weights_of_base(base) != base_hash:
            raise BadInput(path, f"was trained on the base {base_hash[:12]} (SHA-256), expected that one in {base}")
        load_part(self, path, "network", make_weights=make_weights)
        return self.eval()

    def definition(self) -> dict[str, Any]:
        """Arguments beside the base."""
        return {"r": self.r, "alpha": self.alpha, "dropout": self.dropout}


def planned_model(
    config: Mapping[str, Any], precision: str, gradient_checkpointing: bool, r: int, alpha: float, dropout: float,
    base: None = None,
) -> AnswerModel:  # fmt: skip
    """An `AnswerModel` of these sizes for a plan, whose tensors are fake ones if that is the mode.

    PEFT moves the tensors that it makes, which fake ones refuse: so it is made on the meta device first.

    Args:
        config: as of `common.llm.llava.load_llava`, as are precision and gradient_checkpointing.
        precision: see there.
        gradient_checkpointing: see there.
        r: as of `AnswerModel`, as are alpha and dropout.
        alpha: see there.
        dropout: see there.
        base: none is needed; a configuration that is changed for a plan has the key still.
    """
    with unset_fake_temporarily(), torch.device("meta"):
        base = load_llava(config=config, precision=precision, gradient_checkpointing=gradient_checkpointing)
        model = AnswerModel(base, r, alpha, dropout)
    return model.to_empty(device="cpu")
