"""Stage 1 of MDF-Net: an epoch on cached features against one that runs the frozen encoders again.

The encoders have their paper size (random weights, which take the same time), 518 pixels and notes of about 200 tokens.
Prints one JSON line: seconds per case either way, and the ratio; the document's original runs its encoders every epoch.

    python benchmarks/mdf_cached_features.py [--cases 4] [--cached 2000]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from common.apps.run.bundle import merged_config, open_bundle
from common.data.datasets.features import FeatureDataset
from common.engines.cxr_batch import PrepareFeatureBatch
from common.networks.clinical_encoder import ClinicalEncoder
from common.networks.mdfnet import FeatureMDFNet
from common.networks.modality_fusion import FusionHead
from common.networks.text_encoder import TextEncoder
from common.networks.vision_encoder import VisionEncoder


def cached_epoch(cases: int, labels: list[str]) -> float:
    """Seconds per case of a training epoch on features."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = {
            "vision": torch.randn(cases, 512),
            "text": torch.randn(cases, 768),
            "clinical": torch.randn(cases, 45),
        }
        tensors |= {"present": torch.ones(cases, 3, dtype=torch.bool), "label": torch.rand(cases, len(labels)).round()}
        save_file(tensors, Path(folder) / "train.safetensors")
        names = [f"case_{i}" for i in range(cases)]
        index = {"labels": labels, "scale_factor": 1.0, "features": ["vision", "text"], "maps": {}}
        index |= {"columns": {"case": names, "patient": names}, "cache_dir": "../cache"}
        (Path(folder) / "train.json").write_text(json.dumps(index))
        loader = DataLoader(FeatureDataset(folder, "train"), batch_size=16, shuffle=True)
        network = FeatureMDFNet(ClinicalEncoder(), FusionHead(labels=len(labels)))
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        prepare, loss = PrepareFeatureBatch(), torch.nn.BCEWithLogitsLoss()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            for batch in loader:
                features, target, _, kwargs = prepare(batch, "cpu")
                loss(network(features, **kwargs), target).backward()
                optimizer.step()
                optimizer.zero_grad()
            seconds.append((time.perf_counter() - start) / cases)
    return statistics.median(seconds)


@torch.no_grad()
def encoding(cases: int, config: dict) -> tuple[float, float]:
    """Seconds per image and per note of the frozen encoders."""
    vision = VisionEncoder(config=config["vision_config"], image_size=518).eval()
    text = TextEncoder(config=config["text_config"]).eval()
    images = torch.randn(cases, 3, 518, 518)
    notes = torch.randint(5, 1000, (cases, 200))
    seconds = []
    for encode, inputs in ((vision, images), (text, notes)):
        encode(inputs[:1])
        start = time.perf_counter()
        for one in inputs.split(1):
            encode(one)
        seconds.append((time.perf_counter() - start) / cases)
    return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--cached", type=int, default=2000)
    options = parser.parse_args()
    config = merged_config([open_bundle("mdfnet_cxr").config_file("train.json")]).config
    image, note = encoding(options.cases, config)
    cached = cached_epoch(options.cached, config["labels"])
    print(
        json.dumps(
            {
                "name": "stage-1 epoch, cached features against running the frozen encoders",
                "input": f"paper-size encoders, 518 px, 200 tokens; {options.cached} cached cases, batch 16",
                "ours": round(cached, 6),
                "reference": round(image + note + cached, 3),
                "unit": "seconds per case",
                "ratio": round((image + note + cached) / cached),
                "seconds_per_image": round(image, 3),
                "seconds_per_note": round(note, 3),
                "cited": "0.19 s an image and 1.7 s a note in the original, every epoch",
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            }
        )
    )


if __name__ == "__main__":
    main()
