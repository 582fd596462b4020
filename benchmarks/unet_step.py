"""The diffusion U-Net at the size of the paper: parameters, shapes at full size, and seconds per step.

Prints one JSON line per claim: {name, input, ours, reference, ratio, machine}. Full-size shapes are checked on the meta
device, which computes nothing; seconds are of a reduced latent, because 2 CPU cores cannot hold a full one. The
reference of a parameter count is the document's; of seconds, what MONAI's `DiffusionModelUNetMaisi` of the same size
takes here, measured in turn with ours.

    python benchmarks/unet_step.py            # about 4 minutes on 2 cores, 8 GB
    python benchmarks/unet_step.py --meta     # seconds: counts and shapes only
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.inferers.autocast import AutocastInferer  # noqa: E402
from common.networks.maisi_vae import MaisiVAE  # noqa: E402
from common.networks.slice_unet import SliceUNet  # noqa: E402
from common.transforms.slabs import ratio_condition  # noqa: E402

DOCUMENT = {"unet": 264_616_708, "vae": 20_944_897, "total": 285_561_605}
PAPER_LATENT = (75, 128, 128)  # 300 slices of 512 x 512
REDUCED_LATENT = (13, 64, 64)


def report(name: str, given: str, ours: float, reference: float | None) -> None:
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    ratio = None if not reference else round(ours / reference, 4)
    line = {"name": name, "input": given, "ours": ours, "reference": reference, "ratio": ratio, "machine": machine}
    print(json.dumps(line), flush=True)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def at_paper_size() -> None:
    with torch.device("meta"):
        unet, vae = SliceUNet(gradient_checkpointing=True), MaisiVAE().requires_grad_(False)
        report("unet_step.parameters.unet", "SliceUNet()", count(unet), DOCUMENT["unet"])
        report("unet_step.parameters.vae", "MaisiVAE()", count(vae), DOCUMENT["vae"])
        report("unet_step.parameters.total", "both", count(unet) + count(vae), DOCUMENT["total"])
        optimizer = torch.optim.AdamW([p for p in [*vae.parameters(), *unet.parameters()] if p.requires_grad], 1e-4)
        held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        report("unet_step.parameters.optimizer", "trainable ones of VAE and U-Net", held, count(unet))
        x, target = torch.empty(1, 8, *PAPER_LATENT), torch.empty(1, 4, *PAPER_LATENT)
        torch.nn.functional.mse_loss(unet(x, torch.empty(1), torch.empty(1, 3)), target).backward()
        optimizer.step()
    gradients = sum(p.grad.numel() for p in unet.parameters())
    given = f"one step on meta, latent {'x'.join(map(str, PAPER_LATENT))}"
    report("unet_step.gradients", given, gradients, count(unet))


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def seconds(repeats: int) -> None:
    torch.manual_seed(0)
    ours = SliceUNet()
    theirs = DiffusionModelUNetMaisi(
        3,
        8,
        4,
        num_res_blocks=(1, 1, 2, 2),
        num_channels=(128, 256, 512, 512),
        attention_levels=(False, False, False, True),
        num_head_channels=(0, 64, 128, 128),
        include_fc=True,
        include_spacing_input=True,
    )
    theirs.load_state_dict(ours.state_dict(), assign=True)  # the same tensors, so that both fit the memory
    x, t, condition = torch.randn(1, 8, *REDUCED_LATENT), torch.tensor([500]), ratio_condition(5.0, 1.0)[None]
    # MONAI's network takes multiples of 8 only.
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -REDUCED_LATENT[0] % 8), mode="replicate")

    def forward(unet: torch.nn.Module, latent: torch.Tensor, dtype: str) -> torch.Tensor:
        return AutocastInferer(dtype)(latent, unet, t, spacing_tensor=condition)

    def step(unet: torch.nn.Module, latent: torch.Tensor, dtype: str) -> None:
        forward(unet.train(), latent, dtype).square().mean().backward()
        unet.zero_grad(set_to_none=True)

    forward(ours, x[:, :, :8, :8, :8], "float32")  # start the thread pool
    for dtype in ("float32", "bfloat16"):
        given = f"1x8x{'x'.join(map(str, REDUCED_LATENT))}, {dtype}"
        with torch.no_grad():
            a = median_seconds(lambda dtype=dtype: forward(ours.eval(), x, dtype), repeats)
            b = median_seconds(lambda dtype=dtype: forward(theirs.eval(), padded, dtype), repeats)
        report("unet_step.seconds.forward", given, round(a, 2), round(b, 2))
        ours.gradient_checkpointing = False
        a = median_seconds(lambda dtype=dtype: step(ours, x, dtype), repeats)
        b = median_seconds(lambda dtype=dtype: step(theirs, padded, dtype), repeats)
        report("unet_step.seconds.forward_backward", given, round(a, 2), round(b, 2))
        ours.gradient_checkpointing = True
        c = median_seconds(lambda dtype=dtype: step(ours, x, dtype), repeats)
        report("unet_step.seconds.forward_backward_checkpointed", given, round(c, 2), round(a, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta", action="store_true", help="counts and shapes only")
    parser.add_argument("--repeats", type=int, default=1, help="of each timing; the median counts")
    arguments = parser.parse_args()
    at_paper_size()
    if not arguments.meta:
        seconds(arguments.repeats)


if __name__ == "__main__":
    main()
