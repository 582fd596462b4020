"""Chunked against whole-volume inference of the MAISI VAE at the size of the paper: difference, memory, time.

Prints one JSON line per claim: {name, input, ours, reference, ratio, machine}. Memory is the peak resident memory of a
fresh process (VmHWM of the kernel) minus what it had before the call, so network and input do not count but everything
that the call allocates does; spooled maps do not, because `spool="disk"` keeps them in files.

    python benchmarks/chunked_vae.py            # about 3 minutes on 2 free cores
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.inferers.chunked_vae import ChunkedVAE  # noqa: E402
from common.networks.maisi_vae import MaisiVAE  # noqa: E402

MEMORY_SIDE = 64
SMALL_CHUNKS = (8, 2)
DEFAULT_CHUNKS = (32, 8)


def build() -> MaisiVAE:
    torch.manual_seed(0)
    return MaisiVAE().eval().requires_grad_(False)


def memory_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}.")


def peak_of(call: Callable[[], object]) -> int:
    """Bytes by which `call` raises the peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory_kb("VmRSS")
    call()
    return 1024 * (memory_kb("VmHWM") - before)


def measure_memory(direction: str, depth: int, chunks: tuple[int, int] | None) -> int:
    """Runs in its own process: peak of one call on a volume of `depth` x 64 x 64."""
    vae = build()
    network = vae if chunks is None else ChunkedVAE(vae, *chunks, spool="disk")
    image = torch.rand(1, 1, depth, MEMORY_SIDE, MEMORY_SIDE)
    latent = torch.randn(1, 4, depth // 4, MEMORY_SIDE // 4, MEMORY_SIDE // 4)
    warm_up = (image[:, :, :8], latent[:, :, :2])  # libraries allocate once, which is not the volume's memory
    if direction == "encode":
        network.encode(warm_up[0])
        return peak_of(lambda: network.encode(image))
    network.decode(warm_up[1])
    return peak_of(lambda: network.decode(latent))


def in_subprocess(direction: str, depth: int, chunks: tuple[int, int] | None) -> int:
    arguments = ["--measure", direction, str(depth), *map(str, chunks or ())]
    # glibc otherwise starts to keep freed blocks of this size, and the peak would depend on history.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True, env=env)
    return int(result.stdout)


def report(name: str, given: str, ours: float, reference: float | None, ratio: float | None) -> None:
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    line = {"name": name, "input": given, "ours": ours, "reference": reference, "ratio": ratio, "machine": machine}
    print(json.dumps(line), flush=True)


def timed(call: Callable[[], object]) -> tuple[object, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def difference_and_time() -> None:
    vae = build()
    shape = (1, 1, 48, 96, 96)
    depth = torch.linspace(0.2, 1, shape[2]).view(1, 1, -1, 1, 1)
    image = torch.rand(shape) * depth
    chunked = ChunkedVAE(vae, *SMALL_CHUNKS)
    vae.encode(image[:, :, :8])  # start the thread pool
    (z_mu, z_sigma), whole_encode = timed(lambda: vae.encode(image))
    (mu, sigma), ours_encode = timed(lambda: chunked.encode(image))
    decoded, whole_decode = timed(lambda: vae.decode(z_mu))
    ours, ours_decode = timed(lambda: chunked.decode(z_mu))
    given = f"{'x'.join(map(str, shape))}, chunks {SMALL_CHUNKS[0]}/{SMALL_CHUNKS[1]}"
    for name, ours_value, whole_value in (("z_mu", mu, z_mu), ("z_sigma", sigma, z_sigma), ("image", ours, decoded)):
        worst = (ours_value - whole_value).abs().max().item()
        report(f"chunked_vae.max_abs_difference.{name}", given, worst, 1e-4, worst / 1e-4)
    report(
        "chunked_vae.seconds.encode", given, round(ours_encode, 2), round(whole_encode, 2), ours_encode / whole_encode
    )
    report(
        "chunked_vae.seconds.decode", given, round(ours_decode, 2), round(whole_decode, 2), ours_decode / whole_decode
    )


def memory() -> None:
    for direction in ("encode", "decode"):
        whole = in_subprocess(direction, 128, None)
        peaks = {depth: in_subprocess(direction, depth, SMALL_CHUNKS) for depth in (32, 64, 128)}
        size = f"{MEMORY_SIDE}x{MEMORY_SIDE}"
        for chunks, peak in (
            (SMALL_CHUNKS, peaks[128]),
            (DEFAULT_CHUNKS, in_subprocess(direction, 128, DEFAULT_CHUNKS)),
        ):
            given = f"128x{size}, chunks {chunks[0]}/{chunks[1]}, spool on disk"
            report(f"chunked_vae.peak_bytes.{direction}", given, peak, whole, peak / whole)
        for depth in (64, 128):
            given = f"{depth}x{size} against 32x{size}, chunks {SMALL_CHUNKS[0]}/{SMALL_CHUNKS[1]}, spool on disk"
            report(f"chunked_vae.flat_in_depth.{direction}", given, peaks[depth], peaks[32], peaks[depth] / peaks[32])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        direction, depth, *chunks = arguments.measure
        with torch.no_grad():
            print(measure_memory(direction, int(depth), tuple(map(int, chunks)) or None))
        return
    difference_and_time()
    memory()


if __name__ == "__main__":
    main()
