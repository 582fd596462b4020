"""Cases with a question about an image as batches of a vision-language model: what is read, and what is to be said."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from common.io.bad_input import BadInput
from common.llm.tokens import IGNORED
from common.text.reasoning import EHRLine
from common.text.report_answers import instruction

logger = logging.getLogger("train")

__all__ = ["IMAGE", "AnswerCollate", "all_texts", "chat_text", "encode_answer", "mean_answer_length"]

IMAGE = "<image>"
"""Stands for an image in a text, and for each of its tokens in what a model reads."""

_LISTED = ("case", "answer", "stage")
_STACKED = ("image", "tokens", "weight", "index")


def chat_text(question: str, seen: str) -> str:
    """Mistral's text of a question before it is answered, with this in place of the image."""
    return f"[INST] {question.replace(IMAGE, seen, 1)} [/INST]"


def encode_answer(tokenizer: PreTrainedTokenizerBase, question: str, answer: str, seen: str) -> tuple[Tensor, Tensor]:
    """Token ids of a question with its answer, and their labels: those of the answer and of the end after it.

    Both are tokenised as one text, as a question alone may end in another token than before its answer; which tokens
    are the answer's is told by their places in the text.

    Args:
        tokenizer: fast, of the model; it puts BOS in front.
        question: begins with `IMAGE` and a line break.
        answer: not empty.
        seen: stands for the image: `IMAGE` for each of its tokens, or words.

    Returns:
        Two (T,) int64; `IGNORED` is the label of what is not said.
    """
    before = chat_text(question, seen)
    coded = tokenizer(f"{before} {answer}{tokenizer.eos_token}", return_offsets_mapping=True)
    ids = torch.tensor(coded["input_ids"])
    ends = torch.tensor([end for _, end in coded["offset_mapping"]])
    said = ends > len(before) + 1
    if tokenizer.eos_token_id != int(ids[-1]):  # a tokenizer that reads the end in a text as plain characters
        raise ValueError(f"the tokenizer does not know {tokenizer.eos_token!r} in a text, expected one token")
    return ids, torch.where(said, ids, IGNORED)


def all_texts(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """The questions with their answers, for a tokenizer that is made of them."""
    return [f"{chat_text(_question(case), case.get('seen', ''))} {case['answer']}" for case in cases]


def mean_answer_length(tokenizer: PreTrainedTokenizerBase, cases: Sequence[Mapping[str, Any]]) -> float:
    """Tokens that are learned of a case, mean over cases.

    Raises:
        BadInput: if there is no case, or one has no answer to learn.
    """
    if not cases:
        raise BadInput("the curriculum", "holds no case to train with, expected one at least")
    for case in cases:
        if not case["answer"].strip():
            raise BadInput(case["case"], "has no answer, expected one to learn")
    return sum(len(ids) for ids in tokenizer([case["answer"] for case in cases])["input_ids"]) / len(cases)


def _question(case: Mapping[str, Any]) -> str:
    return instruction(case["stage"], None if case["lines"] is None else [line.text for line in case["lines"]])


class AnswerCollate:
    """A list of cases to a batch.

    A case has "case", "stage", "lines" (`common.text.reasoning.EHRLine` of its record, None for none), "image" (its
    pixels) or "tokens" of it, or "seen", words in its place; and for a training "answer" and "weight". The batch has
    these, and: "ids" and "mask" (B, T) of questions with their answers, padded on the right; "places" and "said" (N,):
    after which of the B * (T - 1) tokens a token of an answer comes, and which one; "prompt" and "prompt_mask" (B, P)
    of the questions alone, padded on the left, as text is generated from them.

    What does not fit loses its oldest laboratory values, said in the log and counted in `dropped`; the image and the
    answer are whole.

    Args:
        tokenizer: of the model.
        image_tokens: number of an image.
        max_length: tokens of a question with its answer.
        prompts: whether the questions alone are needed.
        room: tokens that are kept free for an answer where none is given.

    Attributes:
        dropped: case -> laboratory values left out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_tokens: int,
        max_length: int = 2048,
        prompts: bool = False,
        room: int = 256,
    ) -> None:
        self.tokenizer, self.image_tokens = tokenizer, image_tokens
        self.max_length, self.prompts, self.room = max_length, prompts, room
        self.dropped: dict[str, int] = {}

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put cases together.

        Raises:
            BadInput: if a case does not fit without any laboratory value, or has a mark of the tokenizer in its text.
        """
        first = items[0]
        batch: dict[str, Any] = {
            name: torch.stack([torch.as_tensor(item[name]).as_subclass(Tensor) for item in items])
            for name in _STACKED
            if first.get(name) is not None
        }
        batch |= {name: [item[name] for item in items] for name in _LISTED if name in first}
        coded = [self._fitting(item) for item in items]
        if "answer" in first:
            ids, labels, _ = zip(*coded, strict=True)
            batch["ids"], batch["mask"] = _padded(ids, self.tokenizer.pad_token_id)
            following = pad_sequence(labels, batch_first=True, padding_value=IGNORED)[:, 1:].flatten()
            batch["places"] = (following != IGNORED).nonzero()[:, 0]
            batch["said"] = following[batch["places"]]
        if self.prompts or "answer" not in first:
            asked = [torch.tensor(self.tokenizer(text)["input_ids"]) for _, _, text in coded]
            batch["prompt"], batch["prompt_mask"] = _padded(asked, self.tokenizer.pad_token_id, left=True)
        return batch

    def _fitting(self, item: Mapping[str, Any]) -> tuple[Tensor, Tensor, str]:
        """Ids, labels, and the text of the question of a case that fits."""
        lines: list[EHRLine] | None = None if item["lines"] is None else list(item["lines"])
        oldest = sorted((i for i, line in enumerate(lines or ()) if line.kind == "lab"), key=lambda i: lines[i].hours)
        left_out: set[int] = set()
        seen = item.get("seen", IMAGE * self.image_tokens)
        self._check_marks(item, lines)
        while True:
            kept = None if lines is None else [line.text for i, line in enumerate(lines) if i not in left_out]
            question = instruction(item["stage"], kept)
            if "answer" in item:
                ids, labels = encode_answer(self.tokenizer, question, item["answer"], seen)
                length = len(ids)
            else:
                ids = labels = torch.empty(0, dtype=torch.long)
                length = len(self.tokenizer(chat_text(question, seen))["input_ids"]) + self.room
            if length <= self.max_length:
                break
            if not oldest:
                reason = f"has {length} tokens without any laboratory value, expected at most max_length"
                raise BadInput(item["case"], f"{reason} {self.max_length}")
            left_out.add(oldest.pop())
        if left_out and self.dropped.get(item["case"]) != len(left_out):
            self.dropped[item["case"]] = len(left_out)
            logger.warning(f"{item['case']}: the {len(left_out)} oldest laboratory values do not fit {self.max_length} "
                           "tokens and are left out (max_length)")  # fmt: skip
        return ids, labels, chat_text(question, seen)

    def _check_marks(self, item: Mapping[str, Any], lines: Sequence[EHRLine] | None) -> None:
        """Refuse texts that hold what the tokenizer reads as the end of a text, an image and the like."""
        texts = [*(line.text for line in lines or ()), item.get("answer", "")]
        for mark in map(str, self.tokenizer.added_tokens_decoder.values()):
            if any(mark in text for text in texts):
                raise BadInput(item["case"], f"has {mark!r} in its text, a mark of the tokenizer, expected words")


def _padded(rows: Sequence[Tensor], value: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """(B, T) ids and which of them count."""
    side = "left" if left else "right"
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side), mask
