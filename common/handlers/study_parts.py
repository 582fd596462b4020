"""Put what a stage of MDF-Net trained where inference, and the next stage, find it, and take it from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.data.datasets.study_files import copy_study_files
from common.io.bad_input import BadInput
from common.io.output_folder import whole, write_text
from common.networks.checkpoint_file import read_checkpoint
from common.networks.mdfnet import MAKE_WEIGHTS
from common.networks.slice_interpolator import MissingWeights, load_exactly

__all__ = ["StudyCheckpointLoader", "StudyPartsSaver"]

_MODELS = ("model", "model_final")  # the weights to use, and those at the end of training, of the same network
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
    `modalities`, go to `network.json` for a "model" or "model_final", else to `NAME.json`. A model in a folder of its
    own ("baselines/text/model") gets copies of the tokenizer and the scaling that it needs, so that the folder is a
    checkpoint folder like any other.

    Args:
        ckpt_dir: folder, created.
        network: `MDFNet` or `FeatureMDFNet`.
        labels: names in the order of the outputs.
        name: of the file.
        parts: which to save; default all that the network has.
        settings: further ids of the configuration that belong to the weights, such as `image_size`.
        base: name of a file of which NAME gets the image and note encoders that the network takes features of, instead
            of what it held before: the frozen ones that a head was trained on, whatever a later stage made of them. In
            a folder without it (a packed bundle's) it is `model`.

    Raises:
        BadInput: if the file `base` was made with other settings: what was trained on its features would be saved with
            settings that are not theirs.
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
        made = self.folder / f"{base}.json"
        then = _read(made) if base is not None else {}
        for key, value in self.settings.items():
            if then.get(key, value) != value:
                raise BadInput(made, f"has {key} {then[key]} (now {value}), expected the same; features makes it anew")

    def attach(self, engine: Engine) -> None:
        """Save when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Write both files; of several processes only the first does, and the others wait for it."""
        if idist.get_rank() == 0:
            self._save(getattr(self.network, "module", self.network))
        if idist.get_world_size() > 1:
            idist.barrier()

    def _save(self, network: nn.Module) -> None:
        here = [part for part in _TARGETS if getattr(network, part, None) is not None]
        chosen = here if self.parts is None else [part for part in here if part in self.parts]
        path = self.folder / f"{self.name}.pt"
        definitions = path.with_name("network.json" if path.stem in _MODELS else f"{path.stem}.json")
        state, overlay = (read_checkpoint(path) if path.is_file() else {}), _read(definitions)
        if self.base is not None:
            state, overlay = self._encoders([name for name in network.modalities if name not in here])
        state = {name: tensor for name, tensor in state.items() if name.split(".")[0] not in chosen}
        for part in chosen:
            module = getattr(network, part)
            state |= {name: t.detach().cpu() for name, t in module.state_dict(prefix=f"{part}.").items()}
            absent = {} if part == "fusion" else {"_disabled_": f"$'{part}' not in @modalities"}
            overlay[f"{part}_def"] = {"_target_": _TARGETS[part]} | absent | module.definition()
        if "fusion" in chosen:
            overlay["modalities"] = list(network.modalities)
        overlay |= {"labels": self.labels} | self.settings
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != self.folder:
            copy_study_files(self.folder, path.parent, network.modalities)
        with whole(path) as partial:
            torch.save(state, partial)
        write_text(definitions, json.dumps(overlay, indent=1) + "\n")

    def _encoders(self, wanted: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and definitions of the encoders that the features come from."""
        source = self.folder / f"{self.base}.pt"
        if source.is_file():
            definitions = _read(source.with_suffix(".json"))
        else:
            source, definitions = self.folder / "model.pt", _read(self.folder / "network.json")
        state = read_checkpoint(source) if source.is_file() else {}
        state = {name: tensor for name, tensor in state.items() if name.split(".")[0] in wanted}
        return state, {key: value for key, value in definitions.items() if key in [f"{part}_def" for part in wanted]}


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
