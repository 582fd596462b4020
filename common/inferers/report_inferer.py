"""Reports of a batch: what the model says of its images, and the text that it decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from monai.inferers import Inferer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.inferers.autocast import AutocastInferer
from common.llm.decoding import Decoding, generate_texts
from common.llm.sentence_regions import SentenceRegion, sentence_regions
from common.networks.haqt_arr import AnatomicalTokens

__all__ = ["ReportInferer", "WrittenReports"]


class WrittenReports(NamedTuple):
    """What is written of a batch."""

    texts: list[list[str]]
    """For each case the likeliest text and, if several were asked for, the others."""
    states: Tensor
    """(B, N, features) that the decoder read."""
    findings: Tensor | None
    """(B, L) logits of the findings."""
    anatomy: AnatomicalTokens | None
    logits: Tensor | None
    """(B, T, vocabulary) of the next token of the reports that were given, None without."""
    sentences: list[list[SentenceRegion]] | None = None
    """Of the likeliest text of each case, where its sentences were read from; None unless asked for."""


class ReportInferer(Inferer):
    """Calls a `common.llm.report_model.ReportModel` and writes its reports.

    Args:
        tokenizer: of its decoder.
        decoding: settings of `common.llm.decoding.Decoding`.
        dtype: see `AutocastInferer`.
        seed: of samples.
        regions: also find the region of each sentence (`common.llm.sentence_regions`).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        decoding: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        seed: int = 0,
        regions: bool = False,
    ) -> None:
        self.tokenizer, self.decoding = tokenizer, Decoding.of(**(decoding or {}))
        self.autocast, self.seed, self.regions = AutocastInferer(dtype), seed, regions

    def __call__(
        self, inputs: Tensor, network: Callable, labels: Tensor | None = None, context: Tensor | None = None
    ) -> WrittenReports:
        """Write the reports of a batch.

        Args:
            inputs: as of `ReportModel.states`.
            network: the model, wrapped in `DistributedDataParallel` or not.
            labels: (B, T) tokens of reports, to know how likely they are.
            context: as of `ReportModel.states`.
        """
        model = getattr(network, "module", network)
        with torch.no_grad():
            found = self.autocast(inputs, model.states, context=context)
            logits = None if labels is None else self.autocast(found, model.given, labels=labels)
            texts = self.autocast(
                found.states,
                lambda states: generate_texts(
                    model.decoder, self.tokenizer, self.decoding, states, found.mask, self.seed
                ),
            )
            read = None
            if self.regions:
                first = [written[0] for written in texts]
                read = sentence_regions(model, self.tokenizer, found, first)
        return WrittenReports(texts, found.states, found.findings, found.anatomy, logits, read)
