"""Exact encoding and decoding of long volumes with the MAISI VAE, a few slices at a time.

A sliding window over the whole network is wrong, because group norms then see the statistics of a window. Here the
network is walked layer by layer (`layer_walk.py`): each layer streams its whole input map through the device in chunks
of slices, so the device holds a chunk and the group norms still see everything.

Between layers the maps are spooled in host memory or in a file. At most two are alive: in a residual block
`x + conv2(silu(norm2(conv1(silu(norm1(x))))))` these are `x` and the output of `conv1`, which the sum then overwrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiConvolution,
    MaisiDownsample,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from torch import Tensor

from common.inferers.layer_walk import LayerWalk, depth_spans
from common.inferers.spooled_map import DiskMap, FeatureMap, HostMap

__all__ = ["ChunkedVAE"]


class ChunkedVAE:
    """Encode and decode with bounded device memory; equal to the whole-volume result up to rounding.

    Device memory depends on the chunk and on H x W, not on the depth. Pass volumes that live on the host while the VAE
    is on the GPU: results are returned on the device of the input, so neither ever has to fit the GPU. Runs without
    gradients. `torch.autocast` around a call works as it does for the network itself.

    Args:
        vae: a `MaisiVAE` or `AutoencoderKlMaisi` without attention, transposed convolutions or `norm_float16`.
        encode_chunk: image slices per chunk when encoding. A layer at 1/f of the resolution takes 1/f as many slices.
        decode_chunk: latent slices per chunk when decoding. Each is 4 image slices with the three levels of MAISI, so
            the default 8 covers the same 32 image slices as the default of `encode_chunk`.
        spool: keep the feature maps between layers in "host" memory or on "disk".
        spool_dir: folder of the spool files; by default the system's temporary folder, which may be memory itself.
        spool_dtype: dtype of the spooled maps. float32 is exact; bfloat16 and float16 halve the spool and are inexact.

    Raises:
        ValueError: if the network has a layer that cannot be chunked exactly, or an argument is out of range.
    """

    def __init__(
        self,
        vae: AutoencoderKlMaisi,
        encode_chunk: int = 32,
        decode_chunk: int = 8,
        spool: Literal["host", "disk"] = "host",
        spool_dir: str | None = None,
        spool_dtype: torch.dtype = torch.float32,
    ) -> None:
        if encode_chunk < 1 or decode_chunk < 1:
            raise ValueError(
                f"a chunk has at least 1 slice, got encode_chunk={encode_chunk}, decode_chunk={decode_chunk}."
            )
        if spool not in ("host", "disk"):
            raise ValueError(f"spool must be 'host' or 'disk', got {spool!r}.")
        _check_chunkable(vae)
        self.vae = vae
        self.encode_chunk = encode_chunk
        self.decode_chunk = decode_chunk
        self.spool = spool
        self.spool_dir = spool_dir
        self.spool_dtype = spool_dtype
        self.factor = 2 ** sum(isinstance(block, MaisiDownsample) for block in vae.encoder.blocks)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Like `vae.encode`.

        Args:
            x: (B, C, D, H, W), scaled as the VAE was trained; sizes of at least 4 (in general `factor`). A remainder
                modulo 4 is lost, as in MONAI; `encode_volume` pads instead.

        Returns:
            z_mu and z_sigma, each (B, latent_channels, D // 4, H // 4, W // 4), on the device of `x`.

        Raises:
            ValueError: if `x` is not 5-dimensional or too small.
        """
        if x.ndim != 5 or min(x.shape[2:]) < self.factor:
            raise ValueError(f"expected (B, C, D, H, W) with sizes of at least {self.factor}, got {tuple(x.shape)}.")
        walk = LayerWalk(self.vae.post_quant_conv.conv.weight, self.encode_chunk, 1, self._new_map)
        hidden = walk.run(self.vae.encoder.blocks, HostMap(x))
        z_mu, z_sigma = (torch.empty(hidden.shape, dtype=walk.like.dtype, device=x.device) for _ in range(2))
        for start, stop in depth_spans(hidden.shape[2], walk.step):
            h = hidden.read(start, stop, walk.like)
            z_mu[:, :, start:stop] = self.vae.quant_conv_mu(h)
            log_var = self.vae.quant_conv_log_sigma(h).clamp(-30.0, 20.0)
            z_sigma[:, :, start:stop] = torch.exp(log_var / 2)
        return z_mu, z_sigma

    @torch.no_grad()
    def decode(self, z: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Like `vae.decode`.

        Args:
            z: (B, latent_channels, d, h, w).
            shape: (D, H, W) to crop the image to, the inverse of the padding of `encode_volume`.

        Returns:
            (B, C, 4d, 4h, 4w), or cropped to `shape`, on the device of `z`.

        Raises:
            ValueError: if `z` is not 5-dimensional or `shape` is larger than the image.
        """
        if z.ndim != 5:
            raise ValueError(f"expected latents (B, C, d, h, w), got {tuple(z.shape)}.")
        full = [size * self.factor for size in z.shape[2:]]
        if shape is not None and any(size > limit for size, limit in zip(shape, full, strict=True)):
            raise ValueError(f"cannot crop an image of {tuple(full)} to {tuple(shape)}.")
        conv = self.vae.post_quant_conv.conv
        walk = LayerWalk(conv.weight, self.decode_chunk * self.factor, self.factor, self._new_map)
        channels = self.vae.decoder.blocks[-1].conv.conv.out_channels
        image = torch.empty(z.shape[0], channels, *full, dtype=walk.like.dtype, device=z.device)
        walk.run(self.vae.decoder.blocks, walk.convolution(HostMap(z), conv), HostMap(image))
        return image if shape is None else image[:, :, : shape[0], : shape[1], : shape[2]]

    def encode_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode` after repeating the last slice, row and column up to the next multiple of 4; any size >= 1.

        Args:
            x: (B, C, D, H, W). `decode(z, shape=x.shape[2:])` gives an image of this size back.

        Returns:
            z_mu and z_sigma, each (B, latent_channels, ceil(D / 4), ceil(H / 4), ceil(W / 4)).
        """
        missing = [-size % self.factor for size in x.shape[2:]]
        padding = [n for size in reversed(missing) for n in (0, size)]
        return self.encode(F.pad(x, padding, mode="replicate") if any(missing) else x)

    def _new_map(self, shape: Sequence[int]) -> FeatureMap:
        if self.spool == "disk":
            return DiskMap(shape, self.spool_dtype, self.spool_dir)
        return HostMap(torch.empty(*shape, dtype=self.spool_dtype))


def _check_chunkable(vae: AutoencoderKlMaisi) -> None:
    known = (MaisiResBlock, MaisiDownsample, MaisiUpsample, MaisiGroupNorm3D, MaisiConvolution)
    for part in ("encoder", "decoder"):
        for i, block in enumerate(getattr(vae, part).blocks):
            if not isinstance(block, known):
                raise ValueError(
                    f"{part}.blocks.{i} is a {type(block).__name__}: without attention a VAE can be chunked exactly."
                )
            if isinstance(block, MaisiUpsample) and block.use_convtranspose:
                raise ValueError(
                    f"{part}.blocks.{i} is a transposed convolution: build the VAE with use_convtranspose=False."
                )
    if any(norm.norm_float16 for norm in vae.modules() if isinstance(norm, MaisiGroupNorm3D)):
        raise ValueError("norm_float16=True rounds differently per chunk: build the VAE with norm_float16=False.")
