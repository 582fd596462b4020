"""Put what a stage of MDF-Net trained where inference, and the next stage, find it, and take it from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from common.data.output_folder import whole, write_text
from common.networks.checkpoint_file import read_checkpoint
from common.networks.mdfnet import MAKE_WEIGHTS
from common.networks.slice_interpolator import MissingWeights, load_exactly, save_parts

__all__ = ["StudyCheckpointLoader", "StudyPartsSaver"]

_TARGETS = {
    "vision": "common.networks.vision_encoder.VisionEncoder",
    "text": "common.networks.text_encoder.TextEncoder",
    "clinical": "common.networks.clinical_encoder.ClinicalEncoder",
    "fusion": "common.networks.modality_fusion.FusionHead",
}


class StudyPartsSaver:
    """When training completes, save parts into `CKPT_DIR/NAME.pt` and their definitions beside it.

    `NAME.pt` is a plain state dict with names that begin with `vision.`, `text.`, `clinical.` or `fusion.`; parts that
    are in it and not saved now stay. The definitions, a configuration overlay with `vision_def`, ..., `labels` and
    `modalities`, go to `network.json` if the name is "model", else to `NAME.json`.

    Args:
        ckpt_dir: folder, created.
        network: `MDFNet` or `FeatureMDFNet`.
        labels: names in the order of the outputs.
        name: of the file.
        parts: which to save; default all that the network has.
        settings: further ids of the configuration that belong to the weights, such as `image_size`.
        base: name of a file that NAME begins from, instead of from what it held before: the frozen encoders that a head
            was trained on, whatever a later stage made of them. A folder without it (a packed bundle's) goes on with
            what NAME held.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module,
        labels: Sequence[str],
        name: str = "model",
        parts: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
    ) -> None:
        self.settings, self.base = dict(settings or {}), base
        self.folder, self.network, self.labels, self.name = Path(ckpt_dir), network, list(labels), name
        self.parts = parts

    def attach(self, engine: Engine) -> None:
        """Save when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Write both files; of several processes only the first does, and the others wait for it."""
        if idist.get_rank() == 0:
            network = getattr(self.network, "module", self.network)
            here = [part for part in _TARGETS if getattr(network, part, None) is not None]
            chosen = here if self.parts is None else [part for part in here if part in self.parts]
            path = self.folder / ("network.json" if self.name == "model" else f"{self.name}.json")
            if self.base is not None and (self.folder / f"{self.base}.pt").is_file():
                for source, target in ((f"{self.base}.pt", f"{self.name}.pt"), (f"{self.base}.json", path.name)):
                    with whole(self.folder / target) as part:
                        shutil.copyfile(self.folder / source, part)
            save_parts(self.folder / f"{self.name}.pt", {part: getattr(network, part) for part in chosen})
            overlay = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for part in chosen:
                absent = {} if part == "fusion" else {"_disabled_": f"$'{part}' not in @modalities"}
                overlay[f"{part}_def"] = {"_target_": _TARGETS[part]} | absent | getattr(network, part).definition()
            if "fusion" in chosen:
                overlay["modalities"] = list(network.modalities)
            overlay |= {"labels": self.labels} | self.settings
            write_text(path, json.dumps(overlay, indent=1) + "\n")
        if idist.get_world_size() > 1:
            idist.barrier()


class StudyCheckpointLoader:
    """Load all parts of a network when an engine starts; MONAI's federated client switches it off by its name.

    Args:
        path: what `StudyPartsSaver` wrote, such as `model.pt`. Parts that the network lacks are left aside: stage 1 has
            no encoders.
        network: `MDFNet` or `FeatureMDFNet`.
    """

    def __init__(self, path: str, network: nn.Module) -> None:
        self.path, self.network = Path(path), network

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load the weights, all or none.

        Raises:
            MissingWeights: if there is no such file.
            ValueError: if a part is missing or has other names or shapes.
        """
        if not self.path.is_file():
            raise MissingWeights(f"{self.path} does not exist; make it with {MAKE_WEIGHTS}, then --ckpt_dir RUN/models")
        network = getattr(self.network, "module", self.network)
        here = tuple(f"{part}." for part in _TARGETS if getattr(network, part, None) is not None)
        state = {name: tensor for name, tensor in read_checkpoint(self.path).items() if name.startswith(here)}
        load_exactly(network, state, f"{self.path}")
