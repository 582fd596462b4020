"""Do all modalities beat the best single one? The demo of MDF-Net with several seeds, on virtual patients.

Every seed has other patients and other initial weights; all subsets are trained with the same recipe. Prints one JSON
line: mean AUROC on test patients of every model and seed, and the difference between all modalities and the best single
one with a Student-t interval over the seeds (the best single model is chosen on the scored cases, which favours it).

    python benchmarks/mdf_modalities.py [--seeds 0 1 2] [--patients 640] [--folder DIR]
"""

import argparse
import csv
import json
import platform
import tempfile
from pathlib import Path

import torch

from common.apps.run.recipe import run_recipe
from common.evaluation.compare_models import modality_benefit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=640)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mdf_modalities_"))
    summaries = []
    for seed in options.seeds:
        out = folder / f"seed_{seed}"
        virtual = {"virtual#n": options.patients, "virtual#seed": seed * 10_000}
        run_recipe("mdfnet_cxr", "demo", output_dir=out, seed=seed, overrides=virtual)
        with (out / "results_summary.csv").open(encoding="utf-8", newline="") as file:
            summaries.append(list(csv.DictReader(file)))
    models = {row["model"] for rows in summaries for row in rows}
    each = {
        model: [round(float(row["mean_auroc"]), 4) for rows in summaries for row in rows if row["model"] == model]
        for model in sorted(models)
    }
    benefit = modality_benefit([[row | {"mean_auroc": float(row["mean_auroc"])} for row in rows] for rows in summaries])
    print(
        json.dumps(
            {
                "name": "all modalities against the best single one, mean AUROC of 14 labels",
                "input": f"{options.patients} virtual patients per seed, seeds {options.seeds}, demo scale",
                "ours": each.get("all"),
                "mean_auroc": each,
                "benefit": benefit,
                "reference": 0.0,
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            },
            default=str,
        )
    )


if __name__ == "__main__":
    main()
