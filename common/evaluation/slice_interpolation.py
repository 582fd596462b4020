"""`evaluate`: how far each mode is from the truth on thin CT whose slices were averaged to thick ones."""

import copy
import hashlib
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.apps.run.bundle import open_bundle, resolve
from common.apps.run.remote_paths import takes_urls
from common.data.ct.reader import read_ct
from common.data.ct.volume import case_names, find_ct
from common.data.datasets.feature_cache import hash_array
from common.data.manifest import read_split
from common.inferers.slice_interpolation import SliceInterpolationInferer
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.metrics.image_quality import histogram_distance, psnr, ssim
from common.networks.slice_interpolator import PARTS_OF_MODE, SliceInterpolator
from common.networks.weights import MissingWeights, read_state
from common.transforms.ct_io import to_axial
from common.transforms.slabs import consistency_error, simulate_thick
from common.transforms.windows import WINDOWS, window_bounds
from common.visualize.ct_pictures import interpolation_figure
from common.visualize.figures import save_picture
from common.visualize.run_page import write_run_page
from common.visualize.run_summary import build_summary, write_summary

logger = logging.getLogger("evaluate")

# name in metrics.csv: mode of the inferer, whether the result is projected
COMPARED: dict[str, tuple[str, bool]] = {
    "nearest": ("nearest", False),
    "linear": ("linear", False),
    "cubic": ("cubic", False),
    "linear_projected": ("linear", True),
    "refiner": ("refiner", True),
    "diffusion": ("diffusion", True),
}
COLUMNS = ("case", "mode", "window", "psnr", "ssim", "hist_distance", "consistency_hu")


@takes_urls(reads=["input", "ckpt_dir"], writes=["output_dir"])
def evaluate(
    bundle: str | Path,
    input: str | Path,
    output_dir: str | Path,
    ckpt_dir: str | Path | None = None,
    ratio: int = 5,
    modes: Sequence[str] | None = None,
    overrides: dict[str, Any] | None = None,
    pictures: int = 3,
) -> dict[str, Any]:
    """Compare the modes on thin CT and write metrics.csv, metrics_mean.csv, summary.json, pictures and index.html.

    Args:
        bundle: bundle folder.
        input: thin CT: a file, a folder, or a prepared folder, of which the test split is taken.
        output_dir: created if missing.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        ratio: thin slices per simulated thick slice.
        modes: subset of `COMPARED`; default every mode whose weights the checkpoint holds.
        overrides: configuration ids of inference.json and their values.
        pictures: cases that get a picture.

    Returns:
        ``{"metrics": rows of metrics_mean.csv, "cases": n, "not_run": {mode: reason}, "page": path}``.

    Raises:
        BadInput: if nothing can be evaluated.
        MissingWeights: if no learned mode, or one that was asked for, has weights.
        ValueError: for an unknown mode or a ratio below 2.
    """
    output_dir, bundle = Path(output_dir), open_bundle(bundle)
    config = bundle.config("inference", ckpt_dir=ckpt_dir, overrides=overrides)
    names, not_run = _modes_to_run(
        modes, Path(config["ckpt_dir"]) / "model.pt", config["refine_samples"], *resolve(config, "make_weights")
    )
    # the widest mode builds every part that the others need
    config["mode"] = "diffusion" if "diffusion" in names else "refiner" if "refiner" in names else "linear"
    if "refiner" in names:
        config["refiner_def#_disabled_"] = False  # diffusion alone would leave it out with refine_samples off
    config["target_slices"], config["target_spacing"] = 2, None  # replaced per case below
    network, inferer = resolve(config, "network", "inferer")
    if "diffusion" in names and config["refine_samples"] and not network.refiner.uses_samples:
        not_run["diffusion"] = "the refiner was trained without diffusion samples; --refine_samples false leaves it out"
        names.remove("diffusion")

    (output_dir / "pictures").mkdir(parents=True, exist_ok=True)
    rows, excluded, hashes = [], [], []
    cases = _thin_cases(Path(input))
    for path, case in tqdm(cases, desc="evaluate", unit="case"):
        try:
            volume = read_ct(path)
            thin, affine = to_axial(volume)
            thick, target = simulate_thick(thin, ratio)
        except ValueError as error:
            excluded.append({"path": str(path), "reason": str(error)})
            logger.warning("excluded: %s", error)
            continue
        hashes.append(hash_array(target))
        thin_mm = float(np.linalg.norm(affine[:3, 0]))
        estimates = {
            name: _estimate(inferer, network, name, thick, thin_mm * ratio, len(target))
            for name in tqdm(names, desc=case, unit="mode", leave=False)
        }
        for name, estimate in estimates.items():
            rows += _rows(case, name, estimate, target, thick)
        if len({row["case"] for row in rows}) <= pictures:
            figure = interpolation_figure(estimates, target, affine=affine, window=window_bounds("wide"), title=case)
            caption = f"Case {case}: axial and coronal planes and absolute error in HU, slabs of {ratio} slices."
            save_picture(figure, output_dir / "pictures" / f"{case}.png", caption)
    if not rows:
        raise BadInput(
            input, f"holds no CT that can be evaluated: {excluded[0]['reason'] if excluded else 'no CT found'}"
        )

    means = mean_metrics(rows)
    write_text(output_dir / "metrics.csv", csv_text(COLUMNS, rows))
    write_text(output_dir / "metrics_mean.csv", csv_text(COLUMNS[1:], means))
    write_text(output_dir / "excluded.csv", csv_text(("path", "reason"), excluded))
    baselines = {row["mode"]: row["psnr"] for row in means if row["window"] == "wide"}
    total = sum(p.numel() for p in network.parameters())
    summary = build_summary(
        bundle=bundle.name,
        scale="evaluate",
        seed=config["seed"],
        data=hashlib.sha256("".join(hashes).encode()).hexdigest(),
        stages=[],
        baselines=baselines,
        parameters={"total": total, "trainable": 0},
    )
    write_summary(output_dir, summary)
    page = write_run_page(output_dir)
    cases = len({row["case"] for row in rows})
    return {"metrics": means, "cases": cases, "excluded": len(excluded), "not_run": not_run, "page": str(page)}


def _estimate(
    inferer: SliceInterpolationInferer,
    network: SliceInterpolator,
    name: str,
    thick: torch.Tensor,
    thick_mm: float,
    n_thin: int,
) -> torch.Tensor:
    """The first channel of one compared mode's result, (n_thin, H, W) HU."""
    one = copy.copy(inferer)
    one.mode, one.project = COMPARED[name]
    one.target_slices, one.target_spacing = n_thin, None
    one.n_samples = inferer.n_samples if one.mode == "diffusion" else 1
    return one.interpolate(thick, thick_mm, network)[0].cpu()


def _rows(case: str, mode: str, estimate: torch.Tensor, target: torch.Tensor, thick: torch.Tensor) -> list[dict]:
    consistency = consistency_error(estimate.double(), thick.double())
    return [
        {
            "case": case,
            "mode": mode,
            "window": window,
            "psnr": round(psnr(estimate, target, window), 4),
            "ssim": round(ssim(estimate, target, window), 5),
            "hist_distance": round(histogram_distance(estimate, target, window), 4),
            "consistency_hu": round(consistency, 4),
        }
        for window in WINDOWS
    ]


def mean_metrics(rows: list[dict]) -> list[dict]:
    """Means over cases per mode and window; the largest for ``consistency_hu``."""
    out = []
    for mode in COMPARED:
        for window in WINDOWS:
            group = [row for row in rows if (row["mode"], row["window"]) == (mode, window)]
            if group:
                means = {k: round(statistics.fmean(row[k] for row in group), 5) for k in COLUMNS[3:6]}
                out.append({"mode": mode, "window": window} | means)
                out[-1]["consistency_hu"] = max(row["consistency_hu"] for row in group)
    return out


def _modes_to_run(
    modes: Sequence[str] | None, checkpoint: Path, refine_samples: bool, make_weights: str
) -> tuple[list[str], dict[str, str]]:
    """Modes that can run, and for each other one why it was not run."""
    unknown = [name for name in modes or () if name not in COMPARED]
    if unknown:
        raise ValueError(f"modes holds {unknown[0]!r}, expected some of {', '.join(COMPARED)}")
    wanted = list(modes or COMPARED)
    needed = {name: PARTS_OF_MODE[COMPARED[name][0]] for name in wanted}
    if not any(needed.values()):
        return wanted, {}
    present = {name.split(".")[0] for name in read_state(checkpoint, make_weights)}
    not_run = {}
    for name, parts in needed.items():
        absent = [p for p in parts if p not in present and (p != "refiner" or name == "refiner" or refine_samples)]
        if absent:
            not_run[name] = f"{checkpoint} holds no {absent[0]} weights"
    learned = [name for name, parts in needed.items() if parts]
    if not_run and (modes is not None or len(not_run) == len(learned)):
        raise MissingWeights(f"{next(iter(not_run.values()))}, expected those of the stage that trains them")
    for name, reason in not_run.items():
        logger.warning("%s is not run: %s", name, reason)
    return [name for name in wanted if name not in not_run], not_run


def _thin_cases(source: Path) -> list[tuple[Path, str]]:
    """Path and name of the test split of a prepared folder, else of every CT found."""
    if (source / "manifest.csv").is_file():
        return [(Path(row["image"]), row["case"]) for row in read_split(source, "test")]
    found = find_ct(source)
    return list(zip(found, case_names(found, source), strict=True))
