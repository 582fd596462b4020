"""How far each mode of slice interpolation is from the truth on thin CT whose slices were averaged to thick ones."""

import copy
import hashlib
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.data.ct.reader import read_ct
from common.data.ct.volume import ct_cases
from common.data.datasets.case_loader import no_usable_case, reason_of
from common.data.datasets.feature_cache import hash_array
from common.data.folder_files import others_text
from common.data.manifest import read_split
from common.evaluation.evaluation import Evaluation, Measured
from common.inferers.slice_interpolation import SliceInterpolationInferer
from common.metrics.image_quality import histogram_distance, psnr, ssim
from common.networks.slice_interpolator import PARTS_OF_MODE, SliceInterpolator, parts_for
from common.networks.weights import MissingWeights, read_state
from common.transforms.ct_io import to_axial
from common.transforms.slabs import consistency_error, simulate_thick
from common.transforms.windows import WINDOWS, window_bounds
from common.visualize.ct_pictures import interpolation_figure
from common.visualize.figures import save_picture

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
BASELINES = ("nearest", "linear", "cubic", "linear_projected")
COLUMNS = ("case", "mode", "window", "psnr", "ssim", "hist_distance", "consistency_hu")


class ComparedModes:
    """Which modes are compared: those that were asked for, else every one whose weights the checkpoint holds.

    Attributes:
        names: of `COMPARED`.
        parts: of the network that they need.
        not_run: mode -> why it is left out.

    Args:
        checkpoint: model.pt.
        modes: subset of `COMPARED`, a list or "a,b"; None for all.
        refine_samples: as of the inferer.
        make_weights: the command that makes the checkpoint, for the sentence that says it is missing.

    Raises:
        MissingWeights: if no learned mode, or one that was asked for, has weights.
        ValueError: for an unknown mode.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        modes: str | Sequence[str] | None = None,
        refine_samples: bool = True,
        make_weights: str | None = None,
    ) -> None:
        if isinstance(modes, str):
            modes = [name.strip() for name in modes.split(",")]
        self.names, self.not_run = _modes_to_run(modes, Path(checkpoint), refine_samples, make_weights)
        needed = [parts_for(COMPARED[name][0], refine_samples) for name in self.names]
        self.parts = tuple(dict.fromkeys(part for parts in needed for part in parts))


class SliceInterpolationEvaluation(Evaluation):
    """Averages thin CT to thick slices, and compares what the modes make of them with the thin ones.

    Args:
        input: thin CT: a file, a folder, or a prepared folder, of which the test split is taken.
        compared: the modes.
        network: with the parts that they need.
        inferer: its mode and target are replaced.
        ratio: thin slices per simulated thick slice, at least 2.
        modes: as of `ComparedModes`, which has them.
        pictures: cases that get a picture.
    """

    def __init__(
        self,
        input: str | Path,
        compared: ComparedModes,
        network: SliceInterpolator,
        inferer: SliceInterpolationInferer,
        ratio: int = 5,
        modes: str | Sequence[str] | None = None,
        pictures: int = 3,
    ) -> None:
        self.input, self.compared, self.network, self.inferer = Path(input), compared, network, inferer
        self.ratio, self.pictures = ratio, pictures

    def run(self, output_dir: Path) -> Measured:
        """Measure every mode on every case."""
        names, not_run = list(self.compared.names), dict(self.compared.not_run)
        if "diffusion" in names and self.inferer.refine_samples and not self.network.refiner.uses_samples:
            not_run["diffusion"] = (
                "the refiner was trained without diffusion samples; --refine_samples false leaves it out"
            )
            names.remove("diffusion")
        cases, excluded = _thin_cases(self.input)
        rows, hashes = [], []
        for path, case in tqdm(cases, desc="evaluate", unit="case"):
            try:
                volume = read_ct(path)
                thin, affine = to_axial(volume)
                thick, target = simulate_thick(thin, self.ratio)
                thick_mm = float(np.linalg.norm(affine[:3, 0])) * self.ratio
                estimates = {
                    name: _estimate(self.inferer, self.network, name, thick, thick_mm, len(target))
                    for name in tqdm(names, desc=case, unit="mode", leave=False)
                }
            except Exception as error:
                excluded.append({"path": str(path), "reason": reason_of(error)})
                logger.warning("excluded: %s: %s", path, excluded[-1]["reason"])
                continue
            hashes.append(hash_array(target))
            for name, estimate in estimates.items():
                rows += _rows(case, name, estimate, target, thick)
            if len(hashes) <= self.pictures:
                figure = interpolation_figure(
                    estimates, target, affine=affine, window=window_bounds("wide"), title=case
                )
                slabs = f"slabs of {self.ratio} slices"
                caption = f"Case {case}: axial and coronal planes and absolute error in HU, {slabs}."
                save_picture(figure, output_dir / "pictures" / f"{case}.png", caption)
        if not rows:
            raise no_usable_case(self.input, output_dir, excluded)
        means = mean_metrics(rows)
        wide = {row["mode"]: row for row in means if row["window"] == "wide"}
        linear = {row["window"]: row["psnr"] for row in means if row["mode"] == "linear"}
        gains = [{"gain_db": row["psnr"] - linear[row["window"]]} if row["window"] in linear else {} for row in means]
        numbers = ("psnr", "ssim", "hist_distance", "consistency_hu")
        return Measured(
            tables={"metrics": rows, "metrics_mean": means},
            result=[row | gain for row, gain in zip(means, gains, strict=True)],
            cases=len(hashes),
            data=hashlib.sha256("".join(hashes).encode()).hexdigest(),
            parameters={"total": sum(p.numel() for p in self.network.parameters()), "trainable": 0},
            baselines={m: {name: wide[m][name] for name in numbers} for m in BASELINES if m in wide},
            excluded=excluded,
            not_run=not_run,
        )


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


def _thin_cases(source: Path) -> tuple[list[tuple[Path, str]], list[dict[str, str]]]:
    """Path and name of the test split of a prepared folder, else of every CT found; and what could not be one."""
    if (source / "manifest.csv").is_file():
        return [(Path(row["image"]), row["case"]) for row in read_split(source, "test")], []
    found = ct_cases(source)
    if others_text(found.other):
        logger.warning("%s, which were not looked at", others_text(found.other))
    return [(Path(case["image"]), case["case"]) for case in found], found.excluded
