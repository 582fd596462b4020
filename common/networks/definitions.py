"""`network.json` beside weights: what network they belong to. As the weights it is data, whoever made it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.data.modalities import MODALITIES
from common.io.bad_input import BadInput, read_text

__all__ = ["read_definitions"]

_TARGET = re.compile(r"(scripts\.)?common\.networks\.\w+\.[A-Z]\w*")
_SAMPLER = re.compile(r"(scripts\.)?common\.inferers\.diffusion_samplers\.(DDIM|RFlow)Sampler")
_LARGEST = 2**31


def read_definitions(path: Path) -> dict[str, Any]:
    """The sizes that a file beside weights holds: id of the configuration -> value.

    Accepted are the arguments of the networks (`NAME_def`, `NAME_def#argument`) and the settings of a training that
    belong to its weights, as numbers, booleans, words of a list, and lists of these. Nothing else can become part of a
    configuration by lying beside weights: no expression, no other id, no name of a file or of a model to fetch.

    Raises:
        BadInput: for anything else.
    """
    try:
        content = json.loads(read_text(path, "the sizes of a network"))
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"is not JSON ({error}), expected the sizes of a network") from error
    if not isinstance(content, dict):
        raise BadInput(path, f"holds a {type(content).__name__}, expected ids and the sizes of a network")
    for key, value in content.items():
        plain = key.replace("::", "#")
        name, *inner = plain.split("#")
        if re.fullmatch(r"\w+_def", name) and len(inner) < 2:
            wrong = _wrong_argument(inner[0], value) if inner else _wrong_section(value)
        else:
            wrong = None if plain in _SETTINGS and _SETTINGS[plain](value) else ""
        if wrong is not None:
            place = f"{key}#{wrong}" if wrong else key
            raise BadInput(path, f"sets {place}, expected sizes alone: numbers, booleans, known words, lists of them")
    return content


def _wrong_section(section: Any) -> str | None:
    """The argument of a network that is no size, None if all are; "" if it is no section."""
    if not isinstance(section, Mapping):
        return ""
    return next((key for key, value in section.items() if _wrong_argument(key, value) is not None), None)


def _wrong_argument(name: str, value: Any) -> str | None:
    if name == "_target_":
        fine = isinstance(value, str) and _TARGET.fullmatch(value) is not None
    elif name == "_disabled_":
        fine = value in (f"$'{modality}' not in @modalities" for modality in MODALITIES)
    elif name == "config":  # of transformers, which looks its words up in lists of its own
        fine = isinstance(value, Mapping) and _is_size(value, _is_word)
    elif name == "pooling":
        fine = value in (None, "cls", "mean")
    elif name == "modalities":
        fine = _are_modalities(value)
    else:
        fine = re.fullmatch(r"[A-Za-z]\w*", name) is not None and name != "allow_download" and _is_size(value)
    return None if fine else ""


def _is_size(value: Any, of_text: Callable[[str], bool] = lambda text: False) -> bool:
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, Mapping):
        names = all(re.fullmatch(r"[A-Za-z]\w*", key) and key not in _NO_SIZES for key in value)
        return names and all(_is_size(item, of_text) for item in value.values())
    if isinstance(value, list):
        return all(_is_size(item, of_text) for item in value)
    return value is None or (math.isfinite(value) and abs(value) < _LARGEST)


_NO_SIZES = ("auto_map", "attn_implementation", "quantization_config", "name_or_path", "trust_remote_code")


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z]\w{0,60}", text) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _are_names(value: Any) -> bool:
    """Names of labels or views: texts that MONAI reads as they are."""
    return isinstance(value, list) and all(
        isinstance(text, str) and re.fullmatch(r"[^$@%#\x00-\x1f][^#\x00-\x1f]{0,200}", text) for text in value
    )


def _are_modalities(value: Any) -> bool:
    return isinstance(value, list) and all(name in MODALITIES for name in value)


_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "labels": _are_names,
    "views": lambda value: value is None or _are_names(value),
    "modalities": _are_modalities,
    "target": lambda value: isinstance(value, str) and _is_word(value),
    "context": lambda value: isinstance(value, list) and all(isinstance(v, str) and _is_word(v) for v in value),
    "demo": lambda value: isinstance(value, bool),
    "base_hash": lambda value: value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)),
    "image_size": _is_count,
    "max_tokens": _is_count,
    "vocabulary": _is_count,
    "background_passages": _is_count,
    "sampler#_target_": lambda value: isinstance(value, str) and _SAMPLER.fullmatch(value) is not None,
}
"""What a training keeps beside the arguments of its networks (`train#model_part#settings` of a bundle)."""
