"""Do the tiny networks beat chance on real X-rays? Every patient is tested once, by networks that never saw them.

Splits a prepared folder (`prepare covid`, `prepare nih`) by patients into five parts, trains with the scale
`demo+covid+few_cases` or `demo+nih+few_cases` on three and a half, has half a part for validation, predicts the fifth,
and pools the predictions. Prints one JSON line: mean AUROC of every model over the labels that have positive and
negative cases, with 95 % intervals from resampled patients; chance is 0.5.

    python benchmarks/mdf_real_xrays.py covid PREPARED [--folds 5] [--folder DIR]
"""

import argparse
import csv
import json
import platform
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from common.apps.run.recipe import run_recipe
from common.data.prediction_table import align_predictions, read_predictions, read_truth
from common.metrics.multilabel import multilabel_scores

MODELS = {"vision": "vision", "text": "text", "clinical": "clinical", "stage1": "all_stage1"}


def split_again(source: Path, target: Path, fold: int, folds: int) -> None:
    """Copy the tables of a prepared folder with another split; images stay where they are."""
    target.mkdir(parents=True)
    for name in ("notes.csv", "clinical.csv", "prepare.json"):
        shutil.copy(source / name, target / name)
    with (source / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient"] for row in rows})
    np.random.default_rng(0).shuffle(patients)
    part = {patient: place % (2 * folds) for place, patient in enumerate(patients)}  # in halves of a fold
    split = {2 * fold: "test", 2 * fold + 1: "test", (2 * fold + 2) % (2 * folds): "val"}
    with (target / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"split": split.get(part[row["patient"]], "train")} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layout", choices=["covid", "nih"], nargs="?")
    parser.add_argument("prepared", type=Path, nargs="?")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    if options.prepared is None:
        return print(json.dumps({"name": "mean AUROC on real X-rays", "not_run": "no prepared folder was named"}))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mdf_real_xrays_"))
    scale = f"demo+{options.layout}+few_cases"
    found: dict[str, list] = {name: [] for name in MODELS.values()}
    truths, patients = [], []
    for fold in range(options.folds):
        data, out = folder / f"data_{fold}", folder / f"run_{fold}"
        split_again(options.prepared, data, fold, options.folds)
        stages = ["encoders", "features", *MODELS]
        run_recipe("mdfnet_cxr", scale, stages=stages, dataset_dir=data, output_dir=out, seed=fold)
        tables = out / "predictions"
        truth = read_truth(tables / "labels_test.csv")
        for name, values in found.items():
            values.append(align_predictions(read_predictions(tables / f"{name}_test.csv"), truth))
        truths.append(truth.values)
        patients += truth.patients
    labels, target = truth.labels, np.concatenate(truths)
    scores = {
        name: multilabel_scores(np.concatenate(values), target, labels, groups=patients, draws=1000).scores["auroc"]
        for name, values in found.items()
    }
    auroc = {name: [round(v, 4) for v in (s.macro.value, s.macro.low, s.macro.high)] for name, s in scores.items()}
    print(
        json.dumps(
            {
                "name": f"mean AUROC on real X-rays, {options.folds} parts by patient, scale {scale}",
                "input": f"{len(target)} frontal X-rays of {len(set(patients))} patients, {len(labels)} labels, "
                f"without {sorted(scores['vision'].undefined)}",
                "ours": auroc,
                "reference": 0.5,
                "beats_chance": {name: low > 0.5 for name, (_, low, _) in auroc.items()},
                "labels": {k: round(v.value, 3) for k, v in scores["all_stage1"].per_class.items()},
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            },
            default=float,
        )
    )


if __name__ == "__main__":
    main()
