"""Judge sampled latents where it counts: as HU, after decoding and projection, against the thin CT."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor

from common.inferers.chunked_vae import ChunkedVAE
from common.metrics.image_quality import psnr, ssim
from common.transforms.ct_pairs import SlicePair, read_pair
from common.transforms.slabs import interpolate_slices, project_to_measurement
from common.transforms.windows import unscale_window

__all__ = ["DiffusionQuality"]


class DiffusionQuality:
    """A metric of a `SupervisedEvaluator` that samples latents (`SamplingInferer`, `decollate=False`).

    Means over the validation cases go to `engine.state.metrics`:
        NAME (say "psnr"), "ssim": of the decoded and projected sample, window `wide`;
        "psnr_linear": of linear interpolation with projection, the line to beat;
        "psnr_vae": of the decoded true latent with projection, what the VAE allows at best;
        "latent_mse": between sampled and true latent, both times the scale factor;
        "loss": the training loss on the same latents, if `training` is given.

    Attributes:
        example: volumes of the first case of the last run, (D, H, W) HU: "thin", "linear", "sample"; and its "case".

    Args:
        chunked_vae: decodes.
        scale_factor: of the latents.
        resolution: in plane, as in the `latents` stage.
        training: `(prepare_batch, inferer, loss)` of the trainer, to compute its loss with the same noise every time;
            needs a `PrepareDiffusionBatch` of its own.
        draws: of noise and timestep per case in the training loss; one alone says little.
    """

    def __init__(
        self,
        chunked_vae: ChunkedVAE,
        scale_factor: float,
        resolution: int | None = None,
        training: tuple[Any, Any, Any] | None = None,
        draws: int = 4,
    ) -> None:
        self.chunked_vae = chunked_vae
        self.scale_factor = scale_factor
        self.resolution = resolution
        self.training, self.draws = training, draws
        if training is not None:
            training[0].dealt = False  # every process validates on all cases
        self.example: dict[str, Any] = {}
        self._values: dict[str, list[float]] = defaultdict(list)
        self._pair = lru_cache(maxsize=4)(self._read)  # CTs and their baselines, between validations
        self._constants: dict[tuple[str, int], dict[str, float]] = {}

    def attach(self, engine: Engine, name: str = "psnr") -> None:
        """Register on an evaluator; MONAI calls this with the key of `key_val_metric`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed, name)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self._values.clear()
        self.example = {}
        if self.training is not None:
            self.training[0].reset()

    def _iteration_completed(self, engine: Engine, name: str) -> None:
        batch, output = engine.state.batch, engine.state.output
        if self.training is not None:
            self._values["loss"].append(self._loss(engine, batch))
        sampled, true = output[CommonKeys.PRED], output[CommonKeys.LABEL]
        for i, path in enumerate(batch["image"]):
            ratio = int(batch["ratio"][i])
            pair, linear = self._pair(path, ratio)
            sample = self._decode(sampled[i], pair)
            self._values[name].append(psnr(sample, pair.thin))
            self._values["ssim"].append(ssim(sample, pair.thin))
            self._values["latent_mse"].append((sampled[i] - true[i]).square().mean().item())
            if (path, ratio) not in self._constants:
                ceiling = self._decode(true[i], pair)
                values = {"psnr_linear": psnr(linear, pair.thin), "psnr_vae": psnr(ceiling, pair.thin)}
                self._constants[path, ratio] = values
            for key, value in self._constants[path, ratio].items():
                self._values[key].append(value)
            if not self.example:
                self.example = {"case": batch["case"][i], "thin": pair.thin, "linear": linear, "sample": sample}

    def _completed(self, engine: Engine) -> None:
        engine.state.metrics |= {key: sum(values) / len(values) for key, values in self._values.items()}

    def _loss(self, engine: Engine, batch: dict[str, Any]) -> float:
        prepare_batch, inferer, loss = self.training
        values = []
        for _ in range(self.draws):
            inputs, target, args, kwargs = prepare_batch(batch, engine.state.device)
            with torch.no_grad():
                values.append(loss(inferer(inputs, engine.network, *args, **kwargs), target).item())
        return sum(values) / len(values)

    def _decode(self, latent: Tensor, pair: SlicePair) -> Tensor:
        decoded = self.chunked_vae.decode(latent[None].float() / self.scale_factor, shape=pair.thin.shape)
        return project_to_measurement(unscale_window(decoded[0, 0].float().cpu()), pair.thick)

    def _read(self, path: str, ratio: int) -> tuple[SlicePair, Tensor]:
        pair = read_pair(path, ratio, self.resolution)
        return pair, project_to_measurement(interpolate_slices(pair.thick, len(pair.thin)), pair.thick)
