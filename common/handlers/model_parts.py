"""Put a trained part into ``model.pt``, the plain state dict that inference loads, and take it from there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.io.output_folder import link_or_copy, whole, write_text
from common.networks.slice_interpolator import load_part, save_parts


class ModelPartSaver:
    """At the end of training, save one part into ``ckpt_dir/model.pt`` and its sizes into ``network.json`` beside it.

    The other parts in the file are kept, so that the stages of a recipe fill it one after the other. What was trained
    last is also the final model, ``model_final.pt``, which MONAI's federated client asks for by that name: one file.

    Args:
        ckpt_dir: folder of model.pt.
        part: "vae", "unet" or "refiner".
        network: the module to save, the averaged weights if there are any.
        sizes: arguments of the part's ``<part>_def`` in the configuration, so that a later run builds the same sizes.
        settings: further ids of inference.json that this part needs, such as the sampler it was trained for.
        extra: single tensors to save under their own name, such as ``scale_factor``.
    """

    def __init__(
        self,
        ckpt_dir: str,
        part: str,
        network: nn.Module,
        sizes: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        extra: Mapping[str, float] | None = None,
    ) -> None:
        self.ckpt_dir, self.part, self.network = Path(ckpt_dir), part, network
        self.sizes, self.settings, self.extra = dict(sizes), dict(settings or {}), dict(extra or {})

    def attach(self, engine: Engine) -> None:
        """Save when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Write both files; of several processes only the first does, and the others wait for it."""
        if idist.get_rank() == 0:
            self._write()
        if idist.get_world_size() > 1:
            idist.barrier()

    def _write(self) -> None:
        network = self.network.module if hasattr(self.network, "module") else self.network
        tensors = {name: torch.tensor(float(value)) for name, value in self.extra.items()}
        save_parts(self.ckpt_dir / "model.pt", {self.part: network} | tensors)
        with whole(self.ckpt_dir / "model_final.pt") as part:
            link_or_copy(self.ckpt_dir / "model.pt", part)
        overlay_path = self.ckpt_dir / "network.json"
        overlay = json.loads(overlay_path.read_text()) if overlay_path.is_file() else {}
        sizes = {f"{self.part}_def#{key}": value for key, value in self.sizes.items()}
        kept = {key: value for key, value in overlay.items() if not key.startswith(f"{self.part}_def#")}
        write_text(overlay_path, json.dumps(kept | sizes | self.settings, indent=4) + "\n")


class PartCheckpointLoader:
    """Load one part from ``model.pt`` when an engine starts; MONAI's federated client switches it off by its name.

    Args:
        path: ``model.pt``.
        part: "vae", "unet" or "refiner".
        network: the module that gets the weights.
    """

    def __init__(self, path: str, part: str, network: nn.Module) -> None:
        self.path, self.part, self.network = path, part, network

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load the weights, all or none."""
        load_part(getattr(self.network, "module", self.network), self.path, self.part)
