"""The `latents` stage: run the frozen VAE once per CT and ratio, and keep the result on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.data.datasets.feature_cache import FeatureCache, FeatureKey
from common.data.datasets.latents import INDEX_NAME
from common.data.manifest import read_split
from common.inferers.chunked_vae import ChunkedVAE
from common.io.output_folder import write_text
from common.networks.slice_unet import ratio_condition
from common.networks.weights import weights_hash
from common.transforms.ct_pairs import SlicePair, read_pair
from common.transforms.slabs import interpolate_slices
from common.transforms.windows import scale_window

__all__ = ["LatentWriter"]

logger = logging.getLogger("train")

_VERSION = 1  # raised whenever the preprocessing changes, so that older latents are not reused


class LatentWriter:
    """Encode every training and validation case once per ratio; a second run only reads the cache.

    Writes `OUTPUT_DIR/latents/latents.json`, which `common.data.datasets.latents.LatentDataset` reads, and
    `OUTPUT_DIR/latents/history.json`. Latents are the VAE's `z_mu`: no sampling noise, not times the scale factor.

    Args:
        chunked_vae: the frozen VAE with its chunk sizes.
        manifest: `manifest.csv` of the prepared data, or its folder.
        cache_dir: folder of the `FeatureCache`; several runs may share one.
        output_dir: folder of the run.
        ratios: thin slices per thick slice; every case is cached for each.
        resolution: longest side in plane (512 in the document, 384 to save memory); None leaves the CT as it is.
        splits: which rows of the manifest to encode.
        progress: show a tqdm bar.

    Raises:
        ValueError: if there is no ratio, or one below 2.
    """

    def __init__(
        self,
        chunked_vae: ChunkedVAE,
        manifest: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        ratios: Sequence[int] = (5,),
        resolution: int | None = None,
        splits: Sequence[str] = ("train", "val"),
        progress: bool = True,
    ) -> None:
        if not ratios or any(ratio < 2 for ratio in ratios):
            raise ValueError(f"ratios are {list(ratios)}, expected at least one integer of at least 2")
        self.chunked_vae = chunked_vae
        self.manifest = Path(manifest)
        self.cache = FeatureCache(cache_dir)
        self.folder = Path(output_dir) / "latents"
        self.ratios = sorted(set(ratios))
        self.resolution = resolution
        self.splits = tuple(splits)
        self.progress = progress
        self.encode_calls = 0
        self.encode_seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Encode what is not cached yet, and write index and history.

        Returns:
            `metrics` of the history: `pairs`, `hits`, `misses`, `encode_calls` (of the VAE), `scale_factor` ...

        Raises:
            BadInput: if the manifest has no case for the splits, or a CT cannot be used.
        """
        begin = time.perf_counter()
        hits, misses, calls = self.cache.hits, self.cache.misses, self.encode_calls
        rows = self._rows()
        weights = weights_hash(self.chunked_vae.vae)
        self.folder.mkdir(parents=True, exist_ok=True)
        entries, spread = [], _Spread()
        jobs = [(row, ratio) for row in rows for ratio in self.ratios]
        with tqdm(jobs, desc="latents", unit="pair", disable=not self.progress) as bar:
            for row, ratio in bar:
                bar.set_postfix_str(row["case"])
                entry, latent = self._encode_pair(row, ratio, weights)
                entries.append(entry)
                if row["split"] == "train":
                    spread.add(latent)
        metrics = {
            "pairs": len(entries),
            "cases": len(rows),
            "hits": self.cache.hits - hits,
            "misses": self.cache.misses - misses,
            "encode_calls": self.encode_calls - calls,
            "encode_seconds": round(self.encode_seconds, 3),
            "scale_factor": 1 / spread.std() if "train" in self.splits else 1.0,
            "cache_bytes": self.cache.size_bytes(),
        }
        index = {
            "vae": weights,
            "resolution": self.resolution,
            "ratios": self.ratios,
            "scale_factor": metrics["scale_factor"],
            # Relative, so that the folder of the run can be moved.
            "cache_dir": os.path.relpath(self.cache.root.resolve(), self.folder.resolve()),
            "entries": entries,
        }
        note = (
            f"{metrics['pairs']} pairs of latents: {metrics['hits']} volumes from the cache, {metrics['misses']} "
            f"encoded; scale factor {metrics['scale_factor']:.4f}."
        )
        history = {"stage": "latents", "seconds": time.perf_counter() - begin, "iterations": [], "validations": []}
        write_text(self.folder / INDEX_NAME, json.dumps(index, indent=1) + "\n")
        write_text(self.folder / "history.json", json.dumps({**history, "metrics": metrics, "notes": [note]}) + "\n")
        logger.info(note)
        return metrics

    def _rows(self) -> list[dict[str, str]]:
        return [row for split in self.splits for row in read_split(self.manifest, split)]

    def _encode_pair(self, row: Mapping[str, str], ratio: int, weights: str) -> tuple[dict[str, Any], Tensor]:
        """The index entry of a case and ratio, and its thin latent."""
        path = Path(row["image"])
        source = _Source(path, ratio, self.resolution)
        name = self.cache.hash_file(path)
        transform = {
            "what": "slice latents",
            "version": _VERSION,
            "window": "wide",
            "resolution": self.resolution,
            "ratio": ratio,
            "settings": _settings(self.chunked_vae),
        }
        keys = {side: FeatureKey(weights, name, {**transform, "side": side}) for side in ("thin", "thick")}
        stored = {
            side: self.cache.get_or_compute(key, lambda side=side: self._encode(source, side))
            for side, key in keys.items()
        }
        thin_mm, thick_mm = stored["thin"]["spacing_mm"].tolist()
        entry = {
            "case": row["case"],
            "patient": row.get("patient", row["case"]),
            "split": row["split"],
            "image": row["image"],
            "ratio": ratio,
            "thin_mm": thin_mm,
            "thick_mm": thick_mm,
            "condition": ratio_condition(thick_mm, thin_mm).tolist(),
            "shape": stored["thin"]["shape"].tolist(),
            "latent_shape": list(stored["thin"]["latent"].shape),
            **{side: key._asdict() for side, key in keys.items()},
        }
        return entry, stored["thin"]["latent"]

    def _encode(self, source: _Source, side: str) -> dict[str, Tensor]:
        pair = source.pair
        hu = pair.thin if side == "thin" else interpolate_slices(pair.thick, len(pair.thin))
        begin = time.perf_counter()
        latent, _ = self.chunked_vae.encode_volume(scale_window(hu)[None, None])
        self.encode_seconds += time.perf_counter() - begin
        self.encode_calls += 1
        return {
            "latent": latent[0].float(),
            "shape": torch.tensor(pair.thin.shape),
            "spacing_mm": torch.tensor([pair.thin_mm, pair.thick_mm], dtype=torch.float64),
        }


@dataclass(frozen=True)
class _Source:
    """A CT that is read when the cache lacks something of it, and then once."""

    path: Path
    ratio: int
    resolution: int | None

    @cached_property
    def pair(self) -> SlicePair:
        return read_pair(self.path, self.ratio, self.resolution)


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
            raise ValueError(f"the training latents have standard deviation {std}, expected > 0 and finite")
        return std


def _settings(chunked_vae: ChunkedVAE) -> dict[str, Any]:
    """What of the VAE changes latents and is no weight; chunk sizes are exact and do not count."""
    norms: list[Callable] = [m for m in chunked_vae.vae.modules() if isinstance(m, torch.nn.GroupNorm)]
    return {
        "norms": sorted({(norm.num_groups, norm.eps) for norm in norms}),
        "spool_dtype": str(chunked_vae.spool_dtype),
        "dtype": str(next(chunked_vae.vae.parameters()).dtype),
    }
