"""What belongs to the weights of MDF-Net and is no weight: the tokenizer and the scaling of the clinical variables.

Whose they are: the tokenizer is the text encoder's (encoders.pt, model.pt), the scaling the clinical encoder's
(model.pt). Beside weights that have the encoder they stay as they are, whatever data a stage is run on; only the
training of new encoders (`fitted_tokenizer`) makes another tokenizer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.ehr.clinical_vector import ClinicalScaler
from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer, save_tokenizer
from common.io.bad_input import BadInput
from common.text.notes.bm25 import with_background

__all__ = [
    "encoder_tokenizer", "fitted_scaler", "fitted_tokenizer", "saved_scaler", "saved_tokenizer",
]  # fmt: skip

logger = logging.getLogger(__name__)

SCALER, TOKENIZER = "clinical.json", "tokenizer"
_DEFINITIONS = {"model.pt": "network.json", "encoders.pt": "encoders.json"}


def fitted_scaler(cases: Sequence[Mapping[str, Any]], ckpt_dir: str) -> ClinicalScaler:
    """The scaler beside a model.pt with a clinical encoder, which stays as it is, else one fitted on training cases.

    A fitted one is saved beside the weights; another folder of weights gets a scaler of its own cases.

    Args:
        cases: of the training split, from `common.data.cxr.cases.read_cxr_cases`; one value per study counts once.
        ckpt_dir: folder of the weights, created.

    Raises:
        BadInput: if a model.pt with a clinical encoder has no scaler, or a damaged one.
    """
    if "model.pt" in _weights_with("clinical", Path(ckpt_dir)):
        logger.info("%s belongs to model.pt and is kept; in another folder of weights it is fitted anew.", SCALER)
        return saved_scaler(ckpt_dir)
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
    background_passages: int = 0,
    labels: Sequence[str] = (),
) -> NoteTokenizer:
    """The tokenizer for training a new text encoder: that of published weights, or one made from the training notes.

    Either is saved beside the weights. A model.pt there with another one is of no use until it is trained anew: a
    warning says so.

    Args:
        cases: of the training split.
        ckpt_dir: folder of the weights, created.
        model: folder or hub name of the published tokenizer; None makes one.
        max_tokens: longer notes lose their end.
        vocab_size: of one that is made.
        allow_download: of a hub tokenizer.
        background_passages: added to every note, see `NoteTokenizer`; one that is made knows their words.
        labels: whose terms no passage may hold.
    """
    folder, background = Path(ckpt_dir) / TOKENIZER, {"background_passages": background_passages, "labels": labels}
    before = NoteTokenizer(folder) if "model.pt" in _weights_with("text", folder.parent) and folder.is_dir() else None
    if model is None:
        notes = [with_background(case["note"] or "", background_passages, labels) for case in cases]
        build_note_tokenizer(notes, folder, vocab_size, max_tokens)
        tokenizer = NoteTokenizer(folder, max_tokens, **background)
    else:
        tokenizer = NoteTokenizer(model, max_tokens, allow_download, **background)
        save_tokenizer(tokenizer.tokenizer, folder)
    if before is not None and not _alike(before, tokenizer):
        logger.warning(
            "%s was trained with another tokenizer: train it anew on these encoders.", folder.parent / "model.pt"
        )
    return tokenizer


def encoder_tokenizer(
    ckpt_dir: str,
    model: str | None = None,
    max_tokens: int = 8192,
    allow_download: bool = False,
    background_passages: int = 0,
    labels: Sequence[str] = (),
) -> NoteTokenizer:
    """The tokenizer of a text encoder that is trained already: that of published weights, or the one in the folder.

    A published one is saved beside the weights.

    Args:
        ckpt_dir: folder of the weights, created.
        model: folder or hub name of published weights; None takes what an earlier training left in `ckpt_dir`.
        max_tokens: this and the others as in `fitted_tokenizer`.
        allow_download: see there.
        background_passages: see there.
        labels: see there.

    Raises:
        BadInput: if there is none, or the folder has weights with a text encoder and another tokenizer.
        FileNotFoundError: if there is no tokenizer `model`.
    """
    background = {"background_passages": background_passages, "labels": labels}
    if model is None:
        return saved_tokenizer(ckpt_dir, max_tokens, **background)
    folder, tokenizer = Path(ckpt_dir) / TOKENIZER, NoteTokenizer(model, max_tokens, allow_download, **background)
    holders = _weights_with("text", folder.parent)
    if holders and folder.is_dir() and not _alike(NoteTokenizer(folder), tokenizer):
        raise BadInput(
            folder,
            f"belongs to {' and '.join(holders)} and has other words than {model}, expected another folder of weights",
        )
    save_tokenizer(tokenizer.tokenizer, folder)
    return tokenizer


def saved_tokenizer(
    ckpt_dir: str, max_tokens: int = 8192, background_passages: int = 0, labels: Sequence[str] = ()
) -> NoteTokenizer:
    """The tokenizer beside the weights; `network.json` there has the arguments that it was trained with.

    Raises:
        BadInput: if it is missing.
    """
    folder = Path(ckpt_dir) / TOKENIZER
    if not folder.is_dir():
        raise BadInput(folder, "does not exist, expected the tokenizer of a training")
    return NoteTokenizer(folder, max_tokens, background_passages=background_passages, labels=labels)


def _weights_with(part: str, folder: Path) -> list[str]:
    """Which weights in a folder have a part, as far as their definitions tell; without definitions they may."""
    found = []
    for name, definitions in _DEFINITIONS.items():
        if (folder / name).is_file():
            path = folder / definitions
            if not path.is_file() or f"{part}_def" in json.loads(path.read_text(encoding="utf-8")):
                found.append(name)
    return found


def _alike(first: NoteTokenizer, second: NoteTokenizer) -> bool:
    """Whether two tokenizers give words the same ids."""
    return first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
