"""A packed bundle in a fresh environment that holds what its metadata name and nothing else, against the repository.

    python benchmarks/packed_alone.py --ckpt_dir runs/demo/models [--folder DIR]

Packs `ct_slice_interpolation` twice, installs the versions of its metadata.json into a new virtual environment (from
the package index), runs its inference there with `python -m monai.bundle run` from `/` on a virtual patient, and
compares the result with `python -m common predict`. Prints one JSON line.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from common.apps.packaging.pack import pack_bundle
from common.apps.predict import predict
from common.data.virtual.files import Cohort
from common.data.virtual.layouts import write_nifti as write_virtual

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "ct_slice_interpolation"


def install(folder: Path, metadata: dict) -> Path:
    """A virtual environment with exactly the packages that the metadata name (and what those need)."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"torch=={metadata['pytorch_version']}"], check=True)
    named = {"monai": metadata["monai_version"], "numpy": metadata["numpy_version"]}
    named |= metadata["required_packages_version"]
    subprocess.run([*pip, *(f"{name}=={version}" for name, version in named.items())], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt_dir", type=Path, default=BUNDLE / "models")
    parser.add_argument("--folder", type=Path, help="new folder; a temporary one by default")
    given = parser.parse_args()
    if not list(given.ckpt_dir.glob("*.pt")):
        not_run = f"{given.ckpt_dir.name}/ holds no weights, expected --ckpt_dir of a trained run"
        return print(json.dumps({"name": "packed bundle in a fresh environment", "not_run": not_run}))
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.folder or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        packed = [pack_bundle(BUNDLE, work / name, given.ckpt_dir) for name in ("packed", "again")]
        folder = Path(packed[0]["folder"])
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        (work / "ct").mkdir(exist_ok=True)
        write_virtual(work / "ct", Cohort(1, 5, (12, 96, 96), (12.0, 2.0, 2.0)))
        (image,) = (work / "ct").glob("images/*.nii.gz")
        python = install(work / "venv", metadata)
        alone = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        found = subprocess.run([str(python), "-c", "import common"], cwd="/", env=alone, capture_output=True)
        words = ["-m", "monai.bundle", "run", "--config_file", f"{folder}/configs/inference.json"]
        words += ["--bundle_root", str(folder), "--input", str(image), "--output_dir", str(work / "theirs")]
        subprocess.run([str(python), *words], cwd="/", env=alone, check=True, stdout=subprocess.DEVNULL)
        predict(BUNDLE, image, work / "ours", given.ckpt_dir)
        ours, theirs = (nib.load(work / name / image.name) for name in ("ours", "theirs"))
        line = {
            "name": "packed bundle in a fresh environment, from /, against the repository",
            "input": f"virtual patient {ours.shape}",
            "ours": float(np.abs(ours.get_fdata() - theirs.get_fdata()).max()),
            "reference": 0.0,
            "unit": "largest difference in HU",
            "same_affine": bool(np.array_equal(ours.affine, theirs.affine)),
            "common_installed_there": found.returncode == 0,
            "zip_bytes_equal_when_packed_twice": packed[0]["sha256"] == packed[1]["sha256"],
            "packages": len(metadata["required_packages_version"]) + 3,
            "machine": platform.processor() or platform.machine(),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
