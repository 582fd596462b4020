"""Put what a stage trained where inference, and the next stage, find it, and take it from there."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, link_or_copy, write_text
from common.networks.weights import ChosenWeights, load_exactly, load_part, read_state, replace_parts, write_state

__all__ = ["ModelPartSaver", "PartCheckpointLoader"]

logger = logging.getLogger("train")

_MODELS = ("model", "model_final")  # the weights to use, and those at the end of training, of the same network


class ModelPartSaver:
    """When training completes, save a network into `CKPT_DIR/NAME.pt` and its definition beside it.

    `NAME.pt` is a plain state dict with names that begin with the name of a part, `unet.` or `fusion.`. Parts that are
    in it and not saved now stay, so that the stages of a recipe fill it one after the other. The definition is a
    configuration overlay from which a later run builds the same network: `network.json` for a "model" or
    "model_final", else `NAME.json`.

    A network that is itself one part gets the name `part`, and its `definition()` becomes ids such as
    `unet_def#num_channels`. A network of several parts has a method `parts()`, name to module, and a method
    `definitions(names)`, which gives the ids of these parts with their values.

    Args:
        ckpt_dir: folder, created.
        network: the averaged weights (`EMAHandler.weights`) if there are any.
        part: what the network is called, for one that has no parts of its own.
        name: of the file; one in a folder of its own ("baselines/text/model") is a checkpoint folder like any other.
        parts: which of the network's parts to save; default all.
        extra: single tensors to save under their own name, such as `scale_factor`.
        labels: names in the order of the network's outputs, kept as the id `labels`.
        settings: further ids of the configuration that belong to the weights, such as `image_size`.
        base: name of a file of which NAME gets the frozen parts that the network takes features of
            (`network.features_of`), instead of what it held before: those that it was trained on, whatever a later
            stage made of them. In a folder without it (a packed bundle's) it is `model`.
        beside: part -> file or folder in `ckpt_dir` that belongs to it (a tokenizer, a scaling); a file of weights in a
            folder of its own gets copies of those of its parts.
        final: give the file a second name, `model_final.pt`, which MONAI's federated client asks for.

    Raises:
        BadInput: if the file `base` was made with other settings: what was trained on its features would be saved with
            settings that are not theirs.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module | ChosenWeights,
        part: str | None = None,
        name: str = "model",
        parts: Sequence[str] | None = None,
        extra: Mapping[str, float] | None = None,
        labels: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        base: str | None = None,
        beside: Mapping[str, str] | None = None,
        final: bool = False,
    ) -> None:
        self.folder, self.network, self.part, self.name, self.parts = Path(ckpt_dir), network, part, name, parts
        self.extra, self.settings, self.beside = dict(extra or {}), dict(settings or {}), dict(beside or {})
        self.labels, self.base, self.final = labels, base, final
        made = self.folder / f"{base}.json"
        then = _read_json(made) if base is not None else {}
        for key, value in self.settings.items():
            if then.get(key, value) != value:
                reason = f"has {key} {then[key]} (now {value}), expected the same"
                raise BadInput(made, f"{reason}; the stage that wrote it makes it anew")

    def attach(self, engine: Engine) -> None:
        """Save when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    @idist.one_rank_only(with_barrier=True)
    def __call__(self, engine: Engine | None = None) -> None:
        """Write both files; of several processes only the first does, and the others wait for it."""
        network = getattr(self.network, "module", self.network)
        path = self.folder / f"{self.name}.pt"
        definitions = _definitions_of(path)
        if self.part is not None:
            parts = {self.part: network}
            ids = {f"{self.part}_def#{key}": value for key, value in network.definition().items()}
        else:
            parts = {n: p for n, p in network.parts().items() if self.parts is None or n in self.parts}
            ids = network.definitions(list(parts))
        state, overlay = (read_state(path) if path.is_file() else {}), _read_json(definitions)
        if self.base is not None:
            state, overlay = self._of_base(network.features_of)
            if not hasattr(network, "modalities"):  # by which those of another network are switched
                overlay = {key: {k: v for k, v in value.items() if k != "_disabled_"} for key, value in overlay.items()}
        tensors = {name: torch.tensor(float(value)) for name, value in self.extra.items()}
        state = replace_parts(state, parts | tensors)
        sections = {f"{part}_def" for part in parts}
        overlay = {key: value for key, value in overlay.items() if key.split("#")[0] not in sections}
        self._copy_beside(path.parent, {name.split(".")[0] for name in state})
        write_state(path, state)
        if self.final:
            with atomic_path(path.with_name("model_final.pt")) as second:
                link_or_copy(path, second)
        ids |= {} if self.labels is None else {"labels": list(self.labels)}
        write_text(definitions, json.dumps(overlay | ids | self.settings, indent=1) + "\n")

    def _of_base(self, parts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and definitions of the frozen parts."""
        source = self.folder / f"{self.base}.pt"
        source = source if source.is_file() else self.folder / "model.pt"
        state = read_state(source) if source.is_file() else {}
        state = {name: tensor for name, tensor in state.items() if name.split(".")[0] in parts}
        sections = {f"{part}_def" for part in parts}
        definitions = _read_json(_definitions_of(source))
        return state, {key: value for key, value in definitions.items() if key.split("#")[0] in sections}

    def _copy_beside(self, target: Path, parts: set[str]) -> None:
        for source in [self.folder / name for part, name in self.beside.items() if part in parts]:
            if target == self.folder or not source.exists():  # what lacks is named where it is used
                continue
            with atomic_path(target / source.name) as part:
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, part)


class PartCheckpointLoader:
    """Load a network when an engine starts; MONAI's federated client switches it off by "CheckpointLoader" in its name.

    Args:
        path: what `ModelPartSaver` wrote, such as `model.pt`; parts that the network lacks are left aside.
        network: gets the weights.
        part: what it is called in the file, for a network that has no parts of its own.
        make_weights: the command that makes the file, for the sentence that says it is missing.
        parts: which of the network's parts get weights; default all.
        optional: without the file the network stays as it is, with a line in the log.
        settings: that must be those of the file, as its `ModelPartSaver` kept them.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module | ChosenWeights,
        part: str | None = None,
        make_weights: str | None = None,
        parts: Sequence[str] | None = None,
        optional: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.network, self.part, self.make_weights = path, network, part, make_weights
        self.parts, self.optional, self.settings = parts, optional, dict(settings or {})

    def attach(self, engine: Engine) -> None:
        """Load when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Load the weights, all or none.

        Raises:
            MissingWeights: if the file or the part is missing.
            ValueError: if a part has other names or shapes than the network.
        """
        network = getattr(self.network, "module", self.network)
        if self.part is not None:
            load_part(network, self.path, self.part, make_weights=self.make_weights)
            return
        if self.optional and not Path(self.path).is_file():
            logger.warning(f"{self.path} does not exist, so {', '.join(self.parts or network.parts())} begin untrained")
            return
        then = _read_json(_definitions_of(Path(self.path))) if self.settings else {}
        for key, value in self.settings.items():
            if then.get(key) != value:
                raise BadInput(self.path, f"was trained with {key} {then.get(key)}, expected {value}; make it anew")
        here, state = network.parts(), read_state(self.path, self.make_weights)
        if self.parts is not None:
            for name in self.parts:
                load_part(here[name], self.path, name, state)
            return
        load_exactly(network, {name: t for name, t in state.items() if name.split(".")[0] in here}, f"{self.path}")


def _definitions_of(path: Path) -> Path:
    return path.with_name("network.json" if path.stem in _MODELS else f"{path.stem}.json")


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
