"""Answers of a batch: how likely the real ones are, and what the model says itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from monai.inferers import Inferer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.inferers.autocast import AutocastInferer
from common.llm.answer_batch import AnswerCollate
from common.llm.decoding import Decoding

__all__ = ["AnswerInferer", "WrittenAnswers"]


class WrittenAnswers(NamedTuple):
    """What is said of a batch."""

    texts: list[str] | None
    """The likeliest answer of each case; None where the batch has no questions alone."""
    logits: Tensor | None
    """(N, vocabulary) of the answers that were given, see `AnswerModel.forward`; None without."""


class AnswerInferer(Inferer):
    """Calls a `common.llm.answer_model.AnswerModel`, and lets it answer.

    Args:
        tokenizer: of the model.
        decoding: settings of `common.llm.decoding.Decoding`.
        dtype: see `AutocastInferer`.
        seed: of samples.
        ask: makes the question of an image that comes without one (`common.llm.answer_batch.AnswerCollate`), which is
            for its findings; None leaves it without an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        seed: int = 0,
        ask: AnswerCollate | None = None,
    ) -> None:
        self.tokenizer, self.decoding = tokenizer, Decoding.of(**(decoding or {}))
        self.autocast, self.seed, self.ask = AutocastInferer(dtype), seed, ask

    def __call__(
        self,
        inputs: Tensor | None,
        network: Callable,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        places: Tensor | None = None,
        prompt: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> WrittenAnswers:
        """Answer the questions of a batch.

        Args:
            inputs: as of `AnswerModel.forward`.
            network: the model, wrapped in `DistributedDataParallel` or not.
            ids: as of `AnswerModel.forward`, as are mask and places; None leaves out the logits.
            mask: see there.
            places: see there.
            prompt: (B, P) ids of the questions, padded on the left; None leaves out `texts`.
            prompt_mask: (B, P).
        """
        model = getattr(network, "module", network)
        if ids is None and prompt is None and self.ask is not None:
            asked = self.ask([{"case": "", "stage": "a", "lines": None}] * len(inputs))
            prompt, prompt_mask = (asked[name].to(inputs.device) for name in ("prompt", "prompt_mask"))
        with torch.no_grad():
            # The texts first, as the device of the batch is theirs where there is no image.
            logits = None if ids is None else self.autocast(ids, lambda t: model(inputs, t, mask, places))
            texts = None
            if prompt is not None:
                said = self.autocast(
                    prompt,
                    lambda t: model.answers(inputs, t, prompt_mask, self.tokenizer, self.decoding, self.seed),
                )
                texts = [answers[0] for answers in said]
        return WrittenAnswers(texts, logits)
