"""Gain of the refiner over linear interpolation on CT it never saw, at ratio 5.

    python benchmarks/refiner_real_ct.py --ckpt_dir runs/real_cpu/models     evaluate weights that are there
    python benchmarks/refiner_real_ct.py --output_dir runs/real_cpu          train them first (up to an hour on 2 cores)

Training sees slices 0 to 119 of the RICORD volume and virtual patients; slices 122 and up, the other CTs and other
virtual patients are only measured. One JSON line per case: PSNR in dB, HU clipped to +-1000.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from common.apps.run.evaluate import evaluate
from common.apps.run.prepare import prepare_virtual
from common.apps.run.recipe import run_recipe
from common.data.ct.volume import write_nifti

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "ct_slice_interpolation"
DATA = ROOT.parent / "shared" / "data" / "ct"
RICORD = "midrc-ricord-1a_001012_1.25mm.nii.gz"
UNSEEN = ("totalseg_pulm_ct_cropped_1.5mm.nii.gz", "totalseg_example_ct_3mm.nii.gz")
FIRST_UNSEEN_SLICE = 122


def write_part(path: Path, start: int, stop: int | None) -> None:
    """Slices of the RICORD volume as a CT of their own."""
    image = nib.load(DATA / RICORD)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 2] * start
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, np.asarray(image.dataobj)[:, :, start:stop], affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_dir", type=Path)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/real_cpu"))
    parser.add_argument("--tta", choices=("true", "false"), default="true")
    args = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not here, expected the sample CTs")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.ckpt_dir is None:
            write_part(work / "train" / "ricord_0_119.nii.gz", 0, 120)
            run_recipe(BUNDLE, "real_cpu", dataset_dir=work / "train", output_dir=args.output_dir)
            args.ckpt_dir = args.output_dir / "models"
        write_part(work / "unseen" / "ricord_122_181.nii.gz", FIRST_UNSEEN_SLICE, None)
        for name in UNSEEN:
            (work / "unseen" / name).symlink_to(DATA / name)
        prepare_virtual(work / "virtual", "nifti", n=2, seed=9000, shape=(160, 256, 256), spacing=(1.25, 1.2, 1.2))
        for source in (work / "unseen", work / "virtual" / "images"):
            settings = {"tta": args.tta == "true", "ratio": 5}
            out = work / "out" / source.name
            evaluate(BUNDLE, source, out, args.ckpt_dir, settings)
            print_rows(out / "metrics.csv", args.tta)


def print_rows(metrics: Path, tta: str) -> None:
    """One line per case of an evaluation."""
    import csv

    with metrics.open(newline="") as file:
        rows = {(row["case"], row["mode"]): row for row in csv.DictReader(file) if row["window"] == "wide"}
    for case in dict.fromkeys(case for case, _ in rows):
        ours, linear, projected = (
            float(rows[case, mode]["psnr"]) for mode in ("refiner", "linear", "linear_projected")
        )
        line = {"name": f"refiner, ratio 5, tta {tta}", "input": case, "ours": ours, "reference": linear}
        line |= {"gain_db": round(ours - linear, 2), "projected_linear_db": projected, "machine": platform.machine()}
        line |= {"consistency_hu": float(rows[case, "refiner"]["consistency_hu"])}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
