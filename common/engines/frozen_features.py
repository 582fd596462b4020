"""The stage of frozen features: run frozen networks once per input, and keep what they give on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.data.datasets.features import write_features
from common.handlers.out_of_memory import is_out_of_memory, out_of_memory_sentence
from common.inferers.frozen_encoders import FrozenEncoder
from common.io.output_folder import write_text

__all__ = ["FeatureWriter"]

logger = logging.getLogger("train")


class FeatureWriter:
    """Encode every input once; a second run, or another choice of encoders, only reads the cache.

    Writes into `OUTPUT_DIR/STAGE`, for `common.data.datasets.features.FeatureDataset`: SPLIT.json with a list per text
    or number of the cases and, of features that are maps, the digests of their entries in the cache; SPLIT.safetensors
    with the vectors, features among them, stacked to (N, ...). And history.json.

    Args:
        encoders: name of the feature -> what gives it; None leaves it out.
        cases: split -> one mapping per case, which the encoders read.
        columns: which of their values to write as well: texts, numbers, vectors.
        cache_dir: folder of the `FeatureCache`; several runs may share one.
        output_dir: folder of the run.
        stage: its folder in that.
        batch_size: inputs that the cache lacks and that are encoded together.
        settings: written beside the columns, e.g. {"labels": names}.
        scaled: name of a feature whose `scale_factor`, 1 / standard deviation over all elements of the split train, is
            measured; without one, and without that split, it is 1.
        oom_advice: overrides that help when memory runs out, the mildest first.
    """

    def __init__(
        self,
        encoders: Mapping[str, FrozenEncoder | None],
        cases: Mapping[str, Sequence[Mapping[str, Any]]],
        columns: Sequence[str],
        cache_dir: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        stage: str = "features",
        batch_size: int = 1,
        settings: Mapping[str, Any] | None = None,
        scaled: str | None = None,
        oom_advice: Sequence[str] = ("a smaller batch_size",),
    ) -> None:
        self.encoders = {name: encoder for name, encoder in encoders.items() if encoder is not None}
        self.cases, self.columns, self.cache = dict(cases), list(columns), FeatureCache(cache_dir)
        self.stage, self.folder, self.batch_size = stage, Path(output_dir) / stage, batch_size
        self.settings, self.scaled, self.scale_factor = dict(settings or {}), scaled, 1.0
        self.oom_advice = list(oom_advice)
        self.encoded, self.encode_seconds = Counter(), 0.0

    def run(self) -> dict[str, Any]:
        """Encode what is not cached yet, and write the features of every split.

        Returns:
            `metrics` of the history: `cases`, `hits` and `misses` of the cache, `UNIT_encoded` for the unit of each
            encoder, `encode_seconds`, `scale_factor` where one is measured, `cache_bytes`.

        Raises:
            BadInput: if an input cannot be read.
        """
        begin, hits, misses = time.perf_counter(), self.cache.hits, self.cache.misses
        self.encoded, self.encode_seconds = Counter({encoder.unit: 0 for encoder in self.encoders.values()}), 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        for split in sorted(self.cases, key=lambda split: split != "train"):  # which has the scale factor of all
            try:
                self._write(split)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    where = f"in the split {split}"
                    logger.error(out_of_memory_sentence(self.stage, where, error, self.oom_advice))
                raise
        metrics = {
            "cases": sum(map(len, self.cases.values())),
            "hits": self.cache.hits - hits,
            "misses": self.cache.misses - misses,
            **{f"{unit}_encoded": count for unit, count in self.encoded.items()},
            "encode_seconds": round(self.encode_seconds, 3),
            **({"scale_factor": self.scale_factor} if self.scaled else {}),
            "cache_bytes": self.cache.size_bytes(),
        }
        counts = " and ".join(f"{count} {unit}" for unit, count in self.encoded.items()) or "nothing"
        note = f"{self.stage} of {metrics['cases']} cases: {counts} encoded in {self.encode_seconds:.1f} s, "
        note += "the others from the cache" + (f"; scale factor {self.scale_factor:.4f}." if self.scaled else ".")
        history = {"stage": self.stage, "seconds": time.perf_counter() - begin, "iterations": [], "validations": []}
        write_text(self.folder / "history.json", json.dumps(history | {"metrics": metrics, "notes": [note]}) + "\n")
        logger.info(note)
        return metrics

    def _write(self, split: str) -> None:
        cases, spread = self.cases[split], _Spread()
        vectors: dict[str, list[Tensor]] = defaultdict(lambda: [None] * len(cases))
        digests: dict[str, list[str]] = defaultdict(lambda: [None] * len(cases))
        waiting: dict[str, list[tuple[int, FeatureKey]]] = defaultdict(list)

        def keep(name: str, row: int, key: FeatureKey | None, entry: Mapping[str, Tensor]) -> None:
            feature = entry[self.encoders[name].tensor]
            if feature.ndim == 1:
                vectors[name][row] = feature
            else:
                digests[name][row] = key.digest()
            for column, vector in self.encoders[name].columns(entry).items():
                vectors[column][row] = vector
            if name == self.scaled and split == "train":
                spread.add(feature)

        def settle(name: str) -> None:
            # A batch is always of the same cases, whatever the cache has of it: in another one a case may get other
            # last digits, and a stage that was interrupted would not give what an undisturbed one does.
            batch = waiting.pop(name)
            known = [self.cache.get(key) for _, key in batch]
            # Under the lock of the first entry that no other process has made meanwhile.
            entries = cache(lambda: self._encode(name, [cases[row] for row, _ in batch]))
            for i, (row, key) in enumerate(batch):
                keep(name, row, key, known[i] or self.cache.get_or_compute(key, lambda i=i: entries()[i]))

        for row, case in enumerate(tqdm(cases, f"{self.stage} {split}", unit="case")):
            for name, encoder in self.encoders.items():
                key = encoder.key(case, self.cache)
                if key is None:
                    keep(name, row, key, encoder.absent())
                    continue
                waiting[name].append((row, key))
                if len(waiting[name]) == self.batch_size:
                    settle(name)
        for name in list(waiting):
            settle(name)
        if self.scaled and split == "train":
            self.scale_factor = 1 / spread.std()
        columns: dict[str, list] = {name: [case[name] for case in cases] for name in self.columns}
        for name in [name for name, values in columns.items() if hasattr(values[0], "shape")]:
            vectors[name] = [torch.as_tensor(value) for value in columns.pop(name)]
        index = {
            **self.settings,
            "scale_factor": self.scale_factor,
            "features": list(self.encoders),
            "columns": columns,
            # Relative, so that the folder of the run can be moved.
            "cache_dir": os.path.relpath(self.cache.root.resolve(), self.folder.resolve()),
            "maps": {name: {"tensor": self.encoders[name].tensor, "entries": rows} for name, rows in digests.items()},
        }
        write_features(self.folder, split, index, {name: torch.stack(rows) for name, rows in vectors.items()})

    def _encode(self, name: str, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        begin = time.perf_counter()
        entries = self.encoders[name].encode(cases)
        self.encode_seconds += time.perf_counter() - begin
        self.encoded[self.encoders[name].unit] += len(cases)
        return entries


class _Spread:
    """Standard deviation over all elements of many tensors (Chan et al. 1983), without keeping them."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        values = values.double()
        count, mean = values.numel(), values.mean().item()
        squares = (values - mean).square().sum().item()
        total = self.count + count
        self.squares += squares + (mean - self.mean) ** 2 * self.count * count / total
        self.mean += (mean - self.mean) * count / total
        self.count = total

    def std(self) -> float:
        std = math.sqrt(self.squares / max(self.count - 1, 1))
        if not 0 < std < math.inf:
            raise ValueError(f"the features of the split train have standard deviation {std}, expected > 0 and finite")
        return std
