"""Does the curriculum help, and what does each part of xr2text bring? The demo with several seeds, equal samples seen.

Every seed has other virtual patients and other initial weights; image encoder, language model and features are made
once for a seed and shared. Compared with the whole: no curriculum (the stage `plain`, all cases in every epoch), and
the ablations of the configs. Prints a JSON line for each: the differences to the whole per seed, figures of the test
split, and the validation of every epoch of the stages and of `plain`.

    python benchmarks/xr2text_curriculum.py [--seeds 0 1 2] [--patients 640] [--folder DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.apps.run.evaluate import evaluate  # noqa: E402
from common.apps.run.recipe import run_recipe  # noqa: E402

BUNDLE = ROOT / "bundles" / "xr2text"
CURRICULUM = ("warmup", "easy", "medium", "hard", "finetune")
ABLATIONS = ("no_priors", "no_routing", "no_regions", "no_finding_tokens", "rdrop")
FIGURES = ("bleu_4", "rouge_l", "micro_f1_14")


def figures(run: Path, models: Path) -> dict[str, float]:
    """Of the test split, and micro-F1 with shuffled images."""
    evaluate(BUNDLE, run / "data" / "virtual", run / f"evaluation_{models.name}", models)
    with (run / f"evaluation_{models.name}" / "metrics_mean.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["system"]: row for row in csv.DictReader(file) if row["split"] == "test"}
    found = {name: float(rows["model"][name]) for name in FIGURES}
    return found | {"shuffled_micro_f1_14": float(rows["model, images shuffled"]["micro_f1_14"])}


def validations(run: Path, stage: str) -> list[float]:
    """BLEU-4 + ROUGE-L of every epoch of a stage."""
    history = json.loads((run / stage / "history.json").read_text(encoding="utf-8"))
    return [round(row["combined"], 4) for row in history["validations"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=640)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="xr2text_"))
    found: dict[str, list[dict[str, float]]] = {}
    borders = []
    for seed in args.seeds:
        virtual = {"virtual#n": args.patients, "virtual#seed": seed * 10_000}
        whole = folder / f"seed_{seed}"
        run_recipe(BUNDLE, "demo", output_dir=whole, seed=seed, overrides=virtual)
        found.setdefault("whole", []).append(figures(whole, whole / "models"))
        run_recipe(BUNDLE, "demo", "plain", output_dir=whole, seed=seed, overrides=virtual)
        plain = whole / "models" / "baselines" / "plain"
        found.setdefault("plain", []).append(figures(whole, plain))
        borders.append({s: validations(whole, s) for s in (*CURRICULUM, "plain")})
        for ablation in ABLATIONS:
            run = folder / f"seed_{seed}_{ablation}"
            if not run.exists():
                run.mkdir()
                for name in ("vision", "language", "features", "cache", "data"):
                    shutil.copytree(whole / name, run / name, symlinks=True)
                (run / "models").mkdir()
                for name in ("encoders.pt", "encoders.json", "language.pt", "language.json"):
                    shutil.copyfile(whole / "models" / name, run / "models" / name)
            stages = ",".join(("features", *CURRICULUM))
            run_recipe(BUNDLE, f"demo+{ablation}", stages, output_dir=run, seed=seed, overrides=virtual)
            found.setdefault(ablation, []).append(figures(run, run / "models"))
    setting = f"{args.patients} virtual patients per seed, seeds {args.seeds}, demo scale"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    for name, rows in found.items():
        line = {"name": f"xr2text: {name}", "input": setting, "ours": [row["micro_f1_14"] for row in rows]}
        line |= {"figures": rows, "reference": [row["micro_f1_14"] for row in found["whole"]]}
        line["minus_whole"] = {
            figure: [round(row[figure] - base[figure], 4) for row, base in zip(rows, found["whole"], strict=True)]
            for figure in FIGURES
        }
        print(json.dumps(line | ({"validations": borders} if name == "plain" else {}) | {"machine": machine}))


if __name__ == "__main__":
    main()
