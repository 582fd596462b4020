"""What belongs to the weights of MDF-Net and is no weight: the tokenizer and the scaling of the clinical variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.bad_input import BadInput
from common.data.clinical_vector import ClinicalScaler
from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer

__all__ = ["fitted_scaler", "fitted_tokenizer", "saved_scaler", "saved_tokenizer"]

SCALER, TOKENIZER = "clinical.json", "tokenizer"


def fitted_scaler(cases: Sequence[Mapping[str, Any]], ckpt_dir: str) -> ClinicalScaler:
    """Fit the scaler on training cases and save it beside the weights.

    Args:
        cases: of the training split, from `common.data.cxr_cases.read_cxr_cases`; one value per study counts once.
        ckpt_dir: folder of the weights, created.
    """
    by_study = {case["study"]: case["clinical"] for case in cases}
    scaler = ClinicalScaler.fit(list(by_study.values()))
    Path(ckpt_dir).mkdir(parents=True, exist_ok=True)
    scaler.to_json(Path(ckpt_dir) / SCALER)
    return scaler


def saved_scaler(ckpt_dir: str) -> ClinicalScaler:
    """The scaler beside the weights.

    Raises:
        BadInput: if it is missing or damaged.
    """
    return ClinicalScaler.from_json(Path(ckpt_dir) / SCALER)


def fitted_tokenizer(
    cases: Sequence[Mapping[str, Any]],
    ckpt_dir: str,
    model: str | None = None,
    max_tokens: int = 8192,
    vocab_size: int = 2000,
    allow_download: bool = False,
) -> NoteTokenizer:
    """The text encoder's own tokenizer, or for an encoder that is trained from nothing one of the training notes.

    Either is saved beside the weights.

    Args:
        cases: of the training split.
        ckpt_dir: folder of the weights, created.
        model: folder or hub name of the encoder's tokenizer; None makes one.
        max_tokens: longer notes lose their end.
        vocab_size: of one that is made.
        allow_download: of a hub tokenizer.
    """
    folder = Path(ckpt_dir) / TOKENIZER
    if model is None:
        return build_note_tokenizer([case["note"] or "" for case in cases], folder, vocab_size, max_tokens)
    tokenizer = NoteTokenizer(model, max_tokens, allow_download)
    tokenizer.tokenizer.save_pretrained(folder)
    return tokenizer


def saved_tokenizer(ckpt_dir: str, max_tokens: int = 8192) -> NoteTokenizer:
    """The tokenizer beside the weights.

    Raises:
        BadInput: if it is missing.
    """
    folder = Path(ckpt_dir) / TOKENIZER
    if not folder.is_dir():
        raise BadInput(folder, "does not exist, expected the tokenizer of a training")
    return NoteTokenizer(folder, max_tokens)
