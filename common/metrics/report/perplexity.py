"""Perplexity of a language model on reports, from summed negative log-likelihoods."""

from __future__ import annotations

import math

import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """``exp(nll / tokens)``, 1 for a model that is certain and right, the vocabulary's size for a uniform one.

    Sums, not means of batches: the mean of the batches' perplexities, or of their mean losses, is another number as
    soon as batches differ in tokens. Only perplexities over the same tokens (tokenizer and text) compare.

    Args:
        negative_log_likelihood: summed over all counted tokens, in nats.
        tokens: how many were counted: targets only, neither prompt nor padding.

    Returns:
        At least 0; infinity where the exponential exceeds a float.

    Raises:
        ValueError: if no token was counted.
    """
    if tokens < 1:
        raise ValueError(f"The perplexity of {tokens} tokens is undefined, expected at least one counted token.")
    mean = negative_log_likelihood / tokens
    return math.exp(mean) if mean < 700 else math.nan if math.isnan(mean) else math.inf


class Perplexity(Metric):
    """Perplexity over an epoch and over processes, whose sums are added.

    Attach it to an engine whose transformed output is ``(nll, tokens)``: the summed negative log-likelihood of a batch
    in nats and its number of counted tokens, as numbers or tensors without dimensions.
    """

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget everything."""
        self._nll = torch.zeros((), dtype=self._double_dtype, device=self._device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=self._device)

    @reinit__is_reduced
    def update(self, output: tuple[torch.Tensor | float, torch.Tensor | int]) -> None:
        """Add a batch: its summed negative log-likelihood in nats and its number of counted tokens."""
        nll, tokens = output
        self._nll += torch.as_tensor(nll, dtype=self._double_dtype, device=self._device).detach()
        self._tokens += torch.as_tensor(tokens, dtype=torch.int64, device=self._device)

    @sync_all_reduce("_nll", "_tokens")
    def compute(self) -> float:
        """The perplexity of everything added by all processes."""
        if self._tokens == 0:
            raise NotComputableError("Perplexity needs at least one counted token before it can be computed.")
        return perplexity(self._nll.item(), int(self._tokens.item()))
