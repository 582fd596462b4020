"""When a classifier is trained, write what it says about validation and test cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import DataLoader

from common.data.prediction_table import write_predictions, write_truth
from common.handlers.engine_state import add_note

__all__ = ["LabelPredictions", "predict_labels"]


class LabelPredictions:
    """Write the probability of every label to `MODEL_SPLIT.csv` and the truth to `labels_SPLIT.csv`, a row per case.

    With `drop`, `MODEL_without_MODALITY_SPLIT.csv` is the same network on the same cases with that modality taken away:
    what each modality contributes at test time. Such files of an earlier training that are not written now are removed.

    Args:
        folder: of the files, created.
        model: name of the model.
        labels: the C names.
        network: gives logits.
        loaders: split -> data loader of all its cases, each once.
        prepare_batch: of the evaluator.
        inferer: calls the network.
        device: where it runs.
        modalities: of the columns of `present`.
        drop: modalities to take away in turn.
    """

    def __init__(
        self,
        folder: str,
        model: str,
        labels: Sequence[str],
        network: nn.Module,
        loaders: Mapping[str, DataLoader],
        prepare_batch: Callable,
        inferer: Callable,
        device: torch.device | str,
        modalities: Sequence[str],
        drop: Sequence[str] = (),
    ) -> None:
        self.folder, self.model, self.labels, self.network = Path(folder), model, tuple(labels), network
        self.loaders, self.prepare_batch, self.inferer, self.device = dict(loaders), prepare_batch, inferer, device
        self.modalities, self.drop = tuple(modalities), tuple(drop)

    def attach(self, engine: Engine) -> None:
        """Write when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    @idist.one_rank_only(with_barrier=True)
    def __call__(self, engine: Engine | None = None) -> None:
        """Write all files; of several processes only the first does, and the others wait for it."""
        network = getattr(self.network, "module", self.network)
        for split, loader in self.loaders.items():
            for dropped in set(self.modalities).difference(self.drop):  # would be taken for this training's
                (self.folder / f"{self._name(dropped)}_{split}.csv").unlink(missing_ok=True)
            for dropped in ("", *self.drop):
                name = self._name(dropped)
                hidden = self.modalities.index(dropped) if dropped else None
                cases, patients, p, y = predict_labels(
                    network, loader, self.prepare_batch, self.inferer, self.device, hidden
                )
                write_predictions(self.folder / f"{name}_{split}.csv", cases, patients, self.labels, p)
            write_truth(self.folder / f"labels_{split}.csv", cases, patients, self.labels, y)
        if engine is not None and self.loaders:
            add_note(engine, f"predictions for {', '.join(self.loaders)} are in {self.folder.name}/.")

    def _name(self, dropped: str) -> str:
        return f"{self.model}_without_{dropped}" if dropped else self.model


@torch.no_grad()
def predict_labels(
    network: nn.Module,
    loader: DataLoader,
    prepare_batch: Callable,
    inferer: Callable,
    device: torch.device | str,
    hidden: int | None = None,
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Probabilities of a network for all cases of a loader.

    Args:
        network: gives logits; evaluated in eval mode and left as it was.
        loader: batches with `case` and `patient` beside what `prepare_batch` takes.
        prepare_batch: gives (inputs, targets, args, kwargs), kwargs with `present`.
        inferer: calls the network.
        device: where it runs.
        hidden: column of `present` to set to False.

    Returns:
        Cases, patients, (n, C) probabilities, (n, C) labels with NaN.
    """
    was_training = network.training
    network.eval()
    cases, patients, probabilities, targets = [], [], [], []
    for batch in loader:
        inputs, target, args, kwargs = prepare_batch(batch, device)
        if hidden is not None:
            kwargs["present"] = kwargs["present"].clone()
            kwargs["present"][:, hidden] = False
        probabilities.append(inferer(inputs, network, *args, **kwargs).sigmoid().float().cpu())
        targets.append(target.float().cpu())
        cases += batch["case"]
        patients += batch["patient"]
    network.train(was_training)
    if not cases:
        told = "".join(f", {row['path']}: {row['reason']}" for row in getattr(loader, "excluded", [])[:1])
        raise ValueError(f"none of the cases can be used{told}, expected one at least")
    return cases, patients, torch.cat(probabilities).double().numpy(), torch.cat(targets).double().numpy()
