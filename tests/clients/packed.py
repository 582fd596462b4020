"""A packed `ct_slice_interpolation` with tiny networks, and processes in which `common` cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from common.apps.packaging.pack import pack_bundle
from common.networks.maisi_vae import MaisiVAE
from common.networks.slice_refiner import SliceRefiner
from common.networks.slice_unet import SliceUNet
from common.networks.weights import save_parts

BUNDLE = Path(__file__).parents[2] / "bundles" / "ct_slice_interpolation"
VAE = {"num_channels": [8, 16, 16], "num_res_blocks": [1, 1, 1], "norm_num_groups": 8}
UNET = {
    "num_channels": [16, 32], "num_res_blocks": [1, 1], "attention_levels": [False, True], "num_head_channels": [0, 32],
    "norm_num_groups": 16,
}  # fmt: skip
REFINER = {"context": 3, "channels": [8, 16], "blocks": [1, 1]}


def write_weights(folder: Path) -> Path:
    """model.pt with three tiny parts and the network.json that gives their sizes."""
    torch.manual_seed(0)
    parts = {"vae": MaisiVAE(**VAE), "unet": SliceUNet(**UNET), "refiner": SliceRefiner(**REFINER)}
    torch.nn.init.normal_(parts["refiner"].body.head.weight, std=0.05)
    save_parts(folder / "model.pt", parts | {"scale_factor": torch.tensor(1.0)})
    sizes = {"vae_def": VAE, "unet_def": UNET, "refiner_def": REFINER}
    flat = {f"{part}#{key}": value for part, given in sizes.items() for key, value in given.items()}
    (folder / "network.json").write_text(json.dumps(flat))
    return folder


def make_packed(folder: Path) -> Path:
    """Pack the bundle below a folder."""
    (folder / "weights").mkdir()
    return Path(pack_bundle(BUNDLE, folder / "packed", write_weights(folder / "weights"))["folder"])


def without_common(folder: Path) -> dict[str, str]:
    """Environment of a process in which importing `common` fails."""
    (folder / "common.py").write_text("raise ImportError('common was imported')\n")
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(torch.get_num_threads())}


def python(*words: object, env: dict[str, str], cwd: str = "/", program: str | Path = sys.executable) -> str:
    """Run Python and give what it printed, stderr too."""
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
