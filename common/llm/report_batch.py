"""Cases with reports as batches of a report model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.llm.tokens import encode_context, encode_targets

__all__ = ["ReportCollate"]

_STACKED = ("image", "tokens", "label", "regions", "index")
_LISTED = ("case", "report")


class ReportCollate:
    """A list of cases to a batch; what the cases lack it lacks.

    Gives "image" or "tokens" (what the model reads), "label", "regions" and "index" stacked; "case" and "report" as
    lists; and with reports their "labels", token ids of a decoder (`common.llm.tokens.encode_targets`). Likewise
    "context" of a model that reads one.

    Args:
        tokenizer: of the decoder; None leaves out the token ids.
        context_tokens: of the model; 0 leaves out the context.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None, context_tokens: int = 0) -> None:
        self.tokenizer, self.context_tokens = tokenizer, context_tokens

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put cases together."""
        first = items[0]
        batch: dict[str, Any] = {
            name: torch.stack([torch.as_tensor(item[name]).as_subclass(Tensor) for item in items])
            for name in _STACKED
            if first.get(name) is not None
        }
        batch |= {name: [item[name] for item in items] for name in _LISTED if name in first}
        if "report" in batch and self.tokenizer is not None:
            batch["labels"] = encode_targets(self.tokenizer, batch["report"])
        if self.context_tokens and self.tokenizer is not None:
            batch["context"] = encode_context(self.tokenizer, [item["context"] for item in items], self.context_tokens)
        return batch
