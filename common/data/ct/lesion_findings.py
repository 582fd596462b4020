"""From a lesion map and a region map to findings that a report can describe: what, where, how large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects, label

from common.data.ct.reader import load_image
from common.data.virtual.body import REGIONS
from common.io.bad_input import BadInput
from common.text.template_facts import DescribedFinding

__all__ = ["LESION_LABELS", "lesion_findings", "read_lesion_findings"]

LESION_LABELS = (
    ("Pericardial effusion", "effusion"),
    ("Pleural effusion", "free effusion"),
    ("Consolidation", "consolidation"),
    ("Lung opacity", "ground-glass opacity"),
    ("Lung nodule", "nodule"),
)
"""Label and kind of the values 1 to 5 of a lesion map."""

# Upper limits of "mild" and "moderate": millilitres together, and millimetres across for nodules. A pleural effusion
# is called small up to about 300 ml and large from about a litre, a pericardial one up to 100 and from 500 ml.
_LIMITS = {
    "Pericardial effusion": (100.0, 500.0),
    "Pleural effusion": (300.0, 1000.0),
    "Consolidation": (50.0, 300.0),
    "Lung opacity": (50.0, 300.0),
    "Lung nodule": (8.0, 20.0),
}
# The extent of a fluid that surrounds an organ says nothing about its depth, so it is not given as a size.
_FLUIDS = ("Pericardial effusion", "Pleural effusion")
_SMALLEST_SHARE = 0.05  # of the largest lesion of the kind; what is smaller is a fragment of a mask
_MOST = 6
_CUBE = np.ones((3, 3, 3), bool)


def read_lesion_findings(lesions: str | Path, regions: str | Path) -> list[DescribedFinding]:
    """Findings of one case from its two files, see `lesion_findings`.

    Raises:
        BadInput: for a damaged file, values that no lesion or region has, or maps of different geometry.
    """
    lesions, regions = Path(lesions), Path(regions)
    maps = {}
    for path, highest in ((lesions, len(LESION_LABELS)), (regions, len(REGIONS))):
        values, affine = load_image(path)
        wrong = values[(values != np.round(values)) | (values < 0) | (values > highest)]
        if wrong.size:
            raise BadInput(path, f"holds the value {wrong.flat[0]:g}, expected whole numbers from 0 to {highest}")
        maps[path] = values.astype(np.uint8), affine
    (lesion_map, affine), (region_map, other) = maps[lesions], maps[regions]
    if lesion_map.shape != region_map.shape or not np.allclose(affine, other, atol=1e-3):
        raise BadInput(lesions, f"does not match the regions {regions} in shape or geometry")
    return lesion_findings(lesion_map, region_map, affine)


def lesion_findings(lesions: np.ndarray, regions: np.ndarray, affine: np.ndarray) -> list[DescribedFinding]:
    """Describe the connected lesions of a map, the largest six of a kind; fragments are left out.

    Args:
        lesions: (x, y, z) 0 or 1 to 5 in the order of ``LESION_LABELS``.
        regions: (x, y, z) 0 or 1 to 20 in the order of ``common.data.virtual.body.REGIONS``.
        affine: (4, 4) voxel indices to RAS millimetres.

    Returns:
        By label; the region is the one that most of a lesion lies in, the size its largest extent along an axis of the
        grid in mm (None for effusions), the severity from the volume of all lesions of the label, of nodules from the
        size of each.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    millilitres = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    findings = []
    for value, (name, kind) in enumerate(LESION_LABELS, 1):
        mask = lesions == value
        if not mask.any():
            continue
        parts, count = label(mask, _CUBE)
        voxels = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        volume = float(voxels.sum()) * millilitres
        boxes = find_objects(parts)
        for i in np.argsort(-voxels, kind="stable")[:_MOST]:
            if voxels[i] < _SMALLEST_SHARE * voxels.max():
                break
            box = boxes[i]
            size = float(max((s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)))
            region = _region(regions[box][parts[box] == i + 1])
            side = "midline" if name == "Pericardial effusion" else next(
                (side for side in ("right", "left") if region.startswith(side)), ""
            )  # fmt: skip
            severity = _severity(name, size if name == "Lung nodule" else volume)
            findings.append(DescribedFinding(name, kind, region, side, None if name in _FLUIDS else size, severity))
    return findings


def _region(ids: np.ndarray) -> str:
    counts = np.bincount(ids, minlength=len(REGIONS) + 1)[1:]
    return REGIONS[int(counts.argmax())] if counts.any() else ""


def _severity(name: str, amount: float) -> str:
    mild, moderate = _LIMITS[name]
    return "mild" if amount < mild else "moderate" if amount < moderate else "severe"
