"""Where the base of a vision-language model comes from: converted once, or made of parts that a demo trains."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from common.io.output_folder import atomic_path, write_text
from common.llm.answer_model import AnswerModel
from common.llm.llava_conversion import base_hash, convert_llava, is_original_layout
from common.llm.tokens import build_tokenizer, load_tokenizer
from common.networks.pretrained_encoder import build_model, definition_of
from common.networks.weights import load_part, missing_weights

__all__ = [
    "BaseConversion",
    "OriginalSaver",
    "TowerClassifier",
    "TowerLoader",
    "base_folder",
    "hash_of_base",
    "made_tokenizer",
]

logger = logging.getLogger("train")

CONVERTED, ORIGINAL = "base", "original"
"""The converted base beside the weights, and in a run the one that a demo made in the original's names."""


def base_folder(base_weights: str | None, ckpt_dir: str, make_weights: str | None = None) -> str:
    """The folder or hub name of the base: what was given, or what it was converted to if it is in another layout.

    Raises:
        MissingWeights: if it has not been converted.
    """
    if base_weights is not None and not _is_original(base_weights):
        return base_weights
    folder = Path(ckpt_dir) / CONVERTED
    if not folder.is_dir():
        raise missing_weights(f"{folder} does not exist, the base of the model (or --base_weights)", make_weights)
    return os.fspath(folder)


def _is_original(base_weights: str) -> bool:
    return Path(base_weights).is_dir() and is_original_layout(base_weights)


def hash_of_base(base: str) -> str | None:
    """SHA-256 of the weights of a base in a folder; None of one on the hub."""
    return base_hash(base) if Path(base).is_dir() else None


class BaseConversion:
    """The stage that converts a base in the original's layout, once; another one is left where it is.

    Args:
        base_weights: folder; None takes the one that a demo made in `output_dir`.
        ckpt_dir: gets the folder `base`.
        output_dir: folder of the run.
        image_size: pixels along each side of the tower's images.
        make_weights: the command that makes a base, for the sentence that says it is missing.
        stage: its folder in that of the run.
    """

    def __init__(
        self, base_weights: str | None, ckpt_dir: str, output_dir: str, image_size: int = 336,
        make_weights: str | None = None, stage: str = "convert",
    ) -> None:  # fmt: skip
        self.base_weights, self.ckpt_dir, self.output_dir = base_weights, Path(ckpt_dir), Path(output_dir)
        self.image_size, self.make_weights, self.stage = image_size, make_weights, stage

    def run(self) -> None:
        """Convert, and say what the base is.

        Raises:
            MissingWeights: if there is none.
            BadInput: if it cannot be converted, see `common.llm.llava_conversion.convert_llava`.
        """
        begin = time.perf_counter()
        source = Path(self.base_weights or self.output_dir / ORIGINAL)
        if self.base_weights is None and not source.is_dir():
            raise missing_weights("no base is given (--base_weights) and none was made", self.make_weights)
        if not _is_original(os.fspath(source)):
            note = f"{self.stage}: {source} is in Hugging Face's layout and stays where it is."
        else:
            target = convert_llava(source, self.ckpt_dir / CONVERTED, image_size=self.image_size)
            note = f"{self.stage}: {source} converted; SHA-256 of its weights {base_hash(target)}."
        logger.info(note)
        folder = self.output_dir / self.stage
        folder.mkdir(parents=True, exist_ok=True)
        history = {"stage": self.stage, "seconds": time.perf_counter() - begin, "iterations": [], "validations": []}
        write_text(folder / "history.json", json.dumps(history | {"metrics": {}, "notes": [note]}) + "\n")


def made_tokenizer(folder: str, texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A small tokenizer of training texts, in a folder, see `common.llm.tokens.build_tokenizer`."""
    with atomic_path(Path(folder)) as part:
        build_tokenizer(texts, part, vocab_size, end=False)
    return load_tokenizer(folder)


class TowerClassifier(nn.Module):
    """CLIP's vision tower with one layer over the mean of the patch tokens that a projector is to read.

    Args:
        config: sizes, `model_type: clip_vision_model`.
        labels: number of labels.
        layer: of the tower, counted from its end; what comes behind is not trained.
    """

    def __init__(self, config: Mapping[str, Any], labels: int = 14, layer: int = -2) -> None:
        super().__init__()
        self.tower, self.layer = build_model(config), layer
        self.head = nn.Linear(self.tower.config.hidden_size, labels)
        for part in (*self.tower.encoder.layers[layer + 1 :], self.tower.post_layernorm):
            part.requires_grad_(False)  # what gets no gradient stops distributed training

    def forward(self, images: Tensor) -> Tensor:
        """(B, labels) logits of (B, 3, S, S)."""
        states = self.tower(images, output_hidden_states=True).hidden_states
        return self.head(states[self.layer][:, 1:].mean(1))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that are trained, by learning rate: "encoders" and "head"."""
        tower = [p for p in self.tower.parameters() if p.requires_grad]
        return {"encoders": tower, "head": list(self.head.parameters())}

    def parts(self) -> dict[str, nn.Module]:
        """The tower, which is saved."""
        return {"tower": self.tower}

    def definitions(self, parts: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Ids of a configuration that build it."""
        return {"tower_def#config": definition_of(self.tower)}


class TowerLoader:
    """Put the tower that another stage trained into a base that is being made.

    Args:
        path: `tower.pt`, of a `TowerClassifier` of the same sizes.
        network: gets it.
    """

    def __init__(self, path: str, network: AnswerModel) -> None:
        self.path, self.network = path, network

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load all of it.

        Raises:
            MissingWeights: if there is no such file.
            ValueError: if names or shapes differ.
        """
        load_part(self.network.base.model.vision_tower, self.path, "tower")


class OriginalSaver:
    """Save a base that was trained, in the layout of LLaVA's own code and in two shards, when the training ends.

    Args:
        folder: made anew.
        network: holds the tower, the projector and the language model.
        tokenizer: of the language model.
    """

    def __init__(self, folder: str, network: AnswerModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder, self.network, self.tokenizer = Path(folder), network, tokenizer

    def attach(self, engine: Engine) -> None:
        """Save when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Write it, whole or not at all."""
        base = self.network.base
        text, state = base.config.text_config, {_original(n): t.detach().cpu() for n, t in base.state_dict().items()}
        config: dict[str, Any] = {
            "model_type": "llava_mistral",
            "architectures": ["LlavaMistralForCausalLM"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": base.config.vision_feature_layer,
            "mm_vision_select_feature": "patch",
            "mm_use_im_start_end": False,
            "image_aspect_ratio": "pad",
            "rope_theta": text.rope_parameters["rope_theta"],
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
        }
        config |= {
            name: getattr(text, name)
            for name in (
                "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                "hidden_act", "max_position_embeddings", "rms_norm_eps", "sliding_window", "vocab_size",
            )
        }  # fmt: skip
        names = sorted(state)
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        with atomic_path(self.folder) as part:
            part.mkdir()
            for file, chosen in shards.items():
                save_file({name: state[name].clone() for name in chosen}, part / file, metadata={"format": "pt"})
            index = {"weight_map": {name: file for file, chosen in shards.items() for name in chosen}}
            write_text(part / "model.safetensors.index.json", json.dumps(index, indent=1) + "\n")
            write_text(part / "config.json", json.dumps(config, indent=1) + "\n")
            self.tokenizer.save_pretrained(part)


def _original(name: str) -> str:
    """The name of a tensor in LLaVA's own code."""
    for new, old in (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.language_model.", "model."),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name
