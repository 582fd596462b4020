"""The virtual patient: a seeded chest CT with anatomy, lesion masks and the 18 labels of CT-RATE.

    >>> patient = make_virtual_patient(seed=7, findings=["Lung nodule"])
    >>> patient.ct.shape, patient.labels["Lung nodule"]
    ((192, 192, 96), 1)

The body is drawn in millimetres of an adult and scaled down, if need be, to fit the field of view; the same seed is the
same person at every size and spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.virtual.anatomy import paint_chest
from common.data.virtual.body import REGION_SWAP, REGIONS, Body
from common.data.virtual.findings import CT_RATE_LABELS, LESIONS, Finding, Painter, draw_labels, heart_scale
from common.data.virtual.geometry import Grid, stream
from common.data.virtual.mediastinum import paint_mediastinum
from common.data.virtual.scanner import scan as image
from common.data.virtual.xray_findings import XRAY_FINDINGS, paint_xray_findings

__all__ = [
    "CT_RATE_LABELS", "LESIONS", "REGIONS", "REGION_SWAP", "Finding", "VirtualPatient", "lesion_map",
    "make_virtual_patient", "thick_reconstruction", "virtual_labels", "virtual_person",
]  # fmt: skip

SHAPE = (96, 192, 192)
SPACING = (1.5, 1.0, 1.0)


@dataclass(frozen=True)
class VirtualPatient:
    """One CT of one virtual patient; all volumes are (x, y, z) with x to the left, y to the back and z up (LPS).

    Attributes:
        case: name, "virtual_" and the seed with six digits; a scan other than the first has its number appended.
        seed: the seed.
        ct: int16 HU.
        affine: float64 (4, 4), voxel indices to RAS millimetres.
        regions: uint8, 0 outside and 1..20 in the order of ``REGIONS``.
        lesions: uint8 0/1 masks in the order of ``LESIONS``.
        labels: 0 or 1 for each of ``CT_RATE_LABELS``, in that order.
        findings: what was drawn.
        sex: "F" or "M".
        age: years.
        spacing: millimetres along (z, y, x).
        scale: millimetres of the image per millimetre of an adult, at most 1.
        contrast: whether contrast medium was given.
        kernel: "smooth" or "sharp".
        scan: which scan of this person.
        xray_findings: what was drawn beyond the labels of CT-RATE; ``label`` is one of ``XRAY_FINDINGS``.
    """

    case: str
    seed: int
    ct: np.ndarray
    affine: np.ndarray
    regions: np.ndarray
    lesions: dict[str, np.ndarray]
    labels: dict[str, int]
    findings: tuple[Finding, ...]
    sex: str
    age: int
    spacing: tuple[float, float, float]
    scale: float
    contrast: bool
    kernel: str
    scan: int = 0
    xray_findings: tuple[Finding, ...] = ()


def make_virtual_patient(
    seed: int,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    findings: Sequence[str] | None = None,
    noise_hu: float = 12.0,
    kernel: str = "smooth",
    scan: int = 0,
    xray_findings: Sequence[str] = (),
) -> VirtualPatient:
    """Make a virtual patient.

    Args:
        seed: non-negative; decides the anatomy, the findings and the noise, each by its own stream.
        shape: voxels along (z, y, x).
        spacing: millimetres along (z, y, x).
        findings: exactly these of ``CT_RATE_LABELS``; None draws them with the prevalence of CT-RATE.
        noise_hu: noise in the middle of the body for 1.5 mm slices and the smooth kernel.
        kernel: "smooth" or "sharp".
        scan: which scan of this person: the same anatomy with other findings and other noise.
        xray_findings: draw these of ``XRAY_FINDINGS`` too; nothing else changes. Edema also shows as septal
            thickening and lung opacity and sets those labels.

    Raises:
        ValueError: if an argument is not usable.
    """
    labels = virtual_labels(seed, scan, findings)
    for name in xray_findings:
        if name not in XRAY_FINDINGS:
            raise ValueError(f"xray_findings has {name!r}, which is not one of {', '.join(XRAY_FINDINGS)}.")
    grid = Grid.fit(shape, spacing)
    body = Body.draw(seed)
    canvas = paint_chest(grid, body, heart_scale(seed, scan, labels))
    paint_mediastinum(canvas)
    painter = Painter(canvas, scan)
    painter.paint(labels)
    extra_findings = paint_xray_findings(painter, xray_findings)
    labels = {*labels, *(finding.label for finding in painter.findings)}
    ct = image(canvas.hu, grid, stream(seed, f"noise/{scan}"), noise_hu, kernel)
    return VirtualPatient(
        case=f"virtual_{seed:06d}" + (f"_{scan}" if scan else ""),
        seed=seed,
        ct=ct.T,
        affine=grid.affine,
        regions=canvas.regions.T,
        lesions={name: mask.T for name, mask in painter.lesions.items()},
        labels={name: int(name in labels) for name in CT_RATE_LABELS},
        findings=tuple(painter.findings),
        sex=body.sex,
        age=body.age,
        spacing=grid.spacing,
        scale=grid.scale,
        contrast=body.blood[1] > 100,
        kernel=kernel,
        scan=scan,
        xray_findings=extra_findings,
    )


def virtual_labels(seed: int, scan: int = 0, findings: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the labels that a scan of a patient has, drawn unless ``findings`` are given, without making it.

    Raises:
        ValueError: if the seed is negative or a finding is unknown.
    """
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise ValueError(f"seed {seed} is not a whole number of at least 0.")
    if findings is None:
        return draw_labels(seed, scan)
    for name in findings:
        if name not in CT_RATE_LABELS:
            raise ValueError(f"finding {name!r} is not one of the 18 CT-RATE labels.")
    return tuple(name for name in CT_RATE_LABELS if name in findings)


def virtual_person(seed: int) -> tuple[str, int]:
    """Return the sex ("F" or "M") and the age in years of patient ``seed``, without imaging them."""
    body = Body.draw(seed)
    return body.sex, body.age


def thick_reconstruction(patient: VirtualPatient, ratio: int) -> tuple[np.ndarray, np.ndarray]:
    """Average slabs of thin slices, as a scanner reconstructs thick ones.

    Args:
        patient: the patient.
        ratio: thin slices per slab, from the first slice on; the remainder is dropped.

    Returns:
        int16 (x, y, z // ratio), the rounded means of the thin slices, and the affine (4, 4) at the slab centres.

    Raises:
        ValueError: if the ratio is not between 1 and the number of slices.
    """
    ct, n = patient.ct, patient.ct.shape[2]
    if int(ratio) != ratio or not 1 <= ratio <= n:
        raise ValueError(f"ratio {ratio} is not a whole number between 1 and the {n} thin slices.")
    ratio = int(ratio)
    slabs = ct[:, :, : n // ratio * ratio].reshape(*ct.shape[:2], n // ratio, ratio)
    affine = patient.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (ratio - 1) / 2
    affine[:3, 2] *= ratio
    return np.rint(slabs.mean(3, dtype=np.float32)).astype(np.int16), affine


def lesion_map(patient: VirtualPatient) -> np.ndarray:
    """Return one uint8 map (x, y, z), 0 or 1..5 in the order of ``LESIONS``; the later lesion wins an overlap."""
    first = next(iter(patient.lesions.values()))
    out = np.zeros_like(first)
    for i, name in enumerate(LESIONS, 1):
        out[patient.lesions[name] > 0] = i
    return out
