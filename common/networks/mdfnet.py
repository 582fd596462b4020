"""Enhanced MDF-Net: image, note and clinical encoders and their fusion, whole or on cached features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.data.modalities import MODALITIES
from common.networks.modality_fusion import FusionHead, present_columns
from common.networks.weights import load_exactly, read_state, unfreeze

__all__ = ["FeatureMDFNet", "MDFNet", "StudyParts"]

_ENCODERS = ("vision", "text")


class StudyParts(nn.Module):
    """A network of parts called `vision`, `text`, `clinical` and `fusion`, as `ModelPartSaver` takes it."""

    def parts(self) -> dict[str, nn.Module]:
        """The parts that are there, by the names that their weights begin with."""
        return dict(self.named_children())

    def definitions(self, parts: Sequence[str]) -> dict[str, Any]:
        """Sections of a configuration that build these parts, and the modalities if the head is one of them.

        Returns:
            `vision_def`, ..., each with a `_target_`, switched off where `modalities` lacks it; JSON values.
        """
        found: dict[str, Any] = {}
        for name in parts:
            part = getattr(self, name)
            absent = {} if name == "fusion" else {"_disabled_": f"$'{name}' not in @modalities"}
            target = f"{type(part).__module__}.{type(part).__name__}"
            found[f"{name}_def"] = {"_target_": target} | absent | part.definition()
        return found | ({"modalities": list(self.modalities)} if "fusion" in parts else {})


class MDFNet(StudyParts):
    """Chest X-ray, emergency-department note and clinical vector to labels.

    Any of the three may be left out; the fusion head must be built for the same modalities. `load_state_dict` also
    takes what stage 1 left (`FeatureMDFNet`: clinical encoder and fusion): an image or note encoder that is not in it
    keeps the weights it was built with, if it was built with any.

    Args:
        vision: VisionEncoder or None.
        text: TextEncoder or None.
        clinical: ClinicalEncoder or None.
        fusion: head for the modalities that are there.

    Raises:
        ValueError: if the head's modalities or sizes are not those of the encoders.
    """

    def __init__(
        self,
        vision: nn.Module | None = None,
        text: nn.Module | None = None,
        clinical: nn.Module | None = None,
        fusion: FusionHead | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.text, self.clinical = vision, text, clinical
        encoders = {name: getattr(self, name) for name in MODALITIES if getattr(self, name) is not None}
        if fusion is None:
            fusion = FusionHead(tuple(encoders), sizes={name: e.features for name, e in encoders.items()})
        self.fusion = fusion
        if tuple(encoders) != fusion.modalities:
            raise ValueError(
                f"the encoders are {', '.join(encoders) or 'none'}, expected the head's {', '.join(fusion.modalities)}"
            )
        for name, encoder in encoders.items():
            if encoder.features != fusion.sizes[name]:
                raise ValueError(
                    f"the {name} encoder gives {encoder.features} numbers, the head expects {fusion.sizes[name]}"
                )
        self.register_load_state_dict_pre_hook(_keep_own_encoders)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it is built for, in the order of `MODALITIES`."""
        return self.fusion.modalities

    def forward(
        self,
        image: Tensor | None = None,
        note: Mapping[str, Tensor] | None = None,
        clinical: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Classify cases; what the network has no encoder for is not looked at.

        Args:
            image: (B, 3, H, W), normalised with the encoder's `mean` and `std`.
            note: `input_ids` and `attention_mask`, both (B, T).
            clinical: (B, 45), standardised.
            present: (B, 3) bool in the order of `MODALITIES`, which modalities each case has; default those given. Rows
                of absent ones may hold anything.

        Returns:
            (B, labels) logits, fp32.

        Raises:
            ValueError: as `FusionHead.forward`.
        """
        here = present_columns(present)
        features: dict[str, Tensor] = {}
        if self.vision is not None and image is not None:
            features["vision"] = self.vision(_blank(image, here["vision"]))
        if self.text is not None and note is not None:
            readable = _readable(note, here["text"])
            features["text"] = self.text(readable["input_ids"], readable["attention_mask"])
        if self.clinical is not None and clinical is not None:
            features["clinical"] = self.clinical(_blank(clinical, here["clinical"]))
        return self.fusion(features, present)

    def unfreeze_encoders(self) -> MDFNet:
        """Train all layers again."""
        for encoder in self._pretrained():
            unfreeze(encoder)
        return self

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: "encoders" (image, note), "fusion" (with the clinical encoder) and "head".

        The clinical encoder starts untrained as the fusion does, and so learns at its rate.
        """
        return {"encoders": [p for e in self._pretrained() for p in e.parameters()]} | _groups(
            self.clinical, self.fusion
        )

    def load(self, path: str | os.PathLike[str], make_weights: str | None = None) -> MDFNet:
        """Load a plain state dict without running code in it, all parts or none; then in eval mode.

        Args:
            path: `model.pt`.
            make_weights: the command that makes it, for the sentence that says it is missing.

        Raises:
            MissingWeights: if there is no such file.
            ValueError: if a part is missing (but see the class) or has other names or shapes.
        """
        state = read_state(path, make_weights)
        _keep_own_encoders(self, state, "")
        load_exactly(self, state, f"{path}")
        return self.eval()

    def definition(self) -> dict[str, Any]:
        """Arguments of the parts that build the same network without weights, None for absent ones."""
        return dict.fromkeys(MODALITIES) | {name: part.definition() for name, part in self.parts().items()}

    def _pretrained(self) -> list[nn.Module]:
        return [e for e in (self.vision, self.text) if e is not None]


class FeatureMDFNet(StudyParts):
    """What stage 1 trains: clinical encoder and fusion, on features of the frozen encoders computed once.

    Its state dict has the names that `MDFNet` gives the same parts.

    Args:
        clinical: ClinicalEncoder or None.
        fusion: head.

    Raises:
        ValueError: if only one of head and arguments knows of a clinical vector.
    """

    def __init__(self, clinical: nn.Module | None, fusion: FusionHead) -> None:
        super().__init__()
        self.clinical, self.fusion = clinical, fusion
        if (clinical is not None) != ("clinical" in fusion.modalities):
            raise ValueError(
                f"the head is for {', '.join(fusion.modalities)} but the clinical encoder is "
                f"{'absent' if clinical is None else 'there'}"
            )
        if clinical is not None and clinical.features != fusion.sizes["clinical"]:
            raise ValueError(
                f"the clinical encoder gives {clinical.features} numbers, the head expects {fusion.sizes['clinical']}"
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it is built for, in the order of `MODALITIES`."""
        return self.fusion.modalities

    def forward(self, features: Mapping[str, Tensor | None], present: Tensor | None = None) -> Tensor:
        """Classify cases by their features.

        Args:
            features: vision (B, 512), text (B, 768), clinical (B, 45).
            present: (B, 3) bool in the order of `MODALITIES`; default those given.

        Returns:
            (B, labels) logits, fp32.
        """
        vector = features.get("clinical")
        if self.clinical is not None and vector is not None:
            here = present_columns(present)["clinical"]
            features = {**features, "clinical": self.clinical(_blank(vector, here))}
        return self.fusion(features, present)

    @property
    def features_of(self) -> tuple[str, ...]:
        """The frozen encoders whose features it takes."""
        return tuple(name for name in _ENCODERS if name in self.modalities)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """As `MDFNet.groups`, without encoders."""
        return _groups(self.clinical, self.fusion)


def _groups(clinical: nn.Module | None, fusion: FusionHead) -> dict[str, list[nn.Parameter]]:
    head = list(fusion.head.parameters())
    of_head = {id(p) for p in head}
    rest = [p for p in fusion.parameters() if id(p) not in of_head]
    return {"fusion": ([] if clinical is None else list(clinical.parameters())) + rest, "head": head}


def _keep_own_encoders(network: MDFNet, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Add the weights of encoders that a state dict lacks and the network was built with, before it is loaded."""
    for name in _ENCODERS:
        encoder, start = getattr(network, name), f"{prefix}{name}."
        if encoder is not None and encoder.has_weights and not any(key.startswith(start) for key in state):
            state.update(encoder.state_dict(prefix=start))


def _blank(value: Tensor, here: Tensor | None) -> Tensor:
    """Zeros in the rows of cases that do not have it, so that nothing in them (NaN) reaches a gradient."""
    if here is None:
        return value
    return torch.where(here.to(value.device).view(-1, *[1] * (value.ndim - 1)), value, 0)


def _readable(note: Mapping[str, Tensor], here: Tensor | None) -> dict[str, Tensor]:
    """Notes of which every one has a token to attend to: attention over none is NaN."""
    ids, mask = note["input_ids"], note["attention_mask"]
    empty = ~mask.bool().any(1, keepdim=True)
    if here is not None:
        empty = empty | ~here.to(ids.device)[:, None]
    first = torch.zeros_like(mask)
    first[:, 0] = 1
    return {"input_ids": ids, "attention_mask": torch.where(empty, first, mask)}
