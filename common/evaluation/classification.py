"""How well a network classifies the test cases of prepared studies, and what each modality contributes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from common.data.case_list import CaseList
from common.data.cxr.studies import StudyDataset
from common.data.datasets.case_loader import CaseLoader
from common.data.modalities import MODALITIES
from common.data.note_tokenizer import NoteTokenizer
from common.evaluation.compare_models import measure_models
from common.evaluation.error_attention import StudyEncoders
from common.evaluation.error_cases import case_details
from common.evaluation.evaluation import Evaluation, Measured
from common.handlers.label_predictions import LabelPredictions
from common.io.bad_input import BadInput
from common.io.table import read_columns

__all__ = ["ClassificationEvaluation"]

_MODEL = "model"


class ClassificationEvaluation(Evaluation):
    """Scores a network on the test split of prepared data, and without each modality in turn.

    Thresholds are chosen on the validation split where there is one.

    Args:
        input: a folder that `prepare` wrote.
        cases: of the validation and test splits, with the images that were left out when they were listed.
        dataset: of these cases.
        collate_fn: makes a batch.
        batch_size: of it.
        network: gives logits.
        prepare_batch: as of an evaluator.
        inferer: calls the network.
        device: where it runs.
        labels: names in the order of the outputs.
        modalities: that the network takes.
        tokenizer: of the notes, for the page; None without notes.
        draws: of the bootstrap.
        seed: of the bootstrap.
        document: published figures beside ours, see `common.evaluation.comparison_tables.Comparison`.
    """

    def __init__(
        self,
        input: str | os.PathLike[str],
        cases: CaseList,
        dataset: StudyDataset,
        collate_fn: Callable,
        batch_size: int,
        network: nn.Module,
        prepare_batch: Callable,
        inferer: Callable,
        device: torch.device | str,
        labels: Sequence[str],
        modalities: Sequence[str],
        tokenizer: NoteTokenizer | None = None,
        draws: int = 1000,
        seed: int = 0,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.input, self.cases, self.dataset = Path(input), cases, dataset
        self.collate_fn, self.batch_size = collate_fn, batch_size
        self.network, self.prepare_batch, self.inferer, self.device = network, prepare_batch, inferer, device
        self.labels, self.modalities, self.tokenizer = labels, modalities, tokenizer
        self.draws, self.seed, self.document = draws, seed, document
        columns = read_columns(self.input / "manifest.csv")
        lacking = [name for name in labels if name not in columns]
        if lacking:
            raise BadInput(
                self.input / "manifest.csv", f"has no column {lacking[0]!r}, expected every label of the network"
            )

    def run(self, output_dir: Path) -> Measured:
        """Predict both splits, into OUTPUT_DIR/predictions, and compare with the truth."""
        folder = output_dir / "predictions"
        splits = [split for split in ("val", "test") if any(case["split"] == split for case in self.cases)]
        splits = splits or [self.cases[0]["split"]]
        drop = self.modalities if len(self.modalities) > 1 else []
        loaders = {split: self._loader(split) for split in splits}
        LabelPredictions(
            str(folder), _MODEL, self.labels, self.network, loaders, self.prepare_batch, self.inferer, self.device,
            MODALITIES, drop,
        )()  # fmt: skip
        scored = splits[-1]
        models = (_MODEL, *(f"{_MODEL}_without_{name}" for name in drop))  # other files are not of this evaluation
        measured = measure_models(
            {name: folder / f"{name}_{scored}.csv" for name in models},
            folder / f"labels_{scored}.csv",
            output_dir,
            thresholds_from="val" if splits == ["val", "test"] else None,
            draws=self.draws,
            seed=self.seed,
            reference=_MODEL,
            cases=case_details(self.input, scored),
            encoders=StudyEncoders(self.network.vision, self.network.text, self.tokenizer),
            document=self.document,
        )
        measured.data = str(self.input)
        measured.parameters = {"total": sum(p.numel() for p in self.network.parameters()), "trainable": 0}
        measured.excluded = [*self.cases.excluded, *(row for loader in loaders.values() for row in loader.excluded)]
        return measured

    def _loader(self, split: str) -> CaseLoader:
        indices = [i for i, case in enumerate(self.cases) if case["split"] == split]
        cases = [self.cases[i] for i in indices]
        return CaseLoader(Subset(self.dataset, indices), cases, self.batch_size, self.collate_fn)
