"""The encoders of MDF-Net with weights: from where they were published, or as an earlier stage left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.io.bad_input import BadInput
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.definitions import read_definitions
from common.networks.mdfnet import MDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.networks.weights import freeze, load_part, missing_weights, read_checkpoint

__all__ = ["build_network", "frozen_encoders", "saved_network"]

_OPTION = {"vision": "--vision_weights", "text": "--text_weights"}


def frozen_encoders(network: MDFNet, checkpoint: str | Sequence[str], make_weights: str | None = None) -> MDFNet:
    """Encoders without gradients; one that was built without weights gets those of a checkpoint.

    Args:
        network: with `vision`, `text` or both.
        checkpoint: `model.pt`; of several files the first that exists.
        make_weights: the command that makes it, for the sentence that says it is missing.

    Raises:
        MissingWeights: if an encoder has no weights anywhere.
    """
    files = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    checkpoint = next((file for file in files if Path(file).is_file()), files[-1])
    for part, option in _OPTION.items():
        encoder = getattr(network, part)
        if encoder is None:
            continue
        if not encoder.has_weights:
            here = Path(checkpoint).is_file()
            state = read_checkpoint(Path(checkpoint)) if here else {}
            if not any(name.startswith(f"{part}.") for name in state):
                lacks = "holds none" if here else "does not exist"
                what = f"the {part} encoder has no weights: {option} names none and {checkpoint} {lacks}"
                raise missing_weights(what, make_weights)
            load_part(encoder, checkpoint, part, state)
        freeze(encoder)
    return network


def saved_network(
    ckpt_dir: str,
    fusion: Mapping[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    image_size: int | None = None,
    modalities: Sequence[str] | None = None,
    make_weights: str | None = None,
) -> MDFNet:
    """The network that a stage saved, with all its weights, and all of them trainable.

    Args:
        ckpt_dir: folder with `model.pt` and the `network.json` that says what it is.
        fusion: settings of the fusion head that replace the saved ones: dropout rates.
        gradient_checkpointing: recompute the encoders' activations in the backward pass.
        image_size: pixels that it is trained at from now on, positions are interpolated; default the saved size.
        modalities: which the training is for, for a check; default those of the network.
        make_weights: the command that makes the files, for the sentence that says they are missing.

    Raises:
        MissingWeights: if one of them is missing.
        BadInput: if the network takes other modalities.
    """
    folder = Path(ckpt_dir)
    for name in ("network.json", "model.pt"):
        if not (folder / name).is_file():
            raise missing_weights(f"{folder / name} does not exist", make_weights)
    network = build_network(folder / "network.json", fusion, gradient_checkpointing, image_size)
    if modalities is not None and set(modalities) != set(network.modalities):
        raise BadInput(
            folder / "network.json",
            f"takes {', '.join(network.modalities)} (asked for {', '.join(modalities)}), expected the same; a subset "
            "has a stage of its own, such as --stages vision_stage2",
        )
    return network.load(folder / "model.pt", make_weights).unfreeze_encoders()


def build_network(
    definitions: str | Path,
    fusion: Mapping[str, Any] | None = None,
    gradient_checkpointing: bool = False,
    image_size: int | None = None,
) -> MDFNet:
    """The network without weights that a `network.json` describes; further arguments as of `saved_network`."""
    content = read_definitions(Path(definitions))
    changes = {"gradient_checkpointing": gradient_checkpointing}
    parts = {}
    for name, kind in (("vision", VisionEncoder), ("text", TextEncoder), ("clinical", ClinicalEncoder)):
        definition = content.get(f"{name}_def")
        if definition is not None and name in content["modalities"]:
            definition = definition | (changes if name in _OPTION else {})
            if name == "vision" and image_size is not None:
                definition["image_size"] = image_size
            parts[name] = kind(**{key: value for key, value in definition.items() if not key.startswith("_")})
    head = {key: value for key, value in content["fusion_def"].items() if not key.startswith("_")}
    return MDFNet(**parts, fusion=FusionHead(**head | dict(fusion or {})))
