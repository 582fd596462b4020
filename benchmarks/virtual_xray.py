"""The X-ray of a virtual patient: CPU seconds per image, and what a linear classifier learns from such images.

Prints one JSON line per size (worst view, best of five patients; the patient itself is made before) and one with the
AUROC per label of ridge regression on 24 x 24 means and 24 x 24 details of the image, trained on some patients and
measured on others; .5 is chance. Labels are 1.0 against the rest but -1.0.
"""

import argparse
import json
import platform
import time

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from common.data.virtual.patient import CT_RATE_LABELS, make_virtual_patient
from common.data.virtual.xray import VIEWS, make_virtual_xray
from common.data.virtual.xray_findings import draw_xray_findings
from common.text.cxr_labeller import CHEXPERT_LABELS

SIZES = {512: ((96, 192, 192), (1.5, 1, 1), 1.0), 128: ((48, 96, 96), (3, 2, 2), 0.1)}


def cpu_seconds(size: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> dict[str, float]:
    """View -> CPU seconds of an image, the best of five patients."""
    seconds: dict[str, list[float]] = {view: [] for view in VIEWS}
    for seed in range(5):
        patient = make_virtual_patient(seed, shape, spacing, findings=CT_RATE_LABELS)
        for view, measured in seconds.items():
            start = time.process_time()
            make_virtual_xray(patient, size, view)
            measured.append(time.process_time() - start)
    return {view: min(measured) for view, measured in seconds.items()}


def features(image: np.ndarray) -> np.ndarray:
    """576 means and 576 mean details of an image of 96 x 96 pixels."""
    image = (image - image.mean()) / image.std()
    detail = np.abs(image - gaussian_filter(image, 1.5))
    return np.concatenate([a.reshape(24, 4, 24, 4).mean((1, 3)).ravel() for a in (image, detail)])


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the curve by the ranks of the positive."""
    n = positive.sum()
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


def learnt(count: int) -> dict[str, float]:
    """Label -> AUROC on the last third of the patients."""
    rows, labels = [], []
    for seed in range(count):
        findings, extra = draw_xray_findings(seed)
        patient = make_virtual_patient(seed, (32, 64, 64), (4.5, 3, 3), findings=findings, xray_findings=extra)
        xray = make_virtual_xray(patient, 96)
        rows.append(features(xray.image.astype(float)))
        labels.append(xray.labels)
    x = np.array(rows)
    train = np.arange(count) < count * 2 // 3
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-3)
    result = {}
    for name in CHEXPERT_LABELS:
        values = np.array([np.nan if label[name] is None else label[name] for label in labels])
        y, known = values == 1.0, values != -1.0
        fit, held = train & known, ~train & known
        kernel = x[fit] @ x[fit].T + 300 * np.eye(fit.sum())
        weights = x[fit].T @ np.linalg.solve(kernel, y[fit] - y[fit].mean())
        result[name] = round(auroc(x[held] @ weights, y[held]), 2)
    return result


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=1200, help="that the classifier sees")
    patients = parser.parse_args().patients
    machine = platform.processor() or platform.machine()
    for size, (shape, spacing, limit) in SIZES.items():
        seconds = cpu_seconds(size, shape, spacing)
        worst = max(seconds.values())
        line = {
            "name": "virtual X-ray, CPU seconds",
            "input": f"{size}x{size} of a CT of {'x'.join(map(str, shape))}",
            "ours": round(worst, 3),
            "reference": limit,
            "ratio": round(worst / limit, 3),
            "views": {view: round(value, 3) for view, value in seconds.items()},
        }
        print(json.dumps(line | {"machine": machine}), flush=True)
    found = learnt(patients)
    mean = round(float(np.mean(list(found.values()))), 2)
    line = {"name": "linear classifier on virtual X-rays, AUROC", "input": f"{patients} patients, 96x96"}
    line |= {"ours": mean, "reference": 0.5, "ratio": round(mean / 0.5, 2), "labels": found}
    print(json.dumps(line | {"machine": machine}))


if __name__ == "__main__":
    main()
