"""Pictures of where the encoders of a model looked in X-ray studies that it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from common.data.cxr.studies import StudyDataset
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer
from common.inferers.note_attention import note_attention
from common.visualize.attention import case_figure, token_attention_page

__all__ = ["StudyPictures"]


class StudyPictures:
    """For `common.handlers.case_results.LabelResults`: which modalities a study has, and pictures of it.

    CASE.json gets `modalities`. CASE.png shows the image, the attention of the image encoder (saliency of one that has
    none) and the probabilities, CASE_note.html the attention over the tokens of the note.

    Args:
        network: for the attention of its encoders; None, or one without, gives pictures without it.
        pictures: whether there are pictures at all.
        tokenizer: of the notes; without it and `dataset` there is no page of the note.
        dataset: that the batches come from, for the text of the notes.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        pictures: bool = True,
        tokenizer: NoteTokenizer | None = None,
        dataset: StudyDataset | None = None,
    ) -> None:
        self.vision, self.text = getattr(network, "vision", None), getattr(network, "text", None)
        self.pictures, self.tokenizer, self.dataset = pictures, tokenizer, dataset

    def __call__(self, batch: Mapping[str, Any], said: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
        """Arguments of `write_case_files` for each case of a batch of `StudyCollate`.

        Args:
            batch: with `present`, `image`, `case` and `index`.
            said: {label: probability} of each case.
        """
        attention = self._attention(batch) if self.pictures else None
        described = []
        for i, (case, labels) in enumerate(zip(batch["case"], said, strict=True)):
            here = [name for name, p in zip(MODALITIES, batch["present"][i], strict=True) if p]
            described.append({"modalities": here})
            if self.pictures:
                image = _grey(batch["image"][i]) if "vision" in here else None
                looked = None if attention is None or image is None else attention[i]
                name = getattr(self.vision, "saliency_name", "attention")
                described[-1] |= {
                    "picture": case_figure(image, labels, looked, title=case, attention_name=name),
                    "note_page": self._note_page(case, int(batch["index"][i])) if "text" in here else "",
                }
        return described

    @torch.no_grad()
    def _attention(self, batch: Mapping[str, Any]) -> np.ndarray | None:
        if self.vision is None or "image" not in batch:
            return None
        device = next(self.vision.parameters()).device
        return self.vision.saliency(batch["image"].to(device)).float().cpu().numpy()

    def _note_page(self, case: str, index: int) -> str:
        if self.text is None or self.tokenizer is None or self.dataset is None:
            return ""
        return token_attention_page(case, *note_attention(self.text, self.tokenizer, self.dataset.cases[index]["note"]))


def _grey(image: torch.Tensor) -> np.ndarray:
    """(H, W) in [0, 1] of a normalised image."""
    grey = image[0].float().numpy()
    low, high = grey.min(), grey.max()
    return (grey - low) / max(high - low, 1e-6)
