"""Boxes in millimetres against boxes: IoU, centre distance and FROC, as the VLM3D challenge asks for five diseases.

A box is `[x, y, z, dx, dy, dz]`: the corner with the smallest coordinates, then the sizes, in mm. The challenge names
its measures (IoU and centre distance per disease and their mean; FROC at 0.5, 1, 2 and 4 false positives per scan) but
has not published how it pairs boxes. Here: detections take, from the most probable down, the free true box they overlap
most if the IoU reaches a threshold (0.1 by default, usual for chest CT, where a nodule is a few voxels); for IoU and
distance, boxes are paired one to one so that the sum of IoU is largest.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from monai.metrics import compute_froc_score
from scipy.optimize import linear_sum_assignment

from common.metrics.resampling import Interval, bootstrap_intervals, json_value

LOCALISED = ("Pericardial effusion", "Pleural effusion", "Consolidation", "Ground glass opacity", "Lung nodule")
"""The diseases of the challenge's localisation task, as its files spell them."""
FALSE_POSITIVES = (0.125, 0.25, 0.5, 1, 2, 4, 8)
"""False positives per scan of LUNA16, whose mean sensitivity is the usual FROC score."""
VLM3D_FALSE_POSITIVES = (0.5, 1, 2, 4)


@dataclass(frozen=True)
class ScanBoxes:
    """Detections and truth of one disease in one scan.

    Attributes:
        boxes: (d, 6) detections in mm.
        probabilities: (d,) within [0, 1].
        truth: (t, 6) true boxes in mm.

    Raises:
        ValueError: if a box is not six finite numbers with positive sizes, or a probability is not within [0, 1].
    """

    boxes: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray

    def __post_init__(self) -> None:
        for name in ("boxes", "truth"):
            boxes = np.asarray(getattr(self, name), float)
            boxes = boxes.reshape(0, 6) if boxes.size == 0 else boxes
            if boxes.ndim != 2 or boxes.shape[1] != 6 or not np.isfinite(boxes).all() or (boxes[:, 3:] <= 0).any():
                raise ValueError(f"A box is {boxes.tolist()}, expected x, y, z and positive dx, dy, dz in mm.")
            object.__setattr__(self, name, boxes)
        probabilities = np.asarray(self.probabilities, float).reshape(-1)
        if len(probabilities) != len(self.boxes) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(
                f"The probabilities are {probabilities.tolist()}, expected one from 0 to 1 for each of "
                f"{len(self.boxes)} boxes."
            )
        object.__setattr__(self, "probabilities", probabilities)


@dataclass(frozen=True)
class Froc:
    """Sensitivity against false positives per scan.

    Attributes:
        false_positives: per scan, ascending along the curve from 0.
        sensitivity: at those points.
        at: false positives per scan, as "0.5" -> sensitivity, linear between points of the curve, flat after its end.
        mean: of the sensitivities in `at`; NaN without a true box.
        scans: number of scans.
        lesions: number of true boxes.
    """

    false_positives: np.ndarray
    sensitivity: np.ndarray
    at: dict[str, Interval]
    mean: Interval
    scans: int
    lesions: int

    def to_dict(self) -> dict[str, object]:
        """For JSON: None where undefined."""
        curve = {"false_positives": json_value(self.false_positives), "sensitivity": json_value(self.sensitivity)}
        at = {rate: interval.to_dict() for rate, interval in self.at.items()}
        return {"scans": self.scans, "lesions": self.lesions, "mean": self.mean.to_dict(), "at": at, "curve": curve}


def box_iou_mm(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of every box with every other, (n, 6) and (m, 6) in mm -> (n, m) float64.

    In float64, because MONAI's `box_iou` computes in float32, which leaves 1e-5 on a nodule 400 mm from the corner.
    """
    boxes, others = np.asarray(boxes, float)[:, None], np.asarray(others, float)[None]
    low = np.maximum(boxes[..., :3], others[..., :3])
    high = np.minimum(boxes[..., :3] + boxes[..., 3:], others[..., :3] + others[..., 3:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    return both / (boxes[..., 3:].prod(axis=-1) + others[..., 3:].prod(axis=-1) - both)


def match_detections(scan: ScanBoxes, iou: float = 0.1) -> np.ndarray:
    """Which true box each detection finds.

    Args:
        scan: detections and truth.
        iou: smallest IoU of a hit.

    Returns:
        (d,) index of the true box, -1 for a false positive, -2 for a further hit of a box that is already found.
    """
    overlaps = box_iou_mm(scan.boxes, scan.truth)
    found = np.full(len(scan.boxes), -1)
    free = np.ones(len(scan.truth), dtype=bool)
    for detection in np.argsort(-scan.probabilities, kind="stable"):
        hits = overlaps[detection] >= iou
        if (hits & free).any():
            found[detection] = np.where(hits & free, overlaps[detection], -1).argmax()
            free[found[detection]] = False
        elif hits.any():
            found[detection] = -2
    return found


def froc(
    scans: Sequence[ScanBoxes],
    false_positives: Sequence[float] = FALSE_POSITIVES,
    *,
    iou: float = 0.1,
    repeated: str = "false_positive",
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Froc:
    """FROC curve and its sensitivities, with bootstrap intervals over scans.

    Args:
        scans: every scan, also those without a detection or a true box.
        false_positives: per scan, at which the sensitivity is read.
        iou: smallest IoU of a hit.
        repeated: what a further hit of a found box counts: "false_positive", or "nothing" as in LUNA16.
        draws: bootstrap resamples of the scans, 0 for none.
        level: coverage of the intervals.
        seed: of the resamples.
        groups: patient of every scan.

    Raises:
        ValueError: without a scan, for another `repeated`, or an `iou` outside (0, 1].
    """
    if repeated not in ("false_positive", "nothing") or not 0 < iou <= 1 or not len(scans):
        raise ValueError(
            f"FROC of {len(scans)} scans with iou={iou} and repeated={repeated!r}, expected a scan, an IoU in (0, 1] "
            "and 'false_positive' or 'nothing'."
        )
    found = np.concatenate([match_detections(scan, iou) for scan in scans])
    probability = np.concatenate([scan.probabilities for scan in scans])
    scan_of = np.repeat(np.arange(len(scans)), [len(scan.boxes) for scan in scans])
    order = np.argsort(-probability, kind="stable")
    order = order[(found[order] != -2) | (repeated == "false_positive")]
    hit, scan_of, probability = found[order] >= 0, scan_of[order], probability[order]
    # Detections of one probability are accepted together. MONAI's compute_froc_curve_data leaves the lowest probability
    # out, so a detector that is always certain would have no curve; and its cost is quadratic.
    last = np.flatnonzero(np.append(np.diff(probability) != 0, True)) if len(order) else np.empty(0, int)
    lesions = np.array([len(scan.truth) for scan in scans])

    def curve(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = weights[scan_of]
        hits, misses = (np.append(0, np.cumsum(counts * kind)[last]) for kind in (hit, ~hit))
        total = float(weights @ lesions)
        return misses / weights.sum(), hits / total if total else np.full(len(hits), np.nan)

    def sensitivities(cases: np.ndarray) -> np.ndarray:
        rate, sensitivity = curve(np.bincount(cases, minlength=len(scans)).astype(float))
        read = [compute_froc_score(rate[::-1], sensitivity[::-1], (at,)) for at in false_positives]
        return np.array([*read, np.mean(read)])

    names = (*(f"{rate:g}" for rate in false_positives), "mean")
    at = bootstrap_intervals(sensitivities, names, len(scans), draws, level, seed, groups)
    mean = at.pop("mean")
    return Froc(*curve(np.ones(len(scans))), at, mean, len(scans), int(lesions.sum()))


def paired_overlap(scan: ScanBoxes) -> tuple[np.ndarray, np.ndarray]:
    """IoU of every true box with the detection paired with it, and the distance of their centres.

    Args:
        scan: detections and truth; leave out improbable detections before.

    Returns:
        IoU (t,), 0 for a box that no detection overlaps; distance (t,) in mm, NaN for such a box.
    """
    overlaps = box_iou_mm(scan.truth, scan.boxes)
    iou, distance = np.zeros(len(scan.truth)), np.full(len(scan.truth), np.nan)
    for truth, detection in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
        if overlaps[truth, detection] > 0:
            iou[truth] = overlaps[truth, detection]
            centres = (boxes[:3] + boxes[3:] / 2 for boxes in (scan.truth[truth], scan.boxes[detection]))
            distance[truth] = np.linalg.norm(np.subtract(*centres))
    return iou, distance
