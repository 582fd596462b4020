"""Write what a classifier says of each case: a JSON file, and pictures of where its encoders looked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import nn

from common.data.datasets.studies import StudyDataset
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer
from common.inferers.note_attention import note_attention
from common.visualize.attention import case_figure, token_attention_page
from common.visualize.case_files import write_case_files

__all__ = ["StudyResults"]


class StudyResults:
    """After each batch of an evaluator (logits, `decollate=False`) write the files of its cases.

    CASE.json is {"case", "labels": {label: probability}, "modalities": those there were}. CASE.png shows the image,
    the attention of the image encoder (saliency of one that has none) and the probabilities, CASE_note.html the
    attention over the tokens of the note.

    Attributes:
        written: paths, in the order of the cases.

    Args:
        output_dir: created.
        labels: names in the order of the outputs.
        network: for the attention of its encoders; None, or one without, gives pictures without it.
        pictures: whether CASE.png and CASE_note.html are written.
        tokenizer: of the notes; without it and `dataset` there is no CASE_note.html.
        dataset: that the evaluator's batches come from, for the text of the notes.
    """

    def __init__(
        self,
        output_dir: str,
        labels: Sequence[str],
        network: nn.Module | None = None,
        pictures: bool = True,
        tokenizer: NoteTokenizer | None = None,
        dataset: StudyDataset | None = None,
    ) -> None:
        self.folder, self.labels, self.network, self.pictures = Path(output_dir), tuple(labels), network, pictures
        self.tokenizer, self.dataset = tokenizer, dataset
        self.written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        batch = engine.state.batch
        probabilities = engine.state.output[CommonKeys.PRED].detach().float().sigmoid().cpu().numpy()
        attention = self._attention(batch, engine.state.device) if self.pictures else None
        for i, case in enumerate(batch["case"]):
            found = {label: round(float(p), 6) for label, p in zip(self.labels, probabilities[i], strict=True)}
            here = [name for name, p in zip(MODALITIES, batch["present"][i], strict=True) if p]
            figure, note_page = None, ""
            if self.pictures:
                image = _grey(batch["image"][i]) if "vision" in here else None
                seen = None if attention is None or image is None else attention[i]
                figure = case_figure(image, found, seen, title=case, attention_name=self._attention_name())
                note_page = self._note_page(case, int(batch["index"][i])) if "text" in here else ""
            paths = write_case_files(self.folder, case, found, figure, note_page=note_page, modalities=here)
            self.written += [str(path) for path in paths]

    @torch.no_grad()
    def _attention(self, batch: dict, device: torch.device | str) -> np.ndarray | None:
        encoder = getattr(self.network, "vision", None)
        if encoder is None or "image" not in batch:
            return None
        return encoder.saliency(batch["image"].to(device)).float().cpu().numpy()

    def _attention_name(self) -> str:
        return getattr(getattr(self.network, "vision", None), "saliency_name", "attention")

    def _note_page(self, case: str, index: int) -> str:
        encoder = getattr(self.network, "text", None)
        if encoder is None or self.tokenizer is None or self.dataset is None:
            return ""
        found = note_attention(encoder, self.tokenizer, self.dataset.cases[index]["note"])
        return token_attention_page(case, *found)


def _grey(image: torch.Tensor) -> np.ndarray:
    """(H, W) in [0, 1] of a normalised image."""
    grey = image[0].float().numpy()
    low, high = grey.min(), grey.max()
    return (grey - low) / max(high - low, 1e-6)
