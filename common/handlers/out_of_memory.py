"""What to do when memory runs out, on the GPU or the host."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import torch
from ignite.engine import Engine

from common.handlers.engine_state import add_note, on_exception

__all__ = ["OOMAdviceHandler", "is_out_of_memory", "out_of_memory_sentence"]

_MEMORY_ERROR = re.compile(r"not enough memory|out of memory|can't allocate memory|MemoryError", re.IGNORECASE)

logger = logging.getLogger("train")


class OOMAdviceHandler:
    """When a run ends for lack of memory, on the GPU or the host, log one sentence with the overrides that help.

    The exception goes on as it was.

    Args:
        advice: overrides as the user types them, the mildest first, for instance ["--encode_chunk 16 --decode_chunk 4",
            "--resolution 384", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the environment"].
        name: of the stage, in the sentence.

    Raises:
        ValueError: if there is no advice.
    """

    def __init__(self, advice: Sequence[str], name: str = "training") -> None:
        if isinstance(advice, str) or not advice:
            raise ValueError(f"advice is {advice!r}, expected a list with at least one override.")
        self.advice, self.name = list(advice), name

    def attach(self, engine: Engine) -> None:
        """Register on the exceptions of an engine; before handlers that raise them, such as MONAI's own."""
        on_exception(engine, self._exception)

    def _exception(self, engine: Engine, error: BaseException) -> None:
        if not is_out_of_memory(error):
            return
        where = f"at iteration {engine.state.iteration}"
        sentence = out_of_memory_sentence(self.name, where, error, self.advice)
        add_note(engine, sentence)
        logger.error(sentence)


def out_of_memory_sentence(name: str, where: str, error: BaseException, advice: Sequence[str]) -> str:
    """What to do where memory ran out.

    Args:
        name: of the stage.
        where: in it.
        error: of which the first line is quoted.
        advice: overrides, the mildest first.
    """
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return f"{name}: memory ran out {where} ({first_line}); what helps, the mildest first: {'; '.join(advice)}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or the one it was raised from, means that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.cuda.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and _MEMORY_ERROR.search(str(seen)):
            return True
        seen = seen.__cause__
    return False
