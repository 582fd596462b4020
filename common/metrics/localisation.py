"""The localisation files of the VLM3D challenge, read and scored: IoU, centre distance and FROC for five diseases.

    [{"outputs": [{"type": "predictions", "value": {"predictions": [
        {"input_image_name": "scan", "Pericardial effusion": [{"bbox_mm": [x, y, z, dx, dy, dz], "probability": p}],
         "Pleural effusion": [], "Consolidation": [], "Ground glass opacity": [], "Lung nodule": []}]}}]}]

Truth is written alike. A box without a probability has 1, by the rules of the challenge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from common.io.bad_input import BadInput
from common.metrics.detection import LOCALISED, VLM3D_FALSE_POSITIVES, Froc, ScanBoxes, froc, paired_overlap
from common.metrics.resampling import Interval, bootstrap_intervals

Boxes = dict[str, tuple[np.ndarray, np.ndarray]]
"""Disease -> boxes (d, 6) in mm and their probabilities (d,)."""
_EXTENSIONS = (".mha", ".nii.gz", ".nii")


@dataclass(frozen=True)
class LocalisationResult:
    """Scores of a detector.

    Attributes:
        scans: number of scans.
        iou: disease and "macro" -> mean over true boxes of the IoU with the detection paired with it, 0 without one.
        distance: disease and "macro" -> mean distance in mm of the centres of pairs that overlap.
        froc: disease -> its FROC.
        mean_sensitivity: mean over the diseases that have true boxes of the mean sensitivity of their FROC.
        undefined: disease -> why it has no value; left out of every mean.
    """

    scans: int
    iou: dict[str, Interval]
    distance: dict[str, Interval]
    froc: dict[str, Froc]
    mean_sensitivity: float
    undefined: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """For JSON: None where undefined."""
        means = {
            name: {key: value.to_dict() for key, value in values.items()}
            for name, values in (("iou", self.iou), ("distance_mm", self.distance), ("froc", self.froc))
        }
        macro = None if math.isnan(self.mean_sensitivity) else self.mean_sensitivity
        return {"scans": self.scans, **means, "froc_macro": macro, "undefined": self.undefined}


def read_localisation(path: str | PathLike[str], diseases: Sequence[str] = LOCALISED) -> dict[str, Boxes]:
    """Read a file of the challenge: scan (without the extension of its image, inner dots kept) -> its boxes.

    Raises:
        BadInput: if it is no such file, a scan occurs twice or lacks a disease, or a box is not one.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        entries = document[0]["outputs"][0]["value"]["predictions"]
        named = [(str(entry["input_image_name"]), entry) for entry in entries]
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror}), expected the boxes of scans") from error
    except (ValueError, TypeError, LookupError) as error:
        raise BadInput(path, 'is not JSON of the form [{"outputs":[{"value":{"predictions":[...]}}]}]') from error
    scans: dict[str, Boxes] = {}
    for name, entry in named:
        scan = next((name[: -len(end)] for end in _EXTENSIONS if name.endswith(end)), name)
        if scan in scans:
            raise BadInput(path, f"has scan {scan!r} twice, expected it once")
        missing = [disease for disease in diseases if not isinstance(entry.get(disease), list)]
        if missing:
            raise BadInput(
                path, f"has no list {missing[0]!r} for scan {scan!r}, expected one, empty if there is no box"
            )
        scans[scan] = {}
        for disease in diseases:
            try:
                boxes = [box["bbox_mm"] for box in entry[disease]]
                read = ScanBoxes(boxes, [box.get("probability", 1.0) for box in entry[disease]], [])
            except (ValueError, TypeError, LookupError) as error:
                raise BadInput(path, f"has an unusable box of {disease!r} in scan {scan!r}: {error}") from error
            scans[scan][disease] = (read.boxes, read.probabilities)
    return scans


def localisation_scores(
    predicted: Mapping[str, Boxes],
    truth: Mapping[str, Boxes],
    diseases: Sequence[str] = LOCALISED,
    *,
    false_positives: Sequence[float] = VLM3D_FALSE_POSITIVES,
    iou: float = 0.1,
    repeated: str = "false_positive",
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Mapping[str, Hashable] | None = None,
) -> LocalisationResult:
    """Score the boxes of every disease.

    Args:
        predicted: scan -> its detections; the same scans as `truth`.
        truth: scan -> its true boxes; their probabilities are not used.
        diseases: to score.
        false_positives: per scan, where the FROC is read.
        iou: smallest IoU of a hit in the FROC.
        repeated: as in `detection.froc`.
        draws: bootstrap resamples of the scans, 0 for none.
        level: coverage.
        seed: of the resamples.
        groups: scan -> patient.

    Raises:
        ValueError: if the scans differ, or as in `detection.froc`.
    """
    if set(predicted) != set(truth) or not truth:
        only = sorted(set(predicted) ^ set(truth))
        raise ValueError(f"Predicted and true scans differ ({only[:1]}, {len(only)} in all), expected the same scans.")
    names = sorted(truth)
    patients = None if groups is None else [groups[name] for name in names]
    options = {"draws": draws, "level": level, "seed": seed, "groups": patients}
    ious, distances, frocs, undefined = {}, {}, {}, {}
    sums = []
    for disease in diseases:
        scans = [ScanBoxes(*predicted[name][disease], truth[name][disease][0]) for name in names]
        frocs[disease] = froc(scans, false_positives, iou=iou, repeated=repeated, **options)
        pairs = [paired_overlap(scan) for scan in scans]
        sums.append([(len(i), i.sum(), (~np.isnan(d)).sum(), np.nansum(d)) for i, d in pairs])
        if not frocs[disease].lesions:
            undefined[disease] = "there is no true box"
    counted = np.array(sums, dtype=float)  # (diseases, scans, 4)
    for values, count, total in ((ious, 0, 1), (distances, 2, 3)):
        has = counted[:, :, count].any(axis=1)

        def means(cases: np.ndarray, count: int = count, total: int = total, has: np.ndarray = has) -> np.ndarray:
            drawn = counted[:, cases].sum(axis=1)
            with np.errstate(invalid="ignore"):  # 0 / 0 where no box is left
                each = drawn[:, total] / drawn[:, count]
            return np.append(each, each[has].mean() if has.any() else math.nan)

        values |= bootstrap_intervals(means, (*diseases, "macro"), len(names), **options)
    sensitivity = [curve.mean.value for curve in frocs.values() if curve.lesions]
    mean = float(np.mean(sensitivity)) if sensitivity else math.nan
    return LocalisationResult(len(names), ious, distances, frocs, mean, undefined)
