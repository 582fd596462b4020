"""Tokens of the texts that a language model writes: its own tokenizer, or a small one made from training texts."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path
from common.networks.weights import missing_weights

__all__ = [
    "IGNORED", "TOKENIZER", "build_tokenizer", "check_tokenizer", "encode_context", "encode_targets",
    "fitted_tokenizer", "load_tokenizer", "mean_target_length", "saved_tokenizer", "vocabulary_checksum",
]  # fmt: skip

logger = logging.getLogger("train")

TOKENIZER = "tokenizer"
"""Folder beside the weights."""

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
    texts: Iterable[str], folder: str | os.PathLike[str], vocab_size: int = 2000, end: bool = True
) -> PreTrainedTokenizerBase:
    """Make a small tokenizer of byte pairs, as BART's, from training texts and save it as Hugging Face does.

    It is cased and keeps every character, so that decoding gives a text back exactly; a text is written as BOS, its
    tokens, EOS. The same texts in any order give the same bytes.

    Args:
        texts: of the training split.
        folder: made if missing.
        vocab_size: largest vocabulary; 260 are the bytes and the special tokens.
        end: whether EOS is put behind a text; a causal model's begins it alone.

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
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if end else "<s> $A", special_tokens=ends if end else ends[:1]
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL).save_pretrained(folder)
    return load_tokenizer(folder)


def fitted_tokenizer(
    ckpt_dir: str, texts: Iterable[str], model: str | None = None, vocab_size: int = 2000, allow_download: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a training, saved as CKPT_DIR/tokenizer beside its weights.

    Args:
        ckpt_dir: folder of the weights, created.
        texts: of the training split, of which one is made where there is no `model`.
        model: folder or hub name of the decoder's weights, whose own it is.
        vocab_size: of one that is made.
        allow_download: fetch a hub model that is not in the local cache.
    """
    folder = Path(ckpt_dir) / TOKENIZER
    with atomic_path(folder) as part:
        if model is None:
            build_tokenizer(texts, part, vocab_size)
        else:
            load_tokenizer(model, allow_download).save_pretrained(part)
    return load_tokenizer(folder)


def saved_tokenizer(
    ckpt_dir: str, make_weights: str | None = None, vocabulary: int | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights in a folder.

    Args:
        ckpt_dir: the folder.
        make_weights: the command that makes it, for the sentence that says it is missing.
        vocabulary: checksum of the one that the weights were trained with; None if it is not known.

    Raises:
        MissingWeights: if there is none.
        BadInput: if it is another one.
    """
    folder = Path(ckpt_dir) / TOKENIZER
    if not folder.is_dir():
        raise missing_weights(f"{folder} does not exist", make_weights)
    tokenizer = load_tokenizer(folder)
    if vocabulary is not None and vocabulary_checksum(tokenizer) != vocabulary:
        raise BadInput(
            folder, "has another vocabulary than the weights beside it, expected the one they were trained with"
        )
    return tokenizer


def vocabulary_checksum(tokenizer: PreTrainedTokenizerBase) -> int:
    """A number, below 2^31, that another vocabulary does not have."""
    return zlib.crc32(json.dumps(sorted(tokenizer.get_vocab().items())).encode()) & 0x7FFFFFFF


def mean_target_length(
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Mapping[str, Any]],
    decoder: PreTrainedModel,
    others: Sequence[Mapping[str, Any]] = (),
    context_tokens: int = 0,
) -> float:
    """Tokens of a report with the special ones, mean over cases, after all have been found to fit the decoder.

    How many contexts are longer than what is read of them is said in the log.

    Args:
        tokenizer: of the decoder.
        cases: with "case" and "report".
        decoder: that learns them.
        others: cases that must fit, too, such as those of the validation.
        context_tokens: that are read of the context of a case; 0 if none is.

    Raises:
        BadInput: naming the longest report if any has more tokens than the decoder has positions, and their number.
        ValueError: if the tokenizer is not the decoder's.
    """
    check_tokenizer(tokenizer, decoder)
    every = [*cases, *others]
    lengths = [len(ids) for ids in tokenizer([case["report"] for case in every])["input_ids"]]
    most = getattr(decoder.config, "max_position_embeddings", None)
    long = [n for n in lengths if most is not None and n > most]
    if long:
        case = every[lengths.index(max(lengths))]["case"]
        reason = f"has a report of {max(lengths)} tokens, as {len(long)} of {len(every)} cases have more than {most}"
        raise BadInput(case, f"{reason}, expected at most the positions of the decoder")
    if context_tokens:
        read = tokenizer([case["context"] for case in every])["input_ids"]
        cut = sum(len(ids) > context_tokens for ids in read)
        if cut:
            logger.warning(f"{cut} of {len(every)} cases have a context of which the first {context_tokens} tokens "
                           "are read (context_tokens)")  # fmt: skip
    return sum(lengths[: len(cases)]) / len(cases)


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


def encode_context(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int) -> Tensor:
    """Texts that a model reads beside an image; of a longer one the first `most` tokens.

    Returns:
        (B, M) int64 with the special tokens, `IGNORED` where padded.
    """
    rows = [torch.tensor(ids[:most]) for ids in tokenizer(list(texts))["input_ids"]]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def encode_targets(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tensor:
    """Texts as labels of a decoder, whole: what is too long is found by `mean_target_length` before training.

    Returns:
        (B, T) int64 with the special tokens, `IGNORED` where padded.
    """
    rows = [torch.tensor(ids) for ids in tokenizer(list(texts))["input_ids"]]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORED)
