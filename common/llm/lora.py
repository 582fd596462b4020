"""LoRA on a language model, that of a LLaVA beside its projector: what is trained, saved, loaded and merged.

Adapters and projector are in fp32 whatever the rest is in: an update of 2e-5 is lost in a bf16 weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.llm.llava import llava_of
from common.networks.weights import check_state

__all__ = ["add_lora", "load_trainable", "merge_lora", "trainable_state"]

# A pattern, since the names alone are also those of layers of the vision tower, which is not trained.
_TARGET = r"model\.(language_model\.)?layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_PROJECTOR = "model.multi_modal_projector."
_WRAPPER, _ADAPTER = "base_model.model.", ".default."


def add_lora(model: PreTrainedModel, r: int = 16, alpha: int = 32, dropout: float = 0.05) -> PeftModel:
    """Put adapters around the projections of the language model, free a projector and freeze everything else.

    Args:
        model: of `common.llm.llava.load_llava`, quantised or not, or a language model of Llama's and Mistral's kind;
            changed in place.
        r: rank, the columns of an adapter.
        alpha: the adapters' output is multiplied by alpha / r.
        dropout: of the adapters' input.

    Raises:
        ValueError: if the model has adapters already, or the adapters have other sizes than these of its projections.
    """
    if hasattr(model, "peft_config") or isinstance(model, PeftModel):
        raise ValueError("the model has adapters already, expected one without")
    adapted = get_peft_model(
        model, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=_TARGET, bias="none")
    )
    projector = getattr(model.model, "multi_modal_projector", None)
    if projector is not None:
        for layer in (projector.linear_1, projector.linear_2):
            for name, value in list(layer.named_parameters()):  # made anew: a plan's fake tensors cannot be changed
                setattr(layer, name, nn.Parameter(value.detach().float()))
        projector.register_forward_pre_hook(_as_weights)
    size = sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    if size != (expected := _adapter_size(model, r)):
        raise ValueError(f"the adapters have {size:,} parameters, expected {expected:,} of the language model's alone")
    return adapted


def _as_weights(projector: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tower's tokens in the precision of a projector that has another."""
    return tuple(x.to(projector.linear_1.weight.dtype) for x in inputs)


def _adapter_size(model: PreTrainedModel, r: int) -> int:
    """Parameters of adapters on the seven projections of each layer, from the sizes that the configuration states."""
    text = model.config.get_text_config()
    hidden, inner = text.hidden_size, text.intermediate_size
    queries, keys = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)  # q and o, k and v
    return text.num_hidden_layers * r * (attention + 3 * (hidden + inner))


def trainable_state(model: PeftModel) -> dict[str, Tensor]:
    """Weights of adapters and projector, under the names that the layers have in the model without adapters.

    Returns:
        name ("model.language_model.layers.0.self_attn.q_proj.lora_A.weight") to tensor, in the model's own memory.
    """
    return {
        short: tensor.detach()
        for name, tensor in getattr(model, "module", model).named_parameters()
        if ".lora_" in (short := name.removeprefix(_WRAPPER).replace(_ADAPTER, ".")) or short.startswith(_PROJECTOR)
    }


def load_trainable(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Load what `trainable_state` gave, all of it or nothing.

    Raises:
        ValueError: if names or shapes differ from the model's.
    """
    own = trainable_state(model)
    check_state(own, state, "the adapter")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def merge_lora(model: PeftModel) -> PreTrainedModel:
    """Add the adapters to the weights they lie beside: the same model, without PEFT, in its own precision.

    Within 1e-5 of the model with adapters in fp32; in bf16 the sum is rounded.

    Raises:
        ValueError: if the model is quantised.
    """
    if getattr(llava_of(model), "is_quantized", False):
        raise ValueError("the model is quantised, expected one in full precision to merge the adapters into")
    merged = getattr(model, "module", model).merge_and_unload()
    if (projector := getattr(merged.model, "multi_modal_projector", None)) is not None:
        projector.to(merged.dtype)
    return merged
