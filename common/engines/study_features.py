"""The `features` stage: run the frozen encoders once per image and note, and keep the result on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from common.data.datasets.feature_cache import FeatureCache, FeatureKey, hash_array
from common.data.datasets.studies import StudyDataset
from common.data.note_tokenizer import NoteTokenizer
from common.handlers.startup_report import is_out_of_memory, out_of_memory_sentence
from common.io.output_folder import whole, write_text
from common.networks.mdfnet import MDFNet
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.networks.weights import weights_hash

__all__ = ["FeatureWriter"]

logger = logging.getLogger("train")

_VERSION = 1  # raised whenever the preprocessing changes, so that older features are not reused


class FeatureWriter:
    """Encode every image and note once; a second run, or another subset of modalities, only reads the cache.

    Writes `OUTPUT_DIR/features/SPLIT.safetensors` (vision (N, d), text (N, d), clinical (N, 45), present (N, 3), label
    (N, C)) and SPLIT.json (cases, patients, labels), which `common.data.datasets.features.FeatureDataset` reads, and
    history.json.

    Args:
        network: with the frozen encoders.
        datasets: split -> its cases, without augmentation.
        tokenizer: of the notes.
        labels: C names.
        cache_dir: folder of the `FeatureCache`; several runs may share one.
        output_dir: folder of the run.
        inferer: runs an encoder (`common.inferers.autocast.AutocastInferer`).
        device: where the encoders are.
        batch_size: of inputs that the cache lacks.
        transform: what was done to the images, for the key: sizes, normalisation.
        progress: show a tqdm bar.
        oom_advice: overrides that help when memory runs out, the mildest first.
    """

    def __init__(
        self,
        network: MDFNet,
        datasets: Mapping[str, StudyDataset],
        tokenizer: NoteTokenizer | None,
        labels: Sequence[str],
        cache_dir: str,
        output_dir: str,
        inferer: Callable,
        device: torch.device | str,
        batch_size: int = 16,
        transform: Mapping[str, Any] | None = None,
        progress: bool = True,
        oom_advice: Sequence[str] = ("--eval_batch_size 16",),
    ) -> None:
        self.network, self.datasets, self.tokenizer = network.to(device).eval(), dict(datasets), tokenizer
        self.labels, self.cache, self.folder = list(labels), FeatureCache(cache_dir), Path(output_dir) / "features"
        self.inferer, self.device, self.batch_size = inferer, device, batch_size
        self.transform, self.progress, self.oom_advice = dict(transform or {}), progress, list(oom_advice)
        self.encoded = {"vision": 0, "text": 0}
        self.encode_seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Encode what is not cached yet, and write the features of every split.

        Returns:
            `metrics` of the history: `cases`, `hits`, `misses`, `images_encoded`, `notes_encoded`, `encode_seconds`.

        Raises:
            BadInput: if an image cannot be read.
        """
        begin = time.perf_counter()
        hits, misses = self.cache.hits, self.cache.misses
        self.folder.mkdir(parents=True, exist_ok=True)
        for split, dataset in self.datasets.items():
            try:
                self._write(split, dataset)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    logger.error(out_of_memory_sentence("features", f"in the split {split}", error, self.oom_advice))
                raise
        metrics = {
            "cases": sum(len(dataset) for dataset in self.datasets.values()),
            "hits": self.cache.hits - hits,
            "misses": self.cache.misses - misses,
            "images_encoded": self.encoded["vision"],
            "notes_encoded": self.encoded["text"],
            "encode_seconds": round(self.encode_seconds, 3),
            "cache_bytes": self.cache.size_bytes(),
        }
        note = (
            f"features of {metrics['cases']} cases: {metrics['images_encoded']} images and {metrics['notes_encoded']} "
            f"notes encoded in {metrics['encode_seconds']:.1f} s, the others from the cache."
        )
        history = {"stage": "features", "seconds": time.perf_counter() - begin, "iterations": [], "validations": []}
        write_text(self.folder / "history.json", json.dumps(history | {"metrics": metrics, "notes": [note]}) + "\n")
        logger.info(note)
        return metrics

    def _write(self, split: str, dataset: StudyDataset) -> None:
        present = torch.tensor([dataset.present(i) for i in range(len(dataset))]).reshape(-1, 3)
        tensors = {
            "clinical": torch.from_numpy(dataset.clinical.copy()),
            "present": present,
            "label": torch.tensor(np.stack([case["label"] for case in dataset.cases]), dtype=torch.float32),
        }
        if self.network.vision is not None:
            tensors["vision"] = self._features("vision", split, dataset, present[:, 0])
        if self.network.text is not None:
            tensors["text"] = self._features("text", split, dataset, present[:, 1])
        listed = {"labels": self.labels} | {
            f"{key}s": [case[key] for case in dataset.cases] for key in ("case", "patient")
        }
        with whole(self.folder / f"{split}.safetensors") as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
        write_text(self.folder / f"{split}.json", json.dumps(listed) + "\n")

    def _features(self, modality: str, split: str, dataset: StudyDataset, present: Tensor) -> Tensor:
        """(N, d), zeros where there is nothing to encode."""
        encoder = getattr(self.network, modality)
        weights, settings = weights_hash(encoder), _settings_hash(encoder)
        found = torch.zeros(len(dataset), encoder.features)
        waiting: list[tuple[int, FeatureKey, Any]] = []
        rows = present.nonzero().flatten().tolist()
        for row in tqdm(rows, desc=f"{modality} {split}", unit="case", disable=not self.progress):
            key, content = self._key(modality, weights, settings, dataset, row)
            stored = self.cache.get(key)
            if stored is None:
                waiting.append((row, key, content))
            else:
                found[row] = stored["feature"]
            if len(waiting) == self.batch_size:
                self._encode(modality, dataset, waiting, found)
                waiting = []
        if waiting:
            self._encode(modality, dataset, waiting, found)
        return found

    def _key(
        self, modality: str, weights: str, settings: str, dataset: StudyDataset, row: int
    ) -> tuple[FeatureKey, Any]:
        case = dataset.cases[row]
        what = {"what": f"{modality} feature", "version": _VERSION, "dtype": getattr(self.inferer, "dtype", "float32")}
        what["encoder"] = settings
        if modality == "vision":
            return FeatureKey(weights, self.cache.hash_file(case["image"]), what | self.transform), None
        ids = self.tokenizer.encode(case["note"])
        return FeatureKey(weights, hash_array(np.asarray(ids, np.int64)), what), ids

    @torch.no_grad()
    def _encode(self, modality: str, dataset: StudyDataset, waiting: list, found: Tensor) -> None:
        begin = time.perf_counter()
        if modality == "vision":
            inputs = torch.stack([dataset[row]["image"] for row, _, _ in waiting]).to(self.device)
            features = self.inferer(inputs, self.network.encode_image)
        else:
            note = {
                name: x.to(self.device) for name, x in self.tokenizer.collate([ids for _, _, ids in waiting]).items()
            }
            features = self.inferer(note, self.network.encode_note)
        for (row, key, _), feature in zip(waiting, features.float().cpu(), strict=True):
            found[row] = self.cache.get_or_compute(key, lambda feature=feature: {"feature": feature})["feature"]
        self.encoded[modality] += len(waiting)
        self.encode_seconds += time.perf_counter() - begin


def _settings_hash(encoder: VisionEncoder | TextEncoder) -> str:
    """Of what the weights do not tell: number of heads, pooling, ...; how memory is saved changes no feature."""
    settings = {key: value for key, value in encoder.definition().items() if key != "gradient_checkpointing"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
