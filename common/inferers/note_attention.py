"""Where a note encoder looked: the weight of every token, and where it stands in the text."""

from __future__ import annotations

from typing import NamedTuple

from common.data.note_tokenizer import NoteTokenizer
from common.networks.text_encoder import TextEncoder

__all__ = ["NoteAttention", "note_attention"]


class NoteAttention(NamedTuple):
    """What `common.visualize.attention.token_attention_html` draws.

    Attributes:
        text: what the encoder read, background passages included.
        spans: (start, end) of each token in it.
        weights: of each token, >= 0.
    """

    text: str
    spans: list[tuple[int, int]]
    weights: list[float]


def note_attention(encoder: TextEncoder, tokenizer: NoteTokenizer, note: str) -> NoteAttention:
    """Attention of the first token through all layers (rollout), for one note.

    One note at a time and without padding: its memory grows with the square of the length.

    Args:
        encoder: of the notes, on any device.
        tokenizer: its own.
        note: the text.

    Returns:
        Text, spans and weights.

    Raises:
        ValueError: if encoder or tokenizer do not tell.
    """
    tokens = tokenizer([note])
    device = next(encoder.parameters()).device
    weights = encoder.attention(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
    spans = tokenizer.spans(note)
    # A tokenizer may pad even a single note, to a rounded length.
    return NoteAttention(tokenizer.text(note), spans, weights[0, 0, : len(spans)].float().cpu().tolist())
