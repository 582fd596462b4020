"""X-rays of 512 x 512 pixels to the input of a network, in images per second of one core, beside plain PIL and MONAI.

Prints one JSON line per kind of file and size of the input. All three ways read the same files in the same process, in
turn, and end with a normalised (3, size, size) float32 tensor; the figure is the best of several rounds in CPU seconds.
The target is 353 images/s, which a plain PIL pipeline was reported to reach (torchxrayvision 104/s, MONAI 235/s).
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.data import PILReader
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    LoadImage,
    NormalizeIntensity,
    RepeatChannel,
    Resize,
    ScaleIntensityRange,
)
from PIL import Image

from common.data.virtual.patient import make_virtual_patient
from common.data.virtual.xray import make_virtual_xray
from common.transforms.xray_io import CLIP_MEAN, CLIP_STD, xray_tensor

CITED = {"torchxrayvision": 104, "MONAI": 235, "PIL": 353}
SIZES = (224, 518)
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "cxr"


def write_images(folder: Path, count: int) -> tuple[str, dict[str, list[Path]]]:
    """Where the images are from, and kind of file -> 512 x 512 grey images."""
    real = sorted((REAL / "nih").glob("*.jpg"))[:count]
    if real:
        grey = [np.asarray(Image.open(path).convert("L").resize((512, 512))) for path in real]
    else:
        grey = [make_virtual_xray(make_virtual_patient(seed), 512).image for seed in range(count)]
    files: dict[str, list[Path]] = {"png": [], "jpg": []}
    for i, image in enumerate(grey):
        for suffix, paths in files.items():
            paths.append(folder / f"{i}.{suffix}")
            Image.fromarray(image).save(paths[-1])
    return "NIH ChestX-ray14" if real else "virtual X-rays", files


def plain_pil(size: int) -> Callable[[Path], torch.Tensor]:
    """Open, RGB, resize, divide by 255, normalise: what a script does."""
    mean, std = (np.array(v, dtype=np.float32) for v in (CLIP_MEAN, CLIP_STD))

    def read(path: Path) -> torch.Tensor:
        image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        array = (np.asarray(image, dtype=np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))

    return read


def monai_pipeline(size: int) -> Callable[[Path], torch.Tensor]:
    """The same with MONAI's array transforms."""
    return Compose(
        [
            LoadImage(reader=PILReader(converter=lambda image: image.convert("L")), image_only=True),
            EnsureChannelFirst(channel_dim="no_channel"),
            ScaleIntensityRange(0, 255, 0, 1),
            Resize((size, size), mode="bilinear", anti_aliasing=True),
            RepeatChannel(3),
            NormalizeIntensity(CLIP_MEAN, CLIP_STD, channel_wise=True),
        ]
    )


def rates(ways: dict[str, Callable[[Path], torch.Tensor]], paths: list[Path], rounds: int) -> dict[str, float]:
    """Images per CPU second, the best round of each; the ways take turns."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds + 1):  # the first warms up
        for name, read in ways.items():
            start = time.process_time()
            for path in paths:
                read(path)
            best[name] = max(best[name], len(paths) / (time.process_time() - start))
    return best


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source, files = write_images(Path(folder), args.images)
        for kind, paths in files.items():
            for size in SIZES:
                ways = {
                    "ours": lambda path, size=size: xray_tensor(path, size),
                    "pil": plain_pil(size),
                    "monai": monai_pipeline(size),
                }
                per_second = {name: round(rate) for name, rate in rates(ways, paths, args.rounds).items()}
                line = {
                    "name": "xray_pipeline",
                    "input": f"{len(paths)} {source}, 512 x 512 {kind} -> (3, {size}, {size})",
                    "ours": per_second["ours"],
                    "reference": {"pil here": per_second["pil"], "monai here": per_second["monai"]} | CITED,
                    "ratio": round(per_second["ours"] / per_second["pil"], 2),
                    "unit": "images/s per core",
                    "target": CITED["PIL"],
                    "met": per_second["ours"] >= CITED["PIL"],
                    "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
