"""The denoising U-Net of the slice interpolation: conditioned on the thick latent and on the ratio of spacings.

The network is MONAI's `DiffusionModelUNetMaisi` (Guo et al., "MAISI", WACV 2025, https://arxiv.org/abs/2409.11169). Its
input is the noisy latent and the latent of the thick slices, linearly upsampled to the thin grid, side by side:
(B, 4 + 4, d, h, w); its output has the 4 channels of the latent. At paper size it has 266,647,172 parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["SliceUNet"]


class SliceUNet(DiffusionModelUNetMaisi):
    """`DiffusionModelUNetMaisi` for any latent size, with gradient checkpointing; parameter names are MONAI's.

    Args:
        in_channels: channels of the noisy latent and of the thick latent together.
        out_channels: channels of the latent.
        num_channels: channels per resolution level; every level after the first halves d, h and w.
        num_res_blocks: residual blocks per level.
        attention_levels: which levels carry self-attention.
        num_head_channels: channels per attention head and level; ignored where a level has no attention, except that
            the last also serves the middle block.
        norm_num_groups: groups of every group norm; must divide every entry of `num_channels`.
        gradient_checkpointing: in training, keep only the input of each down, middle and up block and compute the rest
            again in the backward pass; outputs and gradients are the same.
        use_flash_attention: attention without the matrix of all pairs, on a GPU only.

    Raises:
        ValueError: if the sizes contradict each other, or flash attention is asked for without a GPU (raised by MONAI).
    """

    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        num_channels: Sequence[int] = (128, 256, 512, 512),
        num_res_blocks: Sequence[int] = (1, 1, 2, 2),
        attention_levels: Sequence[bool] = (False, False, False, True),
        num_head_channels: Sequence[int] = (0, 64, 128, 128),
        norm_num_groups: int = 32,
        gradient_checkpointing: bool = False,
        use_flash_attention: bool = False,
    ) -> None:
        sizes = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "num_channels": list(num_channels),
            "num_res_blocks": list(num_res_blocks),
            "attention_levels": list(attention_levels),
            "num_head_channels": list(num_head_channels),
            "norm_num_groups": norm_num_groups,
        }
        super().__init__(
            spatial_dims=3,
            include_fc=True,
            use_flash_attention=use_flash_attention,
            include_spacing_input=True,
            **sizes,
        )
        self._sizes = sizes
        self.gradient_checkpointing = gradient_checkpointing
        self.multiple = 2 ** (len(num_channels) - 1)

    def definition(self) -> dict[str, Any]:
        """Arguments that build a network of the same sizes; not how it spares memory."""
        return dict(self._sizes)

    def forward(self, x: Tensor, timesteps: Tensor, spacing_tensor: Tensor) -> Tensor:
        """Predict velocity or noise, whichever the network is trained for.

        Args:
            x: (B, in_channels, d, h, w), noisy latent and thick latent; sizes that are no multiple of `multiple` are
                padded by repeating the last slice, row or column, and the result is cropped.
            timesteps: (B,) diffusion time, 0 to 1000, integer or float.
            spacing_tensor: (B, 3), see `common.transforms.slabs.ratio_condition`.

        Returns:
            (B, out_channels, d, h, w).

        Raises:
            ValueError: if the shapes do not belong together.
        """
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"the U-Net's input has shape {tuple(x.shape)}, expected (B, {self.in_channels}, d, h, w)")
        if timesteps.shape != x.shape[:1] or spacing_tensor.shape != (len(x), 3):
            raise ValueError(
                f"timesteps have shape {tuple(timesteps.shape)} and spacing_tensor {tuple(spacing_tensor.shape)}, "
                f"expected ({len(x)},) and ({len(x)}, 3) for a batch of {len(x)}"
            )
        depth, height, width = x.shape[2:]
        missing = [-size % self.multiple for size in x.shape[2:]]
        if any(missing):
            x = F.pad(x, [n for size in reversed(missing) for n in (0, size)], mode="replicate")

        emb = self._get_time_and_class_embedding(x, timesteps, None)
        emb = self._get_input_embeddings(emb, None, None, spacing_tensor.to(x.dtype))
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            h, states = self._run(block, h, emb)
            skips.extend(states)
        h = self._run(self.middle_block, h, emb)
        for block in self.up_blocks:
            count = len(block.resnets)
            h = self._run(block, h, skips[-count:], emb)
            del skips[-count:]
        return self.out(h)[:, :, :depth, :height, :width]

    def _run(self, block: Callable, *args: Tensor | list[Tensor]) -> Tensor | tuple[Tensor, list[Tensor]]:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)
