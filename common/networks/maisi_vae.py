"""The MAISI variational autoencoder: sizes of the paper, checkpoint loading, the scale of its latents.

The network is MONAI's `AutoencoderKlMaisi` (Guo et al., "MAISI: Medical AI for Synthetic Imaging", WACV 2025,
https://arxiv.org/abs/2409.11169). Images are CT scaled from [-1000, 1000] HU to [0, 1], shape (B, 1, D, H, W); latents
have 4 channels at a quarter of the resolution, (B, 4, D/4, H/4, W/4).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from common.networks.weights import read_checkpoint

__all__ = ["MaisiVAE", "convert_monai_generative_names", "load_vae_weights"]

logger = logging.getLogger(__name__)


class MaisiVAE(AutoencoderKlMaisi):
    """`AutoencoderKlMaisi` with the sizes of the MAISI release as defaults: 20,944,897 parameters in 130 tensors.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the reconstruction.
        latent_channels: channels of the latent.
        num_channels: channels per resolution level; every level after the first halves D, H and W.
        num_res_blocks: residual blocks per level.
        attention_levels: which levels carry an attention block (none in the release).
        norm_num_groups: groups of every group norm; must divide every entry of `num_channels`.
        norm_eps: epsilon inside the square root of every group norm.
        **kwargs: the other arguments of `AutoencoderKlMaisi`. Convolutions are not split (`num_splits` 1) and the CUDA
            cache is not emptied after each layer (`save_mem` False): `ChunkedVAE` bounds memory exactly instead.

    Raises:
        ValueError: if the sizes contradict each other (raised by MONAI).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        latent_channels: int = 4,
        num_channels: Sequence[int] = (64, 128, 256),
        num_res_blocks: Sequence[int] = (2, 2, 2),
        attention_levels: Sequence[bool] | None = None,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
        **kwargs: bool | int,
    ) -> None:
        sizes = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "latent_channels": latent_channels,
            "num_channels": list(num_channels),
            "num_res_blocks": list(num_res_blocks),
            "attention_levels": [False] * len(num_channels) if attention_levels is None else list(attention_levels),
            "norm_num_groups": norm_num_groups,
            "norm_eps": norm_eps,
        }
        super().__init__(**{"spatial_dims": 3, "num_splits": 1, "dim_split": 1, "save_mem": False} | kwargs | sizes)
        self._sizes = sizes

    def definition(self) -> dict[str, Any]:
        """Arguments that build a network of the same sizes; not how it spares memory."""
        return dict(self._sizes)


# What the names of a KL autoencoder start with; anything before is a wrapper's prefix ("module.", "autoencoder.").
_OWN_NAME = re.compile(
    r"(?P<prefix>(?:.*?\.)??)"
    r"(?P<name>(?:(?:encoder|decoder)\.blocks|quant_conv_mu|quant_conv_log_sigma|post_quant_conv)\..+)"
)
# One convolution of monai-generative inside the blocks: MONAI's `Convolution` keeps its nn.Conv3d as ".conv".
_GENERATIVE_CONV = re.compile(r"((?:encoder|decoder)\.blocks\.\d+(?:\.\w+)?)\.conv\.(weight|bias)")
_FIRST_CONV_OF_GENERATIVE = "encoder.blocks.0.conv.weight"
_ATTENTION_NAMES = {"to_q": "attn.to_q", "to_k": "attn.to_k", "to_v": "attn.to_v", "proj_attn": "attn.out_proj"}


def convert_monai_generative_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of monai-generative's (or MONAI core's) `AutoencoderKL` to `AutoencoderKlMaisi`'s names.

    MAISI wraps every convolution inside encoder and decoder once more, so one ".conv" is added; the three 1x1x1
    convolutions around the latent keep their names; MONAI core's upsampling "postconv" is MAISI's "conv"; attention
    projections moved under ".attn". A dict that has MAISI's names already is returned as a copy.

    Args:
        state: names to tensors, without wrapper prefixes. Not changed.

    Returns:
        A new dict holding the same tensors.
    """
    if _FIRST_CONV_OF_GENERATIVE not in state:
        return dict(state)
    converted = {}
    for name, tensor in state.items():
        name = name.replace(".postconv.", ".conv.")
        name = _GENERATIVE_CONV.sub(r"\1.conv.conv.\2", name)
        parts = name.split(".")
        if len(parts) == 5 and parts[3] in _ATTENTION_NAMES:  # encoder.blocks.N.to_q.weight
            parts[3] = _ATTENTION_NAMES[parts[3]]
        converted[".".join(parts)] = tensor
    return converted


def load_vae_weights(vae: nn.Module, path: str | Path, key: str | None = None) -> str:
    """Load a MAISI or monai-generative checkpoint completely, or refuse and leave the network as it was.

    The state dict may be plain or nested ("unet_state_dict" in MAISI releases, "state_dict", "autoencoder_state_dict",
    "model" ...), and its names may carry prefixes ("module.", "autoencoder."). Files are read without running code
    (`weights_only=True`, or safetensors).

    A checkpoint with monai-generative names was trained with nearest-neighbour upsampling (or, in early MAISI
    experiments, with transposed convolutions of the same shapes), `AutoencoderKlMaisi` upsamples trilinearly: all
    tensors load, but the decoder computes something slightly different, so a warning is logged.

    Args:
        vae: the network to fill, e.g. `MaisiVAE()`.
        path: a `.pt`, `.pth`, `.ckpt` or `.safetensors` file.
        key: which of several state dicts in the file to use, as the error message names them.

    Returns:
        What was loaded, as a sentence without a full stop: how many tensors, from which state dict of the file, under
        whose names, and how many tensors beside them belong to other networks (a discriminator) and were left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as weights, or does not fill the network exactly.
    """
    path = Path(path)
    candidates = dict(_candidates(read_checkpoint(path)))
    if key is not None:
        candidates = {label: found for label, found in candidates.items() if label == key}
    if not candidates:
        wanted = f" under {key!r}" if key is not None else ""
        raise ValueError(
            f"{path} holds no state dict of a KL autoencoder{wanted} (no name like 'encoder.blocks.0...')."
        )

    own = vae.state_dict()
    converted = {label: convert_monai_generative_names(state) for label, (state, _) in candidates.items()}
    problems = {label: _problems(own, state) for label, state in converted.items()}
    complete = [label for label, problem in problems.items() if not problem]
    if not complete:
        closest = max(converted, key=lambda label: len(own.keys() & converted[label].keys()))
        raise ValueError(f"{path} does not fit the VAE, nothing was loaded: {problems[closest]}.")
    if len(complete) > 1:
        raise ValueError(f"{path} holds {len(complete)} state dicts that fit the VAE; choose one by key=: {complete}.")

    label = complete[0]
    state, others = candidates[label]
    # Copying into meta tensors does nothing; such a network takes the tensors themselves.
    vae.load_state_dict(converted[label], assign=any(t.is_meta for t in own.values()))
    generative = _FIRST_CONV_OF_GENERATIVE in state
    if generative:
        logger.warning(
            "%s has monai-generative names: its decoder was not trained with MAISI's trilinear upsampling, so check "
            "reconstructions before relying on them.",
            path,
        )
    where = f" from {label!r}" if label else ""
    left_out = f", {others} tensors of other networks left out" if others else ""
    names = "monai-generative" if generative else "maisi"
    return f"{len(own)}/{len(own)} VAE tensors loaded{where} ({names} names{left_out})"


def _candidates(content: Mapping, where: str = "") -> Iterator[tuple[str, tuple[dict[str, Tensor], int]]]:
    """Every state dict of a KL autoencoder in a checkpoint, one per nesting and per prefix.

    Each with its place in the file and the number of tensors beside it that belong to other networks.
    """
    by_prefix: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _candidates(value, f"{where}/{name}" if where else str(name))
        elif isinstance(value, Tensor):
            match = _OWN_NAME.fullmatch(str(name))
            if match:
                by_prefix.setdefault(match["prefix"], {})[match["name"]] = value
            else:
                others[str(name)] = value
    total = len(others) + sum(map(len, by_prefix.values()))
    for prefix, state in by_prefix.items():
        # Without a prefix nothing tells a foreign tensor from a wrong one, so it counts as unexpected.
        yield ":".join(filter(None, (where, prefix))), (state, total - len(state)) if prefix else (state | others, 0)


def _problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Everything that keeps `state` from filling `own`, as one clause; empty if it fits."""

    def listed(what: str, names: list[str]) -> list[str]:
        return [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"] if names else []

    shared = [name for name in own if name in state]
    differing = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in shared
        if state[name].shape != own[name].shape
    ]
    infinite = [name for name in shared if not torch.isfinite(state[name]).all()]
    return "; ".join(
        listed("tensors missing", [name for name in own if name not in state])
        + listed("unexpected", [name for name in state if name not in own])
        + listed("of another shape", differing)
        + listed("with NaN or infinite values", infinite)
    )
