"""The MAISI encoder and decoder layer by layer, each layer as one streaming pass over depth.

Every pass reads its input map in chunks of slices with the neighbours (halo) that its convolution sees, and writes its
output map. While a map is written its statistics are accumulated, so the group norm that reads it next is applied with
the statistics of the whole map, together with the SiLU and the convolution that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F  # noqa: N812 - the usual name
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    MaisiConvolution,
    MaisiDownsample,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from torch import Tensor, nn

from common.inferers.spooled_map import ChannelStats, FeatureMap, HaloReader

__all__ = ["LayerWalk", "depth_spans"]


def depth_spans(depth: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each chunk of `step` slices; the last may be shorter."""
    for start in range(0, depth, step):
        yield start, min(start + step, depth)


def _zero_slices(x: Tensor, before: int, after: int) -> Tensor:
    """The zero padding of a convolution, along depth only and only at the true ends of the map."""
    return F.pad(x, (0, 0, 0, 0, before, after)) if before or after else x


class LayerWalk:
    """Streams feature maps through encoder or decoder, layer by layer.

    Args:
        like: a tensor of the device and dtype to compute with.
        image_slices: image slices that a chunk covers, at every resolution.
        factor: image slices per slice of the first map (1 when encoding, 4 when decoding).
        new_map: makes the spooled map of a given shape.
    """

    def __init__(
        self,
        like: Tensor,
        image_slices: int,
        factor: int,
        new_map: Callable[[Sequence[int]], FeatureMap],
    ) -> None:
        self.like = like
        self.image_slices = image_slices
        self.factor = factor
        self.new_map = new_map

    @property
    def step(self) -> int:
        """Slices per chunk of a map at the current resolution."""
        return max(1, self.image_slices // self.factor)

    def run(self, blocks: nn.ModuleList, x: FeatureMap, target: FeatureMap | None = None) -> FeatureMap:
        """Walk all layers; the last convolution writes to `target` if given."""
        norm = None
        for block in blocks:
            if isinstance(block, MaisiResBlock):
                x = self.res_block(x, block)
            elif isinstance(block, MaisiDownsample):
                x = self.downsample(x, block)
            elif isinstance(block, MaisiUpsample):
                x = self.upsample(x, block)
            elif isinstance(block, MaisiGroupNorm3D):
                norm = block  # applied while the next convolution reads; no SiLU in between, as in MONAI
            else:
                x = self.convolution(x, block.conv.conv, norm=norm, into=target if block is blocks[-1] else None)
        return x

    def res_block(self, x: FeatureMap, block: MaisiResBlock) -> FeatureMap:
        """`shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`; the sum overwrites the output of conv1."""
        project = block.nin_shortcut.conv if isinstance(block.nin_shortcut, MaisiConvolution) else nn.Identity()
        h = self.convolution(x, block.conv1.conv.conv, norm=block.norm1, silu=True)
        return self.convolution(
            h,
            block.conv2.conv.conv,
            norm=block.norm2,
            silu=True,
            shortcut=lambda start, stop: project(x.read(start, stop, self.like)),
            into=h,
        )

    def convolution(
        self,
        source: FeatureMap,
        conv: nn.Conv3d,
        norm: MaisiGroupNorm3D | None = None,
        silu: bool = False,
        shortcut: Callable[[int, int], Tensor] | None = None,
        into: FeatureMap | None = None,
    ) -> FeatureMap:
        """Normalise, activate, convolve with stride 1 and add a shortcut; `into` may be `source` itself."""
        depth, halo = source.shape[2], conv.kernel_size[0] // 2
        reader = HaloReader(source, halo, self.like)
        normalise = self.normaliser(norm, source) if norm is not None else nn.Identity()
        out = into or self.new_map((source.shape[0], conv.out_channels, *source.shape[2:]))
        out.stats = ChannelStats()  # `into` may have been written before
        for start, stop in depth_spans(depth, self.step):
            x = normalise(reader.read(start, stop))
            x = F.silu(x, inplace=True) if silu else x
            # Zeros come after the activation: the network pads what the convolution sees.
            x = _zero_slices(x, halo if start == 0 else 0, halo if stop == depth else 0)
            y = F.conv3d(x, conv.weight, conv.bias, padding=(0, *conv.padding[1:]))
            del x  # before the shortcut needs room
            if shortcut is not None:
                y = shortcut(start, stop).add_(y)
            out.write(start, y)
        return out

    def downsample(self, source: FeatureMap, block: MaisiDownsample) -> FeatureMap:
        """Convolution with stride 2 after one zero slice (row, column) at the end: output i sees inputs 2i to 2i+2."""
        conv = block.conv.conv.conv
        depth = source.shape[2]
        self.factor *= 2
        out = self.new_map((source.shape[0], conv.out_channels, *(size // 2 for size in source.shape[2:])))
        for start, stop in depth_spans(out.shape[2], self.step):
            last = min(2 * stop + 1, depth)
            x = F.pad(source.read(2 * start, last, self.like), (0, 1, 0, 1, 0, 2 * stop + 1 - last))
            y = F.conv3d(x, conv.weight, conv.bias, stride=2)
            out.write(start, y)
        return out

    def upsample(self, source: FeatureMap, block: MaisiUpsample) -> FeatureMap:
        """Trilinear doubling, then a convolution with stride 1."""
        conv = block.conv.conv.conv
        depth = source.shape[2]
        out = self.new_map((source.shape[0], conv.out_channels, *(2 * size for size in source.shape[2:])))
        reader = HaloReader(source, 1, self.like)
        for start, stop in depth_spans(depth, self.step):
            first, last = start == 0, stop == depth
            x = F.interpolate(reader.read(start, stop), scale_factor=2.0, mode="trilinear")
            # At a cut the outermost new slice repeats the halo slice instead of blending it, but the one inside it is
            # exact, and one is all the convolution needs. At a true end repeating is what the network does.
            x = _zero_slices(x[:, :, 0 if first else 1 : x.shape[2] - (0 if last else 1)], int(first), int(last))
            x = x.contiguous()  # a view would keep the uncut chunk alive during the convolution
            y = F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
            out.write(2 * start, y)
        self.factor //= 2
        return out

    @staticmethod
    def normaliser(norm: MaisiGroupNorm3D, source: FeatureMap) -> Callable[[Tensor], Tensor]:
        """The group norm with the statistics of the whole map, as a function that changes its chunk in place."""
        mean, var = source.stats.per_group(norm.num_groups)
        per_group = source.shape[1] // norm.num_groups
        shape = (-1, source.shape[1], 1, 1, 1)
        mean = mean.repeat_interleave(per_group, 1).view(shape)
        scale = (var + norm.eps).rsqrt().repeat_interleave(per_group, 1).view(shape) * norm.weight.view(shape)
        return lambda x: x.sub_(mean.to(x)).mul_(scale.to(x)).add_(norm.bias.view(shape).to(x))
