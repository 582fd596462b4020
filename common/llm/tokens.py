"""Tokens of the texts that a language model writes: its own tokenizer, or a small one made from training texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.io.bad_input import BadInput

__all__ = ["IGNORED", "build_tokenizer", "check_tokenizer", "encode_targets", "load_tokenizer", "too_long"]

IGNORED = -100
"""Label of padding, which Hugging Face's losses leave out."""
_SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # BART's, in its order


def load_tokenizer(model: str | os.PathLike[str], allow_download: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has no token for the end of a text or for padding.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(os.fspath(model), local_files_only=not allow_download)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{os.fspath(model)} is not a folder with a tokenizer, nor in the Hugging Face cache: {reason}"
        ) from error
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"the tokenizer of {os.fspath(model)} has no {name}, expected a language model's")
    return tokenizer


def build_tokenizer(
    texts: Iterable[str], folder: str | os.PathLike[str], vocab_size: int = 2000
) -> PreTrainedTokenizerBase:
    """Make a small tokenizer of byte pairs, as BART's, from training texts and save it as Hugging Face does.

    It is cased and keeps every character, so that decoding gives a text back exactly; a text is written as BOS, its
    tokens, EOS. The same texts in any order give the same bytes.

    Args:
        texts: of the training split.
        folder: made if missing.
        vocab_size: largest vocabulary; 260 are the bytes and the special tokens.

    Returns:
        The tokenizer, read back from the folder.

    Raises:
        ValueError: if there is no text, or `vocab_size` is too small.
    """
    texts = sorted(texts)
    smallest = len(_SPECIAL) + 256
    if not any(text.strip() for text in texts):
        raise ValueError(f"none of {len(texts)} texts holds a word, expected texts to make a tokenizer from")
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}, expected {smallest} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (_SPECIAL["bos_token"], _SPECIAL["eos_token"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    Path(folder).mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL).save_pretrained(folder)
    return load_tokenizer(folder)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer that is not the model's.

    Raises:
        ValueError: if it has more tokens than the model knows, or another end, padding or beginning.
    """
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, expected at most the {known} of the decoder")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        own, its = getattr(tokenizer, name), getattr(model.config, name, None)
        if its is not None and own not in (its if isinstance(its, list) else [its]):
            raise ValueError(f"the tokenizer has {name} {own}, expected the decoder's {its}")


def encode_targets(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as labels of a decoder, whole: what is too long is found by `too_long` before training.

    Returns:
        `labels` (B, T) int64 with the special tokens, `IGNORED` where padded; `lengths` (B,) of tokens that count.
    """
    rows = [torch.tensor(ids) for ids in tokenizer(list(texts))["input_ids"]]
    return {
        "labels": pad_sequence(rows, batch_first=True, padding_value=IGNORED),
        "lengths": torch.tensor([len(row) for row in rows]),
    }


def too_long(tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, str], max_tokens: int) -> list[BadInput]:
    """A sentence for each case whose text has more tokens than the decoder takes.

    Args:
        tokenizer: of the decoder.
        texts: case to text.
        max_tokens: with special tokens.
    """
    lengths = {case: len(ids) for case, ids in zip(texts, tokenizer(list(texts.values()))["input_ids"], strict=True)}
    return [
        BadInput(case, f"has a report of {n} tokens, expected at most {max_tokens}")
        for case, n in lengths.items()
        if n > max_tokens
    ]
