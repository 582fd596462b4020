"""Features of notes from a frozen text encoder, for the stage of frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.data.datasets.feature_cache import FeatureCache, FeatureKey, hash_array
from common.data.note_tokenizer import NoteTokenizer
from common.inferers.frozen_encoders import NetworkFeatures

__all__ = ["NoteFeatures"]


class NoteFeatures(NetworkFeatures):
    """Features of notes, of cases with "note", a text that may be empty.

    Args:
        network, inferer, device, dtype: see `NetworkFeatures`; the network takes `input_ids` and
            `attention_mask` (B, T).
        tokenizer: of the network.
    """

    unit, what = "notes", "text feature"

    def __init__(self, network: nn.Module, inferer: Callable, tokenizer: NoteTokenizer, **kwargs: Any) -> None:
        super().__init__(network, inferer, **kwargs)
        self.collate, self.ids = tokenizer.collate, lru_cache(maxsize=1024)(tokenizer.encode)

    def key(self, case: Mapping[str, Any], cache: FeatureCache) -> FeatureKey | None:
        """Weights, the tokens, and how they were encoded."""
        if not case["note"]:
            return None
        return FeatureKey(self.weights, hash_array(np.asarray(self.ids(case["note"]), np.int64)), self.transform)

    @torch.no_grad()
    def encode(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """The entries of a batch of notes."""
        note = self.collate([self.ids(case["note"]) for case in cases])
        note = {name: ids.to(self.device) for name, ids in note.items()}
        return self.entries(self.inferer(note, lambda note: self.network(note["input_ids"], note["attention_mask"])))
