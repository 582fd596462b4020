"""The parts of the slice-interpolation system as one module with one plain state dict."""

import logging
import os
from collections.abc import Sequence

import torch
from torch import nn

from common.networks.maisi_vae import load_vae_weights
from common.networks.weights import MissingWeights, freeze, load_part, read_state

logger = logging.getLogger("train")

PARTS_OF_MODE = {
    "nearest": (),
    "linear": (),
    "cubic": (),
    "refiner": ("refiner",),
    "diffusion": ("vae", "unet", "refiner"),
}


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

    def load(self, path: str | os.PathLike[str], make_weights: str | None = None) -> "SliceInterpolator":
        """Load every present part from a plain state dict (``model.pt``), all of its tensors or none.

        Args:
            path: of the file.
            make_weights: the command that makes it, for the sentence that says it is missing.

        Raises:
            MissingWeights: if the file or a part is missing.
            ValueError: if a part has other names or shapes than this network.
        """
        state = read_state(path, make_weights) if self.parts() else {}
        for part in self.parts():
            load_part(getattr(self, part), path, part, state, make_weights)
        if "scale_factor" in state:
            self.scale_factor.copy_(state["scale_factor"])
        return self.eval()


def _only_present_parts(network: SliceInterpolator, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Take parts that the network does not have out of a state dict, before it is loaded."""
    for part in ("vae", "unet", "refiner"):
        if getattr(network, part) is None:
            for name in [name for name in state if name.startswith(f"{prefix}{part}.")]:
                del state[name]
    state.setdefault(f"{prefix}scale_factor", network.scale_factor)  # a refiner alone was trained without one


def frozen_vae(
    vae: nn.Module,
    checkpoint: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    device: str | torch.device = "cpu",
    make_weights: str | None = None,
) -> nn.Module:
    """The VAE with weights and without gradients: from a MAISI checkpoint, or as the vae stage left it.

    Args:
        vae: MaisiVAE to fill.
        checkpoint: ``model.pt``, read when ``weights`` is None.
        weights: MAISI's own checkpoint.
        device: where it goes.
        make_weights: the command that makes the checkpoint, for the sentence that says it is missing.

    Raises:
        MissingWeights: if neither holds a VAE.
        ValueError: if a checkpoint does not fit completely.
    """
    if weights is not None:
        logger.info("%s", load_vae_weights(vae, weights))
    else:
        SliceInterpolator(vae=vae).load(checkpoint, make_weights)
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
