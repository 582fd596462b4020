"""A tiny LLaVA-Med in the names of its own code, in two shards, with a tokenizer."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, MistralConfig, MistralForCausalLM

from common.llm.tokens import build_tokenizer
from tests.llm.tiny_bart import SENTENCES

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

PUBLISHED = {
    "model_type": "llava",
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    },
    "text_config": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "sliding_window": None, "vocab_size": 32064, "pad_token_id": 32001,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "image_token_index": 32000,
}  # fmt: skip
"""Sizes of microsoft/llava-med-v1.5-mistral-7b after its conversion."""


def parts(vocab_size: int = 300) -> tuple[CLIPVisionModel, torch.nn.Sequential, MistralForCausalLM]:
    """What a LLaVA consists of, each built by itself."""
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    projector = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
    rope = {"rope_type": "default", "rope_theta": 1e6}
    text = MistralForCausalLM(MistralConfig(**TEXT, vocab_size=vocab_size, rope_parameters=rope)).eval()
    for module in (tower, projector, text):  # far from their initial values, so that every tensor matters
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return tower, projector, text


def write_original(folder: Path, safetensors: bool = True, sentencepiece: Path | None = None) -> Path:
    """The folder, with `config.json`, two shards and their index, and `tokenizer.json`, or a copy of Mistral's own."""
    settings = TEXT
    if sentencepiece is None:
        vocab_size = len(build_tokenizer(SENTENCES, folder, 300))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(sentencepiece, folder / "tokenizer.model")
        vocab_size, settings = 32000, TEXT | {"bos_token_id": 1}
    tower, projector, text = parts(vocab_size)
    clip = {name.removeprefix("vision_model."): tensor for name, tensor in tower.state_dict().items()}
    clip["embeddings.position_ids"] = torch.arange(5)[None]
    tensors = {f"model.vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in clip.items()}
    tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    tensors |= text.state_dict()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    write_shards(folder, tensors, safetensors)
    settings = settings | {
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_act": "silu",
        "rope_theta": 1000000.0,
        "image_aspect_ratio": "pad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], safetensors: bool = True) -> None:
    """Every other tensor in each of two shards, named by an index."""
    stem, ending = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    placed = {name: f"{stem}-0000{1 + i % 2}-of-00002.{ending}" for i, name in enumerate(sorted(tensors))}
    for file in set(placed.values()):
        shard = {name: tensor for name, tensor in tensors.items() if placed[name] == file}
        if safetensors:
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            torch.save(shard, folder / file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def example(image_token: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, texts of four image tokens each, and their labels, of two cases."""
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, *[image_token] * 4, 40, 50, 60, 2], [0, *[image_token] * 4, 41, 51, 61, 2]])
    labels = torch.where(torch.arange(9) < 6, -100, ids)
    return pixels, ids, labels
