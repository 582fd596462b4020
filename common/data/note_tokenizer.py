"""Tokens of clinical notes: the encoder's own tokenizer, cut at a length, padded to the longest of the batch.

Every note of MDF-Net becomes tokens here, whether features are made, a network is trained, or a case is predicted, so
that background passages are added here too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.io.output_folder import atomic_path
from common.text.notes.bm25 import with_background

__all__ = ["NoteTokenizer", "build_note_tokenizer", "save_tokenizer"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class NoteTokenizer:
    """Notes to `input_ids` and `attention_mask`.

    Args:
        model: folder or hub name of a tokenizer; it must be the text encoder's own.
        max_tokens: longer notes lose their end (8,192 is what ModernBERT takes).
        allow_download: fetch a hub tokenizer that is not in the local cache.
        background_passages: how many passages of general knowledge (`common.text.notes.bm25`) are added to a note that
            is not empty.
        labels: names of what is predicted, whose terms no passage may hold.

    Attributes:
        tokenizer: Hugging Face's.

    Raises:
        FileNotFoundError: if there is no such tokenizer.
        ValueError: if it cannot pad, `max_tokens` is below 3, `background_passages` is negative, or passages are asked
            for and the terms of a label are not known.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        max_tokens: int = 8192,
        allow_download: bool = False,
        background_passages: int = 0,
        labels: Sequence[str] = (),
    ) -> None:
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                os.fspath(model), local_files_only=not allow_download
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{os.fspath(model)} is not a folder with a tokenizer, nor in the Hugging Face cache: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of {os.fspath(model)} has no padding token, expected an encoder's")
        if max_tokens < 3:
            raise ValueError(f"max_tokens is {max_tokens}, expected 3 or more: two of them are special")
        if not isinstance(background_passages, int) or background_passages < 0:
            raise ValueError(f"background_passages is {background_passages}, expected a whole number, 0 or more")
        self.max_tokens, self.background_passages, self.labels = max_tokens, background_passages, tuple(labels)
        self.text("")  # a label without known terms is refused here, before the first batch

    def __len__(self) -> int:
        """Size of the vocabulary with special tokens."""
        return len(self.tokenizer)

    def text(self, note: str | None) -> str:
        """What the encoder reads: the note with its background passages behind it; "" for None."""
        return with_background(note or "", self.background_passages, self.labels)

    def encode(self, note: str | None) -> list[int]:
        """Ids of `text(note)`, with special tokens, cut at `max_tokens`."""
        return self.tokenizer(self.text(note), truncation=True, max_length=self.max_tokens)["input_ids"]

    def spans(self, note: str | None) -> list[tuple[int, int]]:
        """(start, end) in `text(note)` of each of the ids of `encode(note)`, in order and without overlap.

        A special token has an empty span, and so has a further token of a letter that is several tokens.

        Raises:
            ValueError: if the tokenizer does not know where its tokens stand.
        """
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} does not tell where tokens stand, expected a fast one")
        found = self.tokenizer(
            self.text(note), truncation=True, max_length=self.max_tokens, return_offsets_mapping=True
        )["offset_mapping"]
        spans, end = [], 0
        for first, last in found:
            start, stop = (max(first, end), last) if last > max(first, end) else (end, end)
            spans.append((start, stop))
            end = stop
        return spans

    def collate(self, encoded: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Pad to the longest.

        Args:
            encoded: ids of each note.

        Returns:
            `input_ids` and `attention_mask` (1 token, 0 padding), both (B, T) int64.
        """
        rows = [torch.tensor(ids, dtype=torch.int64) for ids in encoded]
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
        }

    def __call__(self, notes: Sequence[str | None]) -> dict[str, Tensor]:
        """Encode and collate a batch of notes; None is an empty note."""
        if not notes:
            raise ValueError("there is no note to tokenize, expected one or more")
        return self.collate([self.encode(note) for note in notes])

    def tokens(self, ids: Tensor | Sequence[int]) -> list[str]:
        """The tokens as text, for showing attention."""
        return self.tokenizer.convert_ids_to_tokens(torch.as_tensor(ids).tolist())


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str]) -> None:
    """Write a tokenizer of Hugging Face, all of its files or none; they replace another one in the folder."""
    with atomic_path(Path(folder)) as part:
        tokenizer.save_pretrained(part)


def build_note_tokenizer(
    texts: Iterable[str], folder: str | os.PathLike[str], vocab_size: int = 2000, max_tokens: int = 8192
) -> NoteTokenizer:
    """Make a small lower-case WordPiece tokenizer from notes and save it as Hugging Face does.

    Its vocabulary is every letter and the most frequent words; other words are spelled. (The WordPiece trainer of
    `tokenizers` numbers its pieces differently on every run.)

    Args:
        texts: notes of the training split.
        folder: made if missing.
        vocab_size: largest vocabulary, with the five special tokens.
        max_tokens: as of `NoteTokenizer`.

    Returns:
        The tokenizer, read back from the folder. The same texts give the same vocabulary.

    Raises:
        ValueError: if the texts hold no word, or their letters alone exceed `vocab_size`.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not words:
        raise ValueError(f"none of {len(texts)} texts holds a word, expected notes to make a tokenizer from")
    letters = sorted({letter for word in words for letter in word})
    pieces = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    if len(pieces) > vocab_size:
        raise ValueError(f"vocab_size is {vocab_size}, expected {len(pieces)} or more for {len(letters)} letters")
    by_frequency = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    pieces += by_frequency[: vocab_size - len(pieces)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.strip('[]').lower()}_token": name for name in _SPECIAL}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
    save_tokenizer(fast, folder)
    return NoteTokenizer(folder, max_tokens)
