"""X-rays on their way into a network: read, resized with a margin, changed a little at random, normalised.

    Compose([ReadXrayd("image", size=518), RandXrayd("image", seed=0), NormaliseXrayd("image", MEAN, STD)])

Chests are never flipped: the heart, the stomach's air and the side of a finding would be on the wrong side.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.data.cxr.reader import StoredGrey, XrayImage, as_unit, read_grey
from common.data.datasets.epoch_draws import EpochDraws
from common.data.seeds import seeded_generator

__all__ = [
    "CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "NormaliseXrayd", "RandXrayd", "ReadXrayd",
    "fit_mean_square", "fit_square", "xray_tensor",
]  # fmt: skip

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def xray_tensor(
    path: str | os.PathLike[str],
    size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    pad: str = "black",
) -> torch.Tensor:
    """The straight way from a file to the input of a network, without meta data: as the transforms of this file.

    Images of 8 bits stay bytes until they are normalised.

    Args:
        path: PNG, JPEG or DICOM.
        size: pixels along each side, which the longer side fills.
        mean: of the three channels in [0, 1].
        std: of the three channels.
        pad: what the rest is filled with, see `ReadXrayd`.

    Returns:
        (3, size, size) float32.

    Raises:
        BadInput: if the file is no sound X-ray.
    """
    _, image = _read(path, size, pad)
    square = torch.from_numpy(image)
    unit = 255 if square.dtype == torch.uint8 else 1
    channels, out = square.float().expand(3, size, size), torch.empty(3, size, size)
    for channel, values, m, s in zip(out, channels, mean, std, strict=True):
        torch.add(torch.tensor(-m / s), values, alpha=1 / (s * unit), out=channel)
    return out


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize so that the longer side is `size` (bicubic, antialiased), and add black to the shorter one on both sides.

    Args:
        image: (H, W), uint8 or float32 in [0, 1].
        size: pixels.

    Returns:
        (size, size) of the same type, within the range of the type.

    Raises:
        ValueError: if the size is not positive.
    """
    if size < 1:
        raise ValueError(f"size is {size}, expected a positive number of pixels")
    height, width = image.shape
    longer = max(height, width)
    new = tuple(max(1, round(side * size / longer)) for side in (height, width))
    image = _resized(image[None], new)[0]
    if new == (size, size):
        return image
    square = np.zeros((size, size), dtype=image.dtype)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    square[top : top + new[0], left : left + new[1]] = image
    return square


def fit_mean_square(image: np.ndarray, size: int) -> np.ndarray:
    """Fill up the shorter side with CLIP's mean colour, then resize (bicubic, antialiased), as LLaVA does.

    Args:
        image: (H, W), uint8 or float32 in [0, 1].
        size: pixels.

    Returns:
        (3, size, size) of the same type, within the range of the type: the colour is no grey.
    """
    height, width = image.shape
    longer = max(height, width)
    square = np.empty((3, longer, longer), dtype=image.dtype)
    for channel, mean in zip(square, CLIP_MEAN, strict=True):
        channel[:] = int(mean * 255) if image.dtype == np.uint8 else int(mean * 255) / 255
    top, left = (longer - height) // 2, (longer - width) // 2
    square[:, top : top + height, left : left + width] = image
    return _resized(square, (size, size))


def _resized(image: np.ndarray, new: tuple[int, int]) -> np.ndarray:
    """(C, H, W), uint8 or float32 in [0, 1], as (C, *new) within the range of the type."""
    if new != image.shape[1:]:
        # The filter widens when it makes an image smaller, and has a fast path for bytes.
        channels = torch.from_numpy(np.ascontiguousarray(image))[None]
        image = F.interpolate(channels, new, mode="bicubic", antialias=True)[0].numpy()
    return image if image.dtype == np.uint8 else image.clip(0, 1)


class ReadXrayd(MapTransform):
    """Replace a path by its X-ray: MetaTensor (1, H, W) float32 in [0, 1], bright = bone, row 0 on top.

    The meta data hold ``filename_or_obj``, ``case`` (the entry ``case`` beside it, else the file's name),
    ``spatial_shape`` (H, W of the file), ``bits``, ``photometric`` and ``pixel_spacing`` (mm, rows and columns; NaN
    where the file does not tell). An entry of None, a case without image, stays None. Raises BadInput for anything
    that is no sound X-ray.

    Args:
        keys: of the paths.
        size: the longer side becomes so many pixels and the shorter one is filled up; None keeps the image.
        pad: what it is filled up with: "black", or "mean", CLIP's mean colour, as LLaVA does it. That is no grey: the
            X-ray then is (3, size, size).
    """

    def __init__(self, keys: KeysCollection, size: int | None = None, pad: str = "black") -> None:
        super().__init__(keys)
        if size is not None and size < 1:
            raise ValueError(f"size is {size}, expected a positive number of pixels or None")
        if pad not in _PADS:
            raise ValueError(f"pad is {pad!r}, expected one of {', '.join(_PADS)}")
        if pad == "mean" and size is None:
            raise ValueError("pad is 'mean' of an image that keeps its size, expected a size")
        self.size, self.pad = size, pad

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the X-ray of every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            if out[key] is None:
                continue
            path = Path(out[key])
            xray, image = _read(path, self.size, self.pad)
            pixels = torch.from_numpy(np.ascontiguousarray(image))
            pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
            spacing = xray.spacing if isinstance(xray, XrayImage) else None
            meta = {
                "case": str(out.get("case", path.stem)),
                "filename_or_obj": str(path),
                "spatial_shape": np.asarray(xray.size),
                "bits": xray.bits,
                "photometric": xray.photometric,
                "pixel_spacing": np.asarray(spacing or (np.nan, np.nan)),
            }
            out[key] = MetaTensor(pixels if pixels.ndim == 3 else pixels[None], meta=meta)
        return out


class NormaliseXrayd(MapTransform):
    """Turn grey (1, H, W) in [0, 1] into three channels (3, H, W), each minus its mean and divided by its deviation.

    Three channels, as `ReadXrayd` gives them with "mean", stay three. Apply it once, last: an image with values outside
    of [0, 1] is refused.

    Args:
        keys: what to normalise; None stays None.
        mean: of the three channels, those that the encoder was trained with.
        std: of the three channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__(keys)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean is {list(mean)}, std is {list(std)}, expected three numbers each, std positive")
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, std))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            if image is None:
                continue
            low, high = float(image.min()), float(image.max())
            if image.ndim != 3 or image.shape[0] not in (1, 3) or low < 0 or high > 1:
                raise ValueError(
                    f"{key} is {tuple(image.shape)} with values from {low:g} to {high:g}, expected (1, H, W) in [0, 1]"
                    " or (3, H, W)"
                )
            out[key] = (image - self.mean) / self.std
        return out


class RandXrayd(EpochDraws, MapTransform):
    """Turn, move, zoom, and change grey (1, H, W) in [0, 1] a little, as exposures of one chest differ; no flips.

    What is drawn depends on (seed, epoch, case) alone: not on the order, the workers or the processes, so a training
    that was interrupted goes on with the same images. Attach it to the trainer for the epoch (data loader workers must
    start anew in each).

    Args:
        keys: what to change; None stays None. All keys of one item are changed alike.
        seed: of the draws.
        rotate: largest angle in degrees, either way.
        shift: largest move along each axis, as a share of the side.
        zoom: largest change of size, as a share.
        brightness: largest amount added.
        contrast: largest change of contrast around the mean, as a share.
        noise: largest standard deviation of added noise.
        prob: how often each of the three (geometry, grey values, noise) is done.
    """

    def __init__(
        self,
        keys: KeysCollection,
        seed: int = 0,
        rotate: float = 7.0,
        shift: float = 0.04,
        zoom: float = 0.08,
        brightness: float = 0.1,
        contrast: float = 0.15,
        noise: float = 0.02,
        prob: float = 0.8,
    ) -> None:
        super().__init__(keys)
        amounts = {
            "rotate": rotate, "shift": shift, "zoom": zoom, "brightness": brightness, "contrast": contrast,
            "noise": noise,
        }  # fmt: skip
        if min(amounts.values()) < 0 or rotate > 45 or max(zoom, contrast) >= 1 or not 0 <= prob <= 1:
            raise ValueError(f"{amounts}, prob {prob}: expected 0 or more, rotate up to 45, zoom and contrast below 1")
        self.seed, self.prob, self.amounts = seed, prob, amounts

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change every key."""
        out = dict(data)
        item = out["case"]
        number = item if isinstance(item, int) else int.from_bytes(hashlib.sha256(str(item).encode()).digest()[:4])
        for key in self.key_iterator(out):
            if out[key] is not None:
                out[key] = self._changed(out[key], seeded_generator(self.seed, self.epoch, number))
        return out

    def _changed(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The same numbers are drawn whatever is done, so that one amount does not change the others."""
        draws = torch.rand(9, generator=generator).tolist()
        angle, down, right, zoom, bright, contrast = (2 * x - 1 for x in draws[:6])
        turn, grey, noisy = (x < self.prob for x in draws[6:])
        most = self.amounts
        if turn:
            angle, size = math.radians(most["rotate"]) * angle, 1 + most["zoom"] * zoom
            height, width = image.shape[-2:]
            cos, sin = math.cos(angle) / size, math.sin(angle) / size
            # From places of the new image to those of the old one, each side from -1 to 1.
            theta = torch.tensor(
                [
                    [cos, -sin * height / width, 2 * most["shift"] * right],
                    [sin * width / height, cos, 2 * most["shift"] * down],
                ],
                dtype=image.dtype,
            )
            grid = F.affine_grid(theta[None], [1, *image.shape], align_corners=False)
            image = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        if grey:
            mean = image.mean()
            image = (image - mean) * (1 + most["contrast"] * contrast) + mean + most["brightness"] * bright
        if noisy:
            level = most["noise"] * torch.rand((), generator=generator)
            image = image + level * torch.randn(image.shape, generator=generator, dtype=torch.float32)
        return image.clamp(0, 1)


def _read(path: str | os.PathLike[str], size: int | None, pad: str) -> tuple[StoredGrey | XrayImage, np.ndarray]:
    """What the file holds, and its pixels fitted to a square: uint8 of an image of 8 bits, else float32 in [0, 1]."""
    # A JPEG that is decoded small differs from LLaVA's pixels by more than rounding.
    grey = read_grey(path, at_least=size if pad == "black" else None)
    if isinstance(grey, XrayImage):
        pixels = grey.pixels
    else:
        pixels = grey.values if grey.values.dtype == np.uint8 else as_unit(grey.values)
    return grey, pixels if size is None else _PADS[pad](pixels, size)


_PADS = {"black": fit_square, "mean": fit_mean_square}
