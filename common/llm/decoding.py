"""Text out of a language model: greedy, beam search or samples, by Hugging Face's `generate` alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["Decoding", "generate_answers", "generate_texts"]


@dataclass(frozen=True)
class Decoding:
    """How text is decoded; names and meanings are those of Hugging Face's `GenerationConfig`.

    Attributes:
        num_beams: 1 is greedy, or a sample.
        do_sample: draw tokens in place of the likeliest ones.
        temperature: of the draws.
        top_p: draw among the likeliest tokens that together have this probability (nucleus); 1 among all.
        min_new_tokens: before the end is allowed.
        max_new_tokens: at which a text ends.
        length_penalty: of beams: above 0 favours long texts, below short ones.
        no_repeat_ngram_size: no n tokens in a row twice; 0 allows it: a report rightly repeats "no".
        repetition_penalty: above 1 makes tokens that were used less likely; 1 is off, as above.
        num_return_sequences: texts for each case; more than one is of beams or samples.
        use_cache: keep keys and values; the same text, faster.

    Raises:
        ValueError: for a value out of range, or several texts of a greedy search.
    """

    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    min_new_tokens: int = 0
    max_new_tokens: int = 128
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    use_cache: bool = True

    def __post_init__(self) -> None:
        at_least = {"num_beams": 1, "min_new_tokens": 0, "max_new_tokens": 1, "no_repeat_ngram_size": 0}
        at_least |= {"num_return_sequences": 1}
        for name, low in at_least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least {low}")
        for name in ("temperature", "repetition_penalty", "top_p"):
            value = getattr(self, name)
            if not value > 0 or (name == "top_p" and value > 1):
                expected = "more than 0 and at most 1" if name == "top_p" else "a positive number"
                raise ValueError(f"{name} is {value!r}, expected {expected}")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens is {self.min_new_tokens}, more than max_new_tokens {self.max_new_tokens}")
        several = self.num_return_sequences
        if several > (max(self.num_beams, 1) if not self.do_sample else several):
            raise ValueError(
                f"num_return_sequences is {several}, expected at most num_beams {self.num_beams} or do_sample"
            )
        if not self.do_sample and (self.temperature, self.top_p) != (1.0, 1.0):
            raise ValueError("temperature and top_p are of samples, expected do_sample true")

    @classmethod
    def of(cls, **settings: Any) -> Decoding:
        """From settings of a configuration or a command.

        Raises:
            ValueError: for an unknown name, with the nearest one.
        """
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0)
                raise ValueError(f"{name} is no setting of decoding, did you mean {near[0]}?")
        return cls(**settings)


@torch.no_grad()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    encoder_states: Tensor,
    encoder_mask: Tensor | None = None,
    seed: int = 0,
) -> list[list[str]]:
    """Texts for a batch that an encoder of something else has read.

    Args:
        model: sequence-to-sequence; evaluated in eval mode and left as it was.
        tokenizer: of the model.
        decoding: how.
        encoder_states: (B, N, d_model), in place of what the model's own encoder gives.
        encoder_mask: (B, N), 1 where a state counts; None for all.
        seed: of samples; the global generators stay as they were.

    Returns:
        For each case `num_return_sequences` texts, the likeliest first; an empty one is "".

    Raises:
        ValueError: for more new tokens than the decoder has positions.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and decoding.max_new_tokens >= most:
        raise ValueError(
            f"max_new_tokens is {decoding.max_new_tokens}, expected less than the decoder's {most} positions"
        )
    # A fresh object: generate expands its states for beams in place.
    given = {"encoder_outputs": BaseModelOutput(last_hidden_state=encoder_states), "attention_mask": encoder_mask}
    return _generate(model, tokenizer, decoding, given, encoder_states.device, 0, seed)


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    prompt: Tensor,
    mask: Tensor,
    seen: Callable[[], Any],
    seed: int = 0,
) -> list[list[str]]:
    """Texts that go on from a prompt.

    Args:
        model: causal, such as LLaVA; left as it was.
        tokenizer: of the model.
        decoding: how.
        prompt: (B, P) ids, padded on the left.
        mask: (B, P), 1 where there is a token.
        seen: gives `mm_encoder_outputs` of the images anew, as generate expands it in place; or None.
        seed: of samples.

    Returns:
        As `generate_texts`.
    """
    given = {"input_ids": prompt, "attention_mask": mask}
    outputs = seen()
    given |= {} if outputs is None else {"mm_encoder_outputs": outputs}
    return _generate(model, tokenizer, decoding, given, prompt.device, prompt.shape[1], seed)


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoding: Decoding, given: Mapping[str, Any],
    device: torch.device, start: int, seed: int,
) -> list[list[str]]:  # fmt: skip
    """Texts of what is generated from place `start` on."""
    idle = () if decoding.do_sample else ("temperature", "top_p")
    idle += () if decoding.num_beams > 1 else ("length_penalty",)  # generate warns of what it does not use
    settings = {name: value for name, value in asdict(decoding).items() if name not in idle}
    training = model.training
    model.eval()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            ids = model.generate(**given, **settings)[:, start:]
    finally:
        model.train(training)
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    several = decoding.num_return_sequences
    return [texts[i : i + several] for i in range(0, len(texts), several)]
