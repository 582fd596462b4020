"""Findings that an X-ray report names and the 18 labels of CT-RATE do not, drawn into the CT of a virtual patient.

They are drawn after the findings of CT-RATE, each by its own random stream, and leave those findings visible. Edema is
drawn as what a CT shows of it, so the CT then has septal thickening and ground-glass opacity, and their labels, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from common.data.virtual.body import POWER, REGION_ID
from common.data.virtual.findings import CT_RATE_LABELS, DRAWERS, Finding, Painter
from common.data.virtual.geometry import smooth_field, stream

XRAY_FINDINGS = ("Enlarged Cardiomediastinum", "Edema", "Pleural Other", "Pneumothorax", "Fracture")
# How often each finding is drawn for an X-ray study. X-rays are taken of other people than CTs, more of them healthy;
# the shares follow MIMIC-CXR, the rare ones raised so that a few hundred patients hold enough of them.
XRAY_PREVALENCE = dict(
    zip(
        (*CT_RATE_LABELS, *XRAY_FINDINGS),
        (
            0.22, 0.20, 0.17, 0.03, 0.15, 0.07, 0.10, 0.10, 0.18, 0.20, 0.17, 0.10, 0.20, 0.04, 0.06, 0.12, 0.05, 0.05,
            0.04, 0.10, 0.05, 0.06, 0.06,
        ),
        strict=True,
    )
)  # fmt: skip
SEPTAL, OPACITY = "Interlobular septal thickening", "Lung opacity"
LOBES = range(1, 6)  # region ids


def draw_xray_findings(seed: int, scan: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw what the X-ray study of scan ``scan`` of patient ``seed`` shows, with the prevalence of X-ray patients.

    Returns:
        The ``findings`` and the ``xray_findings`` of `common.data.virtual.patient.make_virtual_patient`.
    """
    chance = stream(seed, f"x-ray findings/{scan}").random(len(XRAY_PREVALENCE))
    drawn = [name for (name, share), c in zip(XRAY_PREVALENCE.items(), chance, strict=True) if c < share]
    return tuple(n for n in drawn if n in CT_RATE_LABELS), tuple(n for n in drawn if n in XRAY_FINDINGS)


def paint_xray_findings(p: Painter, names: Sequence[str]) -> tuple[Finding, ...]:
    """Paint those of ``XRAY_FINDINGS`` that are in ``names`` onto a canvas that holds the findings of CT-RATE.

    Returns:
        The painted findings; their label is the name. What edema adds of CT-RATE's goes to those of the painter.
    """
    for name, draw in _DRAWERS.items():
        if name in names:
            p.label = name
            draw(p, stream(p.body.seed, f"{name}/{p.scan}"))
    extra = tuple(f for f in p.findings if f.label not in CT_RATE_LABELS)
    p.findings = sorted(
        (f for f in p.findings if f.label in CT_RATE_LABELS), key=lambda f: CT_RATE_LABELS.index(f.label)
    )
    return extra


def _depth(p: Painter) -> np.ndarray:
    """Return about how many body mm a voxel lies inside the inner surface of the chest wall, float32 (D, H, W)."""
    return ((1 - p.body.cavity(*p.grid.axes)) * (100 / POWER)).astype(np.float32)


def _focal_depth(p: Painter, side: int) -> float:
    """Return how deep below the chest wall of a side (-1 right, 1 left) the outermost focal finding begins, body mm."""
    focal = ("Lung nodule", OPACITY, "Consolidation", "Atelectasis", "Pulmonary fibrotic sequela")
    depths = [np.inf]
    for f in p.findings:
        x, y, z = (c / p.grid.scale for c in f.centre_mm)
        if f.label in focal and x * side < 0:
            at = (1 - p.body.cavity(*(np.array([c]) for c in (z, -y, -x)))[0]) * (100 / POWER)
            depths.append(at - (f.size_mm / 2 / p.grid.scale if f.label == "Lung nodule" else 2))
    return min(depths)


def _clear(p: Painter, where: np.ndarray) -> None:
    """What is no longer lung shows no lesion of it."""
    p.canvas.lung &= ~where
    for name in ("consolidation", "ground-glass opacity", "lung nodule"):
        p.lesions[name][where] = 0


def _enlarged_cardiomediastinum(p: Painter, rng: np.random.Generator) -> None:
    grade = rng.random()
    canvas = p.canvas
    free = np.isin(canvas.regions, [*LOBES, REGION_ID["mediastinum"], REGION_ID["aorta"]])
    for mask in p.lesions.values():
        free &= mask == 0
    if rng.random() < 0.5:
        points, radii = canvas.paths["aorta"]
        index, cover = canvas.stamper.stamp(points, radii * (1.7 + 0.6 * grade))
        kind, region, centre, size = "aortic aneurysm", "aorta", (64, 0, 8), 30 * (1.7 + 0.6 * grade)
        value = p.body.blood[1]
    else:
        side = rng.choice((-1, 1))
        centre = np.array([rng.uniform(42, 62), -34, 16 * side])
        radii = np.array([36, 26, 34]) * (1 + 0.3 * grade)
        box, part = p.blob(rng, centre, radii, rough=0.2, cell=20)
        whole = np.zeros(p.grid.shape, np.float32)
        whole[box] = part
        index = np.flatnonzero(whole)
        cover = whole.reshape(-1)[index]
        kind, region, size, value = "mediastinal mass", "mediastinum", 2 * radii.max(), rng.uniform(40, 60)
    inside = free.reshape(-1)[index]
    index, cover = index[inside], cover[inside]
    canvas.blend(index, cover, value)
    solid = index[cover >= 0.5]
    canvas.regions.reshape(-1)[solid] = REGION_ID[region]
    canvas.lung.reshape(-1)[solid] = False
    p.note(kind, region, centre, size, grade)


def _edema(p: Painter, rng: np.random.Generator) -> None:
    grade = rng.random()
    if not any(f.label == SEPTAL for f in p.findings):
        p.label = SEPTAL
        DRAWERS[SEPTAL](p, stream(p.body.seed, f"{SEPTAL}/{p.scan}"))
    p.label = OPACITY
    for side in (-1, 1):
        centre = np.array([-4, 12, 50 * side])
        radii = np.array([58, 48, 36]) * (0.85 + 0.35 * grade)
        box, cover = p.blob(rng, centre, radii, rough=0.4, cell=24)
        haze = p.canvas.lung[box] & (p.canvas.hu[box] < -500) & (p.canvas.hu[box] > -960)
        p.fill(box, 0.9 * cover, -600 + 130 * grade, haze & (cover > 0))
        p.lesions["ground-glass opacity"][box] |= (haze & (cover >= 0.5)).view(np.uint8)
        p.note("perihilar ground-glass opacity", p.lobe_of(centre), centre, 2 * radii.max(), grade)
    for name in ("consolidation", "lung nodule"):
        p.lesions["ground-glass opacity"] &= 1 - p.lesions[name]
    p.label = "Edema"
    p.note("pulmonary edema", "right lower lobe", (-4, 12, -50), 116 * (0.85 + 0.35 * grade), grade, "bilateral")


def _pleural_other(p: Painter, rng: np.random.Generator) -> None:
    kind = str(rng.choice(["pleural thickening", "apical pleural thickening", "calcified pleural plaques"]))
    sides = ((-1,), (1,), (-1, 1))[rng.integers(3)]
    grade = rng.random()
    z, y, x = p.grid.axes
    field = smooth_field(p.grid, rng, 34)
    depth = _depth(p)
    if kind == "apical pleural thickening":
        thick = (9 + 7 * grade) * np.clip((z - 62) / 20, 0, 1) * np.clip(1 + 0.3 * field, 0.5, 1.5)
        centre, value = (92, 8, 70), 40.0
    elif kind == "pleural thickening":
        thick = (7 + 6 * grade) * np.clip(1 + 0.4 * field, 0, 1.6) * np.clip((60 - z) / 40, 0, 1)
        centre, value = (-20, 10, 118), 40.0
    else:  # islands of calcium
        thick = (4.5 + 3 * grade) * np.clip(2.5 * field, 0, 1) * np.clip((70 - z) / 40, 0, 1)
        centre, value = (0, 20, 118), rng.uniform(450, 650)
    cover = np.clip((thick - depth) / np.float32(p.grid.voxel.mean()) + 0.5, 0, 1)
    for side in sides:
        where = p.canvas.lung & (x * side > 0) & (thick > 1.5) & (cover > 0)
        hu = p.canvas.hu
        np.copyto(hu, hu + cover * (np.float32(value) - hu), where=where)
        _clear(p, where & (cover >= 0.5))
        region = f"{'right' if side < 0 else 'left'} {'upper' if kind.startswith('apical') else 'lower'} lobe"
        p.note(kind, region, np.multiply(centre, (1, 1, side)), float(thick.max()), grade)


def _pneumothorax(p: Painter, rng: np.random.Generator) -> None:
    side = int(rng.choice((-1, 1)))
    wanted = rng.uniform(12, 36)
    room = {s: _focal_depth(p, s) for s in (-1, 1)}
    if room[side] < min(wanted, room[-side]):
        side = -side
    # No deeper than the outermost focal finding: the air would hide it.
    gap = float(np.clip(room[side], 9, wanted))
    z, y, x = p.grid.axes
    # Air rises to the apex; at the base the lung nearly touches the wall.
    edge = gap * (0.3 + 0.7 * np.clip((z + 70) / 130, 0, 1)) - _depth(p)
    voxel = np.float32(p.grid.voxel.mean())
    lung = p.canvas.lung & (x * side > 0)
    hu = p.canvas.hu
    # The lung is smaller, so denser; its surface is a line.
    np.copyto(hu, hu * (1 - 0.008 * gap) + 50 * 0.008 * gap, where=lung & (hu < -600))
    line = np.clip(1 - np.abs(edge) / np.maximum(voxel, 1.5), 0, 1) * np.minimum(1, 2.2 / voxel)
    np.copyto(hu, hu + line * (20 - hu), where=lung & (edge > -3 * voxel))
    air = lung & (edge > 0)
    cover = np.clip(edge / voxel, 0, 1)
    np.copyto(hu, hu + cover * (-1000 - hu), where=air)
    _clear(p, air)
    name = f"{'right' if side < 0 else 'left'} upper lobe"
    p.note("pneumothorax", name, (75, 5, 95 * side), gap, (gap - 9) / 27)


def _fracture(p: Painter, rng: np.random.Generator) -> None:
    side = int(rng.choice((-1, 1)))
    region = "right ribs" if side < 0 else "left ribs"
    y0 = rng.uniform(30, 68)
    first = int(rng.integers(-2, 1))
    for k in range(first, first + int(rng.integers(1, 4))):
        y = np.arange(y0 - 22, y0 + 22, 1.0)
        z = 0.42 * y + 10.5 + 27 * k
        across = np.arange(0, 160, 0.25)
        shell = p.body.cavity(z[:, None], y[:, None], across[None]) - (1 + 6 * POWER / 105)
        path = np.stack([z, y, side * across[np.abs(shell).argmin(1)]], 1)
        shift = rng.uniform(8, 12)
        _break(p, path, shift, REGION_ID[region])
        p.note("displaced rib fracture", region, path[len(path) // 2], shift, (shift - 8) / 4)


def _break(p: Painter, path: np.ndarray, shift: float, region: int) -> None:
    """Replace a rib along ``path`` by two fragments whose ends part by ``shift`` body mm in height."""
    canvas = p.canvas
    outside = np.isin(canvas.regions, LOBES, invert=True)
    canvas.stamp(path, np.full(len(path), 7.5), 45.0, outside, REGION_ID["chest wall"])
    t = np.linspace(-1, 1, len(path))
    moved = path.copy()
    moved[:, 0] += np.sign(t) * (1 - np.abs(t)) * shift / 2
    for fragment in (moved[t < -0.06], moved[t > 0.06]):
        for radius, value in ((5.2, 720.0), (3.0, p.body.bone_hu)):
            canvas.stamp(fragment, np.full(len(fragment), radius), value, region=region)


_DRAWERS: dict[str, Callable[[Painter, np.random.Generator], None]] = {
    "Enlarged Cardiomediastinum": _enlarged_cardiomediastinum,
    "Edema": _edema,
    "Pleural Other": _pleural_other,
    "Pneumothorax": _pneumothorax,
    "Fracture": _fracture,
}
