"""The parts of the slice-interpolation system as one module with one plain state dict."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.networks.maisi_vae import freeze, load_vae_weights

logger = logging.getLogger("train")

PARTS_OF_MODE = {
    "nearest": (),
    "linear": (),
    "cubic": (),
    "refiner": ("refiner",),
    "diffusion": ("vae", "unet", "refiner"),
}
MAKE_WEIGHTS = (
    "python -m common run bundles/ct_slice_interpolation --scale {scale} --output_dir DIR, then --ckpt_dir DIR/models"
)


class MissingWeights(FileNotFoundError):
    """Weights that a mode needs are not in the checkpoint; the message names the command that makes them."""


class SliceInterpolator(nn.Module):
    """VAE, diffusion U-Net and refiner; any of them may be absent.

    `load_state_dict` takes a whole ``model.pt``, as MONAI's programs give it: parts that are absent here are left out,
    those that are present must fit exactly.

    Args:
        vae: frozen autoencoder (MaisiVAE) or None.
        unet: denoising U-Net (SliceUNet) or None.
        refiner: pixel-space refiner (SliceRefiner) or None.
        scale_factor: brings the latents to unit variance (1 / std of the training latents); kept in the state dict.
        ratio: thin slices per thick one in `forward`.
    """

    def __init__(
        self,
        vae: nn.Module | None = None,
        unet: nn.Module | None = None,
        refiner: nn.Module | None = None,
        scale_factor: float = 1.0,
        ratio: int = 5,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.vae, self.unet, self.refiner = vae, unet, refiner
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))
        self.register_load_state_dict_pre_hook(_only_present_parts)

    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are present."""
        return tuple(name for name, _ in self.named_children())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Apply the refiner once at the fixed `ratio`: for TorchScript and programs that know tensors only.

        Spacing, other modes, flips and large volumes are the business of
        `common.inferers.slice_interpolation.SliceInterpolationInferer`.

        Args:
            image: (B, 1, D, H, W), HU.

        Returns:
            (B, 1, D * ratio, H, W), HU; the mean of each slab is the slice of the image.

        Raises:
            MissingWeights: without a refiner.
        """
        if self.refiner is None:
            raise MissingWeights("the network has no refiner, expected one (mode refiner)")
        return self.refiner.thin(image[:, 0], self.ratio)[:, None]

    def load(self, path: str | os.PathLike[str]) -> "SliceInterpolator":
        """Load every present part from a plain state dict (``model.pt``), all of its tensors or none.

        Raises:
            MissingWeights: if the file or a part is missing.
            ValueError: if a part has other names or shapes than this network.
        """
        state = read_state(path) if self.parts() else {}
        for part in self.parts():
            load_part(getattr(self, part), path, part, state)
        if "scale_factor" in state:
            self.scale_factor.copy_(state["scale_factor"])
        return self.eval()


def _only_present_parts(network: SliceInterpolator, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Prepare a state dict that is about to be loaded."""
    for part in ("vae", "unet", "refiner"):
        if getattr(network, part) is None:
            for name in [name for name in state if name.startswith(f"{prefix}{part}.")]:
                del state[name]
    state.setdefault(f"{prefix}scale_factor", network.scale_factor)  # a refiner alone was trained without one


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a plain state dict without unpickling code.

    Raises:
        MissingWeights: if there is no such file.
    """
    if not Path(path).is_file():
        raise MissingWeights(f"{path} does not exist; make it with {MAKE_WEIGHTS.format(scale='real_cpu')}")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_part(
    module: nn.Module, path: str | os.PathLike[str], part: str, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Load one part of a plain state dict (``model.pt``), all of its tensors or none.

    Args:
        module: gets the weights.
        path: of the file.
        part: "vae", "unet" or "refiner".
        state: content of the file, if it has been read already.

    Raises:
        MissingWeights: if the file or the part is missing.
        ValueError: if the part has other names or shapes than the module.
    """
    state = read_state(path) if state is None else state
    tensors = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    if not tensors:
        scale = "real_cpu" if part == "refiner" else "demo"
        raise MissingWeights(f"{path} holds no {part} weights; make them with {MAKE_WEIGHTS.format(scale=scale)}")
    load_exactly(module, tensors, f"{path}: {part}")


def load_exactly(module: nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """`load_state_dict` that changes nothing unless every name and shape agrees, and says what does not."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if missing or unexpected or shapes:
        listed = ", ".join((missing + unexpected + shapes)[:3])
        raise ValueError(
            f"{what} does not fit: {len(missing)} tensors missing, {len(unexpected)} unexpected, {len(shapes)} of "
            f"another shape ({listed}), expected exactly {len(own)}; is the network.json beside it its own?"
        )
    module.load_state_dict(state)


def save_parts(path: str | os.PathLike[str], parts: dict[str, nn.Module | torch.Tensor]) -> None:
    """Put parts into a plain state dict file, keeping the other parts that it holds; written beside it, then renamed.

    Args:
        path: ``model.pt``.
        parts: name (``vae``, ``unet``, ``refiner``) to module, or name to a single tensor (``scale_factor``).
    """
    path = Path(path)
    state = read_state(path) if path.is_file() else {}
    for part, content in parts.items():
        state = {name: t for name, t in state.items() if name != part and not name.startswith(f"{part}.")}
        new = {part: content} if isinstance(content, torch.Tensor) else content.state_dict(prefix=f"{part}.")
        state |= {name: t.detach().cpu() for name, t in new.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(state, partial)
    os.replace(partial, path)


def frozen_vae(
    vae: nn.Module,
    checkpoint: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The VAE with weights and without gradients: from a MAISI checkpoint, or as the vae stage left it.

    Args:
        vae: MaisiVAE to fill.
        checkpoint: ``model.pt``, read when ``weights`` is None.
        weights: MAISI's own checkpoint.
        device: where it goes.

    Raises:
        MissingWeights: if neither holds a VAE.
        ValueError: if a checkpoint does not fit completely.
    """
    if weights is not None:
        logger.info("%s", load_vae_weights(vae, weights))
    else:
        SliceInterpolator(vae=vae).load(checkpoint)
    return freeze(vae).to(device)


def parts_for(mode: str, refine_samples: bool = True) -> Sequence[str]:
    """Parts that a mode needs; with ``refine_samples`` off, `diffusion` does without the refiner.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in PARTS_OF_MODE:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(PARTS_OF_MODE)}")
    parts = PARTS_OF_MODE[mode]
    return tuple(p for p in parts if p != "refiner") if mode == "diffusion" and not refine_samples else parts
