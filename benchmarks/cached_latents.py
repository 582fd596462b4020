"""Training step on cached latents against encoding inside the step, as the original does, in alternation.

The VAE has its paper size, the U-Net the demo's, the CT 32 x 96 x 96 voxels: what is measured is the VAE in the step.
Prints one JSON line with the median seconds and their ratio.
"""

import json
import platform
import statistics
import time

import torch

from common.inferers.autocast import AutocastInferer
from common.inferers.chunked_vae import ChunkedVAE
from common.networks.maisi_vae import MaisiVAE
from common.networks.slice_unet import SliceUNet
from common.networks.weights import freeze
from common.transforms.slabs import interpolate_slices, ratio_condition, simulate_thick
from common.transforms.windows import scale_window

ROUNDS = 3


def main() -> None:
    torch.manual_seed(0)
    vae = ChunkedVAE(freeze(MaisiVAE()))
    unet = SliceUNet(
        num_channels=(32, 64, 64),
        num_res_blocks=(1, 1, 1),
        attention_levels=(False, False, True),
        num_head_channels=(0, 32, 32),
        norm_num_groups=16,
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    inferer, condition = AutocastInferer("bfloat16"), ratio_condition(12.0, 3.0)[None]
    thick, thin = simulate_thick(torch.randn(32, 96, 96) * 300, 4)

    def encode() -> list[torch.Tensor]:
        volumes = (thin, interpolate_slices(thick, len(thin)))
        return [vae.encode_volume(scale_window(volume)[None, None])[0] for volume in volumes]

    def step(latents: list[torch.Tensor]) -> None:
        output = inferer(torch.cat(latents, 1), unet, torch.tensor([500]), spacing_tensor=condition)
        optimizer.zero_grad()
        output.square().mean().backward()
        optimizer.step()

    cached = encode()
    step(cached)
    seconds: dict[str, list[float]] = {"cached": [], "encoding": []}
    for _ in range(ROUNDS):
        for name in seconds:
            start = time.perf_counter()
            step(cached if name == "cached" else encode())
            seconds[name].append(time.perf_counter() - start)
    ours, reference = (statistics.median(values) for values in seconds.values())
    line = {"name": "training step, cached latents against VAE in the step", "input": "32x96x96"}
    line |= {"ours": round(ours, 3), "reference": round(reference, 3), "ratio": round(reference / ours, 1)}
    print(
        json.dumps(line | {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()})
    )


if __name__ == "__main__":
    main()
