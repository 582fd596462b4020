"""Feature maps that wait in host memory or in a file while a network walks over them a few slices at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["ChannelStats", "DiskMap", "FeatureMap", "HaloReader", "HostMap"]


class ChannelStats:
    """Mean and variance per (batch, channel), merged chunk by chunk in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.m2: Tensor | float = 0.0  # sum of squared deviations from the mean

    def update(self, chunk: Tensor) -> None:
        """Merge a chunk of shape (B, C, d, H, W)."""
        var, mean = torch.var_mean(chunk.float().flatten(2), dim=2, correction=0)
        n = chunk[0, 0].numel()
        total = self.count + n
        delta = mean.double() - self.mean
        self.m2 = self.m2 + var.double() * n + delta.square() * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.count = total

    def per_group(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, each (B, groups); channels have equal counts, so they merge with equal weight."""
        mean = self.mean.unflatten(1, (groups, -1))
        var = (self.m2 / self.count).unflatten(1, (groups, -1))
        return mean.mean(2), var.mean(2) + mean.var(2, correction=0)


class HostMap:
    """A feature map (B, C, D, H, W) in a tensor: spooled in host memory, or the caller's own volume."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape = tensor.shape
        self.stats = ChannelStats()

    def read(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Slices [start, stop) as a new tensor on the device and in the dtype of `like`."""
        run = self.tensor[:, :, start:stop]
        return run.to(like.device, like.dtype, copy=True, memory_format=torch.contiguous_format)

    def write(self, start: int, chunk: Tensor) -> None:
        """Store a chunk (B, C, d, H, W) at slice `start` and count it in `stats`."""
        self.stats.update(chunk)
        self.tensor[:, :, start : start + chunk.shape[2]] = chunk.to(self.tensor.device)


class DiskMap:
    """A feature map (B, C, D, H, W) in an unnamed temporary file, gone when the map is.

    Plain reads and writes instead of a memory map, because mapped pages count as resident memory of the process.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, folder: str | None) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.stats = ChannelStats()
        folder = folder or tempfile.gettempdir()
        needed, free = self.shape.numel() * dtype.itemsize, shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(f"{folder} has {free / 1e9:.1f} GB free, a feature map needs {needed / 1e9:.1f} GB.")
        self.file = tempfile.TemporaryFile(dir=folder, prefix="chunked_vae_")  # noqa: SIM115 - lives as long as the map
        self.slice_bytes = self.shape[3] * self.shape[4] * dtype.itemsize

    def _runs(self, buffer: Tensor, start: int) -> Iterator[tuple[int, memoryview]]:
        """File offset and bytes of the slices of each (batch, channel)."""
        for row, run in enumerate(buffer.flatten(0, 1)):
            yield (row * self.shape[2] + start) * self.slice_bytes, run.reshape(-1).view(torch.uint8).numpy().data

    def read(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Slices [start, stop) as a new tensor on the device and in the dtype of `like`."""
        buffer = torch.empty(*self.shape[:2], stop - start, *self.shape[3:], dtype=self.dtype)
        for offset, data in self._runs(buffer, start):
            self.file.seek(offset)
            if self.file.readinto(data) != len(data):
                raise OSError(
                    f"the spool file of feature map {tuple(self.shape)} ends before byte {offset + len(data)}."
                )
        return buffer.to(like.device, like.dtype)

    def write(self, start: int, chunk: Tensor) -> None:
        """Store a chunk (B, C, d, H, W) at slice `start` and count it in `stats`."""
        self.stats.update(chunk)
        for offset, data in self._runs(chunk.to("cpu", self.dtype).contiguous(), start):
            self.file.seek(offset)
            self.file.write(data)


FeatureMap = HostMap | DiskMap


class HaloReader:
    """Reads a map chunk by chunk with neighbouring slices, while the caller may overwrite what it has been given.

    Each slice is read once: those that the next chunk needs again are kept.
    """

    def __init__(self, source: FeatureMap, halo: int, like: Tensor) -> None:
        self.source = source
        self.halo = halo
        self.like = like
        self.kept: Tensor | None = None  # slices [stop - halo, stop + halo) of the chunk before

    def read(self, start: int, stop: int) -> Tensor:
        """Slices [start - halo, stop + halo), clipped to the map."""
        depth, halo = self.source.shape[2], self.halo
        end = min(stop + halo, depth)
        if self.kept is None:
            first, x = 0, self.source.read(0, end, self.like)
        else:
            first = start - halo
            x = torch.cat([self.kept, self.source.read(min(start + halo, depth), end, self.like)], dim=2)
        self.kept = x[:, :, stop - halo - first :].clone()
        return x
