"""Which region's queries a decoder read while it wrote each sentence of a report."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from common.llm.report_model import ReportModel, ReportStates
from common.text.sentences import split_sentences

__all__ = ["SentenceRegion", "sentence_regions"]


class SentenceRegion(NamedTuple):
    """A sentence of a report and where it was read from."""

    start: int
    end: int
    """`report[start:end]` is its text."""
    region: str
    """Whose queries got most of the attention that regions got."""
    probability: float
    """Its share of that, mean over layers, heads and the sentence's tokens."""


@torch.no_grad()
def sentence_regions(
    model: ReportModel, tokenizer: PreTrainedTokenizerBase, read: ReportStates, texts: list[str]
) -> list[list[SentenceRegion]]:
    """Read each text in one teacher-forced pass, and see where the cross-attention goes.

    Attention says where a network read from, not why it wrote something.

    Args:
        model: that wrote them, in eval mode.
        tokenizer: of its decoder, one that knows the places of tokens.
        read: what the decoder read, `ReportModel.states`.
        texts: B reports.

    Returns:
        For each text its sentences; none for an empty one.
    """
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation("eager")  # others do not give their weights
    try:
        masks = [None] * len(texts) if read.mask is None else read.mask.split(1)
        cases = zip(read.states.split(1), masks, texts, strict=True)
        return [_of_one(model, tokenizer, states, mask, text) for states, mask, text in cases]
    finally:
        model.decoder.set_attn_implementation(before)


def _of_one(
    model: ReportModel, tokenizer: PreTrainedTokenizerBase, states: Tensor, mask: Tensor | None, text: str
) -> list[SentenceRegion]:
    sentences = split_sentences(text)
    if not sentences:
        return []
    coded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    most = getattr(model.decoder.config, "max_position_embeddings", None)
    labels = coded["input_ids"][:, :most].to(states.device)
    found = model.decoder(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        labels=labels,
        output_attentions=True,
    )
    weights = torch.stack(found.cross_attentions).float().mean((0, 2))[0]  # (T, N), of layers and heads
    queries = model.queries
    first, count = queries.global_queries, len(queries.regions) * queries.region_queries
    read = weights[:, first : first + count].unflatten(1, (len(queries.regions), -1)).sum(2)  # (T, R)
    starts, ends = coded["offset_mapping"][0][: len(read)].to(read.device).T
    rows = []
    for sentence in sentences:
        inside = (starts < sentence.end) & (ends > sentence.start)
        if not inside.any():
            continue
        shares = read[inside].mean(0)
        shares = shares / shares.sum()
        best = int(shares.argmax())
        rows.append(SentenceRegion(sentence.start, sentence.end, queries.regions[best], float(shares[best])))
    return rows
