"""Where the encoders of a model looked in the cases that it gets most wrong, for the page of a comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from common.data.cxr.study_files import saved_tokenizer
from common.data.note_tokenizer import NoteTokenizer
from common.evaluation.comparison_tables import Comparison
from common.evaluation.error_cases import ErrorCase
from common.inferers.note_attention import note_attention
from common.networks.definitions import read_definitions
from common.networks.study_encoders import saved_network
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder
from common.transforms.xray_io import fit_square, xray_tensor
from common.visualize.attention import case_figure, grey_picture, token_attention_html
from common.visualize.html_report import Picture, Section

__all__ = ["StudyEncoders", "attention_section", "saved_encoders"]

_SHOWN = 6  # cases; each is run through the encoders once more


class StudyEncoders(NamedTuple):
    """The encoders of a model, in eval mode; what the model does not use is None."""

    vision: VisionEncoder | None = None
    text: TextEncoder | None = None
    tokenizer: NoteTokenizer | None = None


def saved_encoders(ckpt_dir: str | os.PathLike[str]) -> StudyEncoders:
    """The encoders of a model that a run saved.

    Args:
        ckpt_dir: its folder, `models` or `models/baselines/NAME`.

    Raises:
        MissingWeights: if it is not there.
    """
    folder = Path(ckpt_dir)
    network = saved_network(str(folder)).eval()
    if network.text is None:
        return StudyEncoders(network.vision)
    content = read_definitions(folder / "network.json")
    asked = {key: content[key] for key in ("max_tokens", "background_passages") if key in content}
    tokenizer = saved_tokenizer(str(folder), **asked, labels=content["labels"])
    return StudyEncoders(network.vision, network.text, tokenizer)


def attention_section(
    found: Comparison,
    errors: Sequence[ErrorCase],
    cases: Sequence[Mapping[str, Any]],
    encoders: StudyEncoders | None,
    drawn: Callable[[str, Figure, str], Picture],
) -> Section:
    """A picture for each of the few worst cases, and below it the tokens of its note.

    Args:
        found: results of the comparison.
        errors: cases on the wrong side of a threshold.
        cases: image and note of the cases, as `compare_models` takes them.
        encoders: of the reference; None if they are not there.
        drawn: saves a figure under a name, with a caption.
    """
    title, model = "Where the encoders looked", found.reference.replace("_", " ")
    text = (
        f"The cases that are furthest on the wrong side of a threshold of {model}. Weights show where an encoder read "
        "from, not why the model decided. Below a picture stands the note; the stronger the colour of a token, the "
        "larger the weight that the first token of the note encoder gives it, through all layers."
    )
    if encoders is None or (encoders.vision is None and encoders.text is None):
        why = "no weights of its encoders were given" if encoders is None else "it has neither image nor note encoder"
        return Section(title, notes=[f"Nothing is shown for {model}: {why}."])
    known = {str(row["case"]): row for row in cases}
    thresholds = found.thresholds and found.thresholds[found.reference]
    pictures = []
    for error in _worst(errors):
        row = known.get(error.case, {})
        said = dict(zip(found.names, found.probabilities[found.reference][error.index].tolist(), strict=True))
        image = looked = None
        name = "attention"
        if encoders.vision is not None and row.get("image") is not None:
            tensor, name = _tensor(row["image"], encoders.vision), encoders.vision.saliency_name
            device = next(encoders.vision.parameters()).device
            image = grey_picture(tensor[0].numpy())
            looked = encoders.vision.saliency(tensor[None].to(device))[0].float().cpu().numpy()
        figure = case_figure(image, said, looked, thresholds, f"Case {error.case}", attention_name=name)
        caption = (
            f"Case {error.case}: {error.label}, {error.kind}, probability {error.probability:.3f}, threshold "
            f"{error.threshold:.3f}."
        )
        if looked is not None:
            caption += f" Over the X-ray: {name} of the image encoder."
        below, note = "", str(row.get("note") or "").strip()
        if encoders.text is not None and encoders.tokenizer is not None and note:
            below = token_attention_html(*note_attention(encoders.text, encoders.tokenizer, row["note"]))
        picture = drawn(f"looked_{len(pictures) + 1}", figure, caption)
        pictures.append(Picture(picture.png, picture.caption, below))
    if not pictures:
        return Section(title, notes=["No case is on the wrong side of a threshold."])
    return Section(title, text=text, pictures=pictures)


def _worst(errors: Sequence[ErrorCase]) -> list[ErrorCase]:
    """The error of each case that is furthest beyond its threshold, as a share of how far it could be."""

    def beyond(error: ErrorCase) -> float:
        room = 1 - error.threshold if error.kind == "false positive" else error.threshold
        return abs(error.probability - error.threshold) / max(room, 1e-6)

    first: dict[str, ErrorCase] = {}
    for error in sorted(errors, key=beyond, reverse=True):
        first.setdefault(error.case, error)
    return list(first.values())[:_SHOWN]


def _tensor(image: np.ndarray | str, vision: VisionEncoder) -> torch.Tensor:
    """(3, H, W) as the encoder takes it, of a file or of pixels."""
    if not isinstance(image, np.ndarray):
        return xray_tensor(image, vision.image_size, vision.mean, vision.std)
    grey = torch.from_numpy(fit_square(grey_picture(image), vision.image_size)).float() / 255
    return torch.stack([(grey - m) / s for m, s in zip(vision.mean, vision.std, strict=True)])
