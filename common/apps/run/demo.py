"""`demo`: a bundle from raw data to pictures, on virtual patients and tiny networks, on two CPU cores."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, merged_config, open_bundle
from common.apps.run.recipe import read_recipe, run_recipe
from common.apps.run.remote_paths import takes_urls
from common.apps.run.run_data import make_virtual
from common.io.bad_input import BadInput
from common.visualize.run_page import write_run_page
from common.visualize.run_summary import SUMMARY_KEYS, read_json, write_summary
from common.visualize.tables import format_table

SCALE = "demo"
_UNSEEN = 1_000  # seeds of the held-out patients start this far above those of the training
_BASELINES = ("nearest", "linear", "cubic", "linear_projected")


@takes_urls(goes_on=["output_dir"])
def run_demo(
    bundle: str | os.PathLike[str] = "ct_slice_interpolation", output_dir: str | os.PathLike[str] = "runs/demo"
) -> dict[str, Any]:
    """Run a bundle's recipe at the scale demo, then evaluate it on virtual patients it has not seen.

    `configs/demo.json` must have the id "virtual" (see `common.apps.run.recipe`), and "held_out": {"n", "ratio"}, the
    number of patients for the evaluation and how many thin slices make a thick one.

    Args:
        bundle: bundle folder or name.
        output_dir: the run folder.

    Returns:
        The content of summary.json, with `evaluation` (rows of metrics_mean.csv), `page` and `seconds`.

    Raises:
        BadInput: if the bundle has no demo.
    """
    bundle, out = open_bundle(bundle), Path(output_dir)
    if bundle.predicts == "labels":
        return _classify(bundle, out)
    from common.evaluation.slice_interpolation import evaluate

    start = time.monotonic()
    settings = merged_config(
        [bundle.config_file(name) for name in (*read_recipe(bundle)[0].config, f"{SCALE}.json")]
    ).config
    for name in ("virtual", "held_out"):
        if name not in settings:
            raise BadInput(bundle.config_file(SCALE), f"has no id {name!r}, expected one for the demo")
    virtual, held_out = settings["virtual"], settings["held_out"]
    print(
        f"demo of {bundle.name} in {out}: tiny networks are trained on {virtual['n']} virtual patients and measured on "
        f"{held_out['n']} others, stage after stage; everything runs on this machine.",
        flush=True,
    )
    run = run_recipe(bundle, SCALE, output_dir=out)
    unseen = virtual | {"n": held_out["n"], "seed": virtual["seed"] + _UNSEEN}
    make_virtual(out / "held_out", unseen)
    print(f"evaluating on {held_out['n']} virtual patients that were not trained on", flush=True)
    measured = evaluate(
        bundle, out / "held_out" / "images", out / "evaluation", run["ckpt_dir"], ratio=held_out["ratio"]
    )
    summary = {key: value for key, value in read_json(out / "summary.json").items() if key in SUMMARY_KEYS}
    wide = {row["mode"]: row for row in measured["metrics"] if row["window"] == "wide"}
    summary["baselines"] = {
        mode: {name: row[name] for name in ("psnr", "ssim", "hist_distance", "consistency_hu")}
        for mode, row in wide.items()
        if mode in _BASELINES
    }
    write_summary(out, summary)
    page = write_run_page(out)
    seconds = time.monotonic() - start
    rows = [row | {"gain_db": row["psnr"] - wide["linear"]["psnr"]} for row in wide.values()]
    columns = ("mode", "psnr", "gain_db", "ssim", "hist_distance", "consistency_hu")
    print(f"\n{measured['cases']} held-out patients, HU -1000..1000, gain over linear:\n")
    print(format_table(rows, columns))
    print(f"\n{seconds / 60:.1f} minutes; the page with pictures: {page}")
    return summary | {"evaluation": measured["metrics"], "page": str(page), "seconds": round(seconds, 1)}


def _classify(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Train all models of a classifier on virtual patients; the run itself compares them on the test patients."""
    start = time.monotonic()
    print(
        f"demo of {bundle.name} in {out}: tiny networks are trained on virtual patients, once for every subset of the "
        "inputs, and compared on patients that they were not trained on; everything runs on this machine.",
        flush=True,
    )
    run = run_recipe(bundle, SCALE, output_dir=out)
    with (out / "results_summary.csv").open(encoding="utf-8", newline="") as file:
        rows = [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    page, seconds = str(out / "comparison" / "index.html"), time.monotonic() - start
    columns = ("model", "mean_auroc", "pooled_auroc", "min_auroc", "mean_auprc", "macro_f1", "ece", "n")
    print(f"\n{format_table(rows, columns)}\n\n{seconds / 60:.1f} minutes; the page with pictures: {page}")
    summary = {key: value for key, value in run.items() if key in SUMMARY_KEYS}
    return summary | {"evaluation": rows, "page": page, "seconds": round(seconds, 1)}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
