"""The planner's forecast of peak memory against the peak that a real training step on this CPU reaches.

    python benchmarks/plan_peak.py [WORD ...]

With words only the sizes that name one of them are measured. Each size runs in a process of its own, with glibc told to
give memory back at once (MALLOC_MMAP_THRESHOLD_): by default it keeps up to half as much again for later, which is no
need of the training. Prints one JSON line per size.
"""

import json
import os
import platform
import resource
import subprocess
import sys

import psutil
import torch

from common.apps.run.bundle import merged_config, open_bundle
from common.apps.run.plan import plan_stage, planned_stage

CT, XR = "bundles/ct_slice_interpolation", "bundles/xr2text"
FP32 = {"precision": "float32"}
SIZES = {
    "refiner, batch 64": (CT, "refiner", "paper", {"batch_size": 64}),
    "refiner, batch 64, float32": (CT, "refiner", "paper", {"batch_size": 64} | FP32),
    "U-Net of the paper, latent 8 x 32 x 32": (CT, "diffusion", "paper", {"latent_crop": [8, 32, 32]}),
    "U-Net of the paper, latent 8 x 64 x 64, float32": (CT, "diffusion", "paper", {"latent_crop": [8, 64, 64]} | FP32),
    "VAE of the demo, patch 64 x 64 x 64": (CT, "vae", "demo", {"patch_size": [64, 64, 64]}),
    "report model of the paper, 512 px, batch 2, float32": (XR, "finetune", "paper", {"batch_size": 2} | FP32),
    "report model of the paper, 384 px, batch 4, float32": (
        XR, "finetune", "paper", {"batch_size": 4, "image_size": 384} | FP32,
    ),
    "report model of the demo, tokens, batch 256": (XR, "finetune", "demo", {"batch_size": 256}),
}  # fmt: skip


def job(name: str) -> tuple[list[str], dict]:
    bundle, stage, scale, overrides = SIZES[name]
    found = planned_stage(open_bundle(bundle), stage, scale, overrides)
    return found.files, found.overrides


def real_step(name: str) -> None:
    """Two real steps; prints the peak of this process above its start, plus the EMA that is not made here."""
    files, overrides = job(name)
    parser = merged_config(files)
    parser.update({**overrides, "device": "$torch.device('cpu')"})
    if "scale_factor" in parser:
        parser["scale_factor"] = 1.0
    get = parser.get_parsed_content
    prepare, inferer, loss = (get(key) for key in ("train#prepare_batch", "train#inferer", "loss"))
    before = psutil.Process().memory_info().rss
    network, optimizer, batch = get("network_def"), get("optimizer"), get("plan#batch")
    for _ in range(2):
        inputs, target, *more = prepare(batch, torch.device("cpu"))
        args, kwargs = more or ((), {})
        loss(inferer(inputs, network, *args, **kwargs), target).backward()
        optimizer.step()
        optimizer.zero_grad()
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in SIZES:
        return real_step(sys.argv[1])
    for name in SIZES:
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        forecast = plan_stage(*job(name))
        ours = forecast["peak"] - forecast["average"] - forecast["frozen"]
        command = [sys.executable, __file__, name]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        peak = int(next(line for line in said.splitlines() if line.startswith("PEAK")).split()[1])
        line = {"name": "planner: peak memory of a training step, MiB", "input": name, "ours": round(ours / 2**20)}
        line |= {"reference": round(peak / 2**20), "ratio": round(ours / peak, 3)}
        print(json.dumps(line | {"machine": platform.processor() or platform.machine()}), flush=True)


if __name__ == "__main__":
    main()
