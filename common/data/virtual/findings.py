"""The 18 findings of CT-RATE, each drawn into the virtual patient with a seeded place and size.

Every finding has its own random stream, so switching one on or off leaves the others where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.data.virtual.anatomy import Canvas, paint_airways
from common.data.virtual.body import REGION_ID, REGIONS, Body, heart_field
from common.data.virtual.geometry import Box, ellipsoid, polyline, random_turn, smooth_field, stream, turn
from common.text.ct_labels import CT_RATE_LABELS
from common.text.template_facts import SEVERITIES

# How often each finding is drawn, close to the training set of CT-RATE.
CT_RATE_PREVALENCE = dict(
    zip(
        CT_RATE_LABELS,
        (0.12, 0.28, 0.11, 0.07, 0.25, 0.14, 0.25, 0.19, 0.26, 0.45, 0.37, 0.27, 0.12, 0.08, 0.10, 0.18, 0.10, 0.08),
        strict=True,
    )
)
LESIONS = ("pericardial effusion", "pleural effusion", "consolidation", "ground-glass opacity", "lung nodule")


@dataclass(frozen=True)
class Finding:
    """One finding as a reader would describe it.

    Attributes:
        label: one of ``CT_RATE_LABELS``.
        kind: what it looks like, for example "pacemaker" or "part-solid nodule".
        region: one of ``REGIONS``.
        side: "right", "left", "midline" or "bilateral".
        centre_mm: RAS millimetres of the image (x, y, z).
        size_mm: largest extent in millimetres of the image.
        severity: "mild", "moderate" or "severe".
    """

    label: str
    kind: str
    region: str
    side: str
    centre_mm: tuple[float, float, float]
    size_mm: float
    severity: str


def draw_labels(seed: int, scan: int = 0) -> tuple[str, ...]:
    """Draw which findings scan ``scan`` of patient ``seed`` has, with the prevalence of CT-RATE."""
    chance = stream(seed, f"labels/{scan}").random(len(CT_RATE_LABELS))
    return tuple(name for name, c in zip(CT_RATE_LABELS, chance, strict=True) if c < CT_RATE_PREVALENCE[name])


def heart_scale(seed: int, scan: int, labels: Sequence[str]) -> float:
    """Return the size of the heart relative to normal, above 1 with cardiomegaly."""
    return float(stream(seed, f"Cardiomegaly/{scan}").uniform(1.18, 1.32)) if "Cardiomegaly" in labels else 1.0


class Painter:
    """Draws findings on a canvas and keeps their masks and their description."""

    def __init__(self, canvas: Canvas, scan: int = 0) -> None:
        self.canvas, self.grid, self.body = canvas, canvas.grid, canvas.body
        self.scan = scan
        self.lesions = {name: np.zeros(self.grid.shape, np.uint8) for name in LESIONS}
        self.findings: list[Finding] = []
        self.sites = _sites(self.body)
        self.label = ""

    def paint(self, labels: Sequence[str]) -> None:
        """Paint the findings ``labels``; what fills the chest goes first, what lies in the lung after it."""
        for label, draw in DRAWERS.items():
            if label in labels:
                self.label = label
                draw(self, stream(self.body.seed, f"{label}/{self.scan}"))
        self.findings.sort(key=lambda f: CT_RATE_LABELS.index(f.label))
        # A voxel shows only what was painted last.
        solid = self.lesions["consolidation"] | self.lesions["lung nodule"]
        self.lesions["ground-glass opacity"] &= 1 - solid
        self.lesions["consolidation"] &= 1 - self.lesions["lung nodule"]

    def note(
        self, kind: str, region: str | int, centre: Sequence[float], size: float, grade: float, side: str = ""
    ) -> None:
        """Describe a finding; ``size`` in body mm, ``grade`` 0..1, ``side`` from the position unless given."""
        name = REGIONS[region - 1] if isinstance(region, int) else region
        side = side or ("midline" if abs(centre[2]) < 8 else "left" if centre[2] > 0 else "right")
        severity = SEVERITIES[min(2, int(grade * 3))]
        size_mm = round(float(size) * self.grid.scale, 2)
        self.findings.append(Finding(self.label, kind, name, side, self.grid.world(centre), size_mm, severity))

    def lobe_of(self, point: np.ndarray) -> int:
        """Return the region id of the lobe around a body point."""
        return int(self.body.lobe(*(np.array([c]) for c in point))[0])

    def blob(
        self, rng: np.random.Generator, centre: Sequence[float], radii: Sequence[float],
        rotation: np.ndarray | None = None, rough: float = 0.0, cell: float = 14.0,
    ) -> tuple[Box, np.ndarray]:  # fmt: skip
        """Return a box and how much of its voxels an ellipsoid with a rough edge covers, 0 to 1."""
        voxel = float(self.grid.voxel.mean())
        margin = 1 / (1 - 0.75 * rough) + 0.5 * voxel / min(radii)  # as far as the rough, soft edge can reach
        box, q = ellipsoid(self.grid, centre, radii, rotation, margin)
        r = np.sqrt(np.maximum(q, 0))
        if rough:
            r *= 1 + 0.5 * rough * np.clip(smooth_field(self.grid, rng, cell, box), -1.5, 1.5)
        return box, np.clip(0.5 + (1 - r) * (min(radii) / voxel), 0, 1)

    def fill(self, box: Box, cover: np.ndarray, value: float, where: np.ndarray, mask: str = "") -> None:
        """Mix ``value`` HU into the voxels ``where`` of a box, and note the lesion mask of those half covered."""
        hu = self.canvas.hu[box]
        np.copyto(hu, hu + cover * (value - hu), where=where)
        if mask:
            self.lesions[mask][box] |= (where & (cover >= 0.5)).view(np.uint8)


def _sites(body: Body) -> np.ndarray:
    """Return 24 lung points (z, y, x) far from each other, so that focal findings do not hide one another."""
    rng = stream(body.seed, "sites")
    points = body.lung_points(rng, 1500, 13.0)
    chosen = [points[0]]
    distance = np.full(len(points), np.inf)
    for _ in range(23):
        distance = np.minimum(distance, ((points - chosen[-1]) ** 2).sum(1))
        chosen.append(points[distance.argmax()])
    return rng.permutation(np.array(chosen))


def _pericardial_effusion(p: Painter, rng: np.random.Generator) -> None:
    thick = rng.uniform(8, 20)
    box, q = heart_field(p.grid, p.body, p.canvas.heart_scale, thick)
    z, y, x = p.grid.coords(box)
    regions = p.canvas.regions[box]
    free = (regions <= REGION_ID["left lower lobe"]) | (regions == REGION_ID["mediastinum"])
    # Fluid collects behind the heart.
    where = (q < 1 - 0.2 * np.clip((-20 - y) / 50, 0, 1)) & free & (z > p.body.diaphragm(y, x)) & (regions > 0)
    where &= p.body.cavity(z, y, x) < 0.99
    p.fill(box, np.float32(1), 8.0, where, "pericardial effusion")
    regions[where] = REGION_ID["heart"]
    p.canvas.lung[box] &= ~where
    p.note("effusion", "heart", (-30, -20, 14), thick, (thick - 8) / 12, "midline")


def _cardiomegaly(p: Painter, rng: np.random.Generator) -> None:
    scale = p.canvas.heart_scale
    p.note("enlarged heart", "heart", (-33, -26, 14), 132 * scale, (scale - 1.18) / 0.14, "midline")


def _hiatal_hernia(p: Painter, rng: np.random.Generator) -> None:
    radii = rng.uniform((25, 19, 24), (36, 26, 36))
    centre = np.array([rng.uniform(-58, -44), 18.0, rng.uniform(2, 18)])
    regions = p.canvas.regions
    for shrink, value, limit in ((0.0, 40.0, None), (4.5, 15.0, None), (4.5, -900.0, centre[1] + rng.uniform(-6, 4))):
        box, cover = p.blob(rng, centre, radii - shrink)
        free = ~np.isin(regions[box], [REGION_ID[n] for n in ("heart", "aorta", "spine", "diaphragm")])
        where = free & (cover > 0)
        if limit is not None:
            where &= p.grid.coords(box)[1] < limit
        p.fill(box, cover, value, where)
        regions[box][where & (cover >= 0.5)] = REGION_ID["oesophagus"]
        p.canvas.lung[box] &= ~(where & (cover >= 0.5))
    p.note("sliding hernia", "oesophagus", centre, 2 * radii.max(), (radii[0] - 25) / 11, "midline")


STATIONS = {
    "right paratracheal node": (64, 6, -22), "subcarinal node": (18, 24, 2), "prevascular node": (58, -40, 16),
    "aortopulmonary node": (50, 6, 34), "right hilar node": (14, 10, -42), "left hilar node": (10, 12, 42),
    "left paratracheal node": (92, 14, 14), "right prevascular node": (40, -42, -16),
}  # fmt: skip


def _lymphadenopathy(p: Painter, rng: np.random.Generator) -> None:
    names = rng.choice(sorted(STATIONS), rng.integers(3, 6), replace=False)
    free_ids = [1, 2, 3, 4, 5, REGION_ID["mediastinum"]]
    for name in names:
        centre = np.array(STATIONS[name]) + rng.normal(0, 2, 3)
        radii = np.maximum(rng.uniform(7, 14) * rng.uniform(0.75, 1.15, 3), 0.9 * p.grid.voxel.max())
        value = rng.uniform(45, 65)
        box, cover = p.blob(rng, centre, radii, random_turn(rng))
        where = np.isin(p.canvas.regions[box], free_ids) & (cover > 0)
        p.fill(box, cover, value, where)
        p.canvas.lung[box] &= ~(where & (cover >= 0.5))
        p.note(str(name), "mediastinum", centre, 2 * radii.max(), (radii.max() - 7) / 9)


def _pleural_effusion(p: Painter, rng: np.random.Generator) -> None:
    sides = ((-1,), (1,), (-1, 1))[rng.integers(3)]
    z, y, x = p.grid.axes
    # Fluid falls to the back and the bottom and creeps up the side wall.
    height = (y - 0.3 * z) + 26 * (x / 125) ** 2
    for side in sides:
        share = rng.uniform(0.06, 0.24)
        lung = p.canvas.lung & (x * side > 0)
        level = np.quantile(height[lung][::5], 1 - share)
        where = lung & (height > level)
        whole = tuple(slice(0, n) for n in p.grid.shape)
        p.fill(whole, np.float32(1), rng.uniform(2, 18), where, "pleural effusion")
        p.canvas.lung &= ~where
        lobe = REGION_ID["right lower lobe" if side < 0 else "left lower lobe"]
        p.note("free effusion", lobe, (-70, 65, 75 * side), 400 * share, share / 0.25)


def _shift_lung(p: Painter, delta: np.ndarray) -> None:
    np.copyto(p.canvas.hu, np.maximum(p.canvas.hu + delta, -1010), where=p.canvas.lung)


def _emphysema(p: Painter, rng: np.random.Generator) -> None:
    extent = rng.uniform(0.0, 0.7)
    z = p.grid.axes[0]
    # Holes of lobule size, more of them towards the apex.
    holes = smooth_field(p.grid, rng, 15) + (extent - 0.55) + z / 160
    _shift_lung(p, -115 * np.clip(1.6 * holes, 0, 1))
    for _ in range(rng.integers(1, 5)):
        points = p.body.lung_points(rng, 60, 6.0)
        centre = points[points[:, 0].argmax()]
        box, cover = p.blob(rng, centre, rng.uniform(8, 18) * rng.uniform(0.8, 1.2, 3))
        p.fill(box, cover, -985.0, p.canvas.lung[box])
    p.note("centrilobular emphysema", "right upper lobe", (60, 0, -55), 80 + 170 * extent, extent / 0.7, "bilateral")


def _mosaic(p: Painter, rng: np.random.Generator) -> None:
    depth = rng.uniform(45, 75)
    _shift_lung(p, depth * np.tanh(4 * smooth_field(p.grid, rng, 24)) - 10)
    p.note("mosaic attenuation", "right lower lobe", (-30, 20, -60), 4 * depth, (depth - 45) / 30, "bilateral")


def _opacity(p: Painter, rng: np.random.Generator) -> None:
    for site in p.sites[rng.permutation(np.arange(0, 6))[: rng.integers(1, 5)]]:
        radii = rng.uniform(18, 36) * rng.uniform(0.75, 1.25, 3)
        box, cover = p.blob(rng, site, radii, random_turn(rng), rough=0.35)
        # Haze leaves vessels and airways visible.
        haze = p.canvas.lung[box] & (p.canvas.hu[box] < -560) & (p.canvas.hu[box] > -960)
        p.fill(box, rng.uniform(0.75, 0.95) * cover, rng.uniform(-600, -500), haze & (cover > 0))
        p.lesions["ground-glass opacity"][box] |= (haze & (cover >= 0.5)).view(np.uint8)
        p.note("ground-glass opacity", p.lobe_of(site), site, 2 * radii.max(), (radii.mean() - 18) / 18)


def _septal(p: Painter, rng: np.random.Generator) -> None:
    z = p.grid.axes[0]
    voxel = float(p.grid.voxel.mean())
    sheet = np.float32(max(1.2, 0.8 * voxel))
    cell = 22.0
    # The zero surfaces of two fields cut the lung into lobules.
    near = np.minimum(np.abs(smooth_field(p.grid, rng, cell)), np.abs(smooth_field(p.grid, rng, cell)))
    extent = np.clip(0.8 - z / 110 + 0.4 * smooth_field(p.grid, rng, 70), 0, 1)  # more at the bases
    strength = rng.uniform(330, 480)
    cover = np.clip(1 - near * (0.8 * cell) / sheet, 0, 1) * min(1.0, 1.6 / sheet + 0.25)
    _shift_lung(p, strength * cover * extent)
    p.note(
        "smooth septal lines", "right lower lobe", (-50, 20, -60), 0.4 * strength, (strength - 330) / 150, "bilateral"
    )


def _fibrosis(p: Painter, rng: np.random.Generator) -> None:
    for site in p.sites[6 + rng.permutation(3)[: rng.integers(1, 4)]]:
        reach = rng.uniform(16, 30)
        for _ in range(rng.integers(8, 17)):
            ends = site + rng.normal(0, reach / 1.8, (2, 3))
            middle = ends.mean(0) + rng.normal(0, 3, 3)
            width = rng.uniform(1.0, 2.2)
            points, radii = polyline([ends[0], middle, ends[1]], [width, width, 0.6], 0.7 * float(p.grid.voxel.min()))
            p.canvas.stamp(points, radii, 10.0, p.canvas.lung)
        box, cover = p.blob(rng, site, (reach, reach, reach), rough=0.5)
        p.fill(box, 0.12 * cover, 0.0, p.canvas.lung[box] & (p.canvas.hu[box] > -960))
        p.note("fibrotic bands", p.lobe_of(site), site, 2 * reach, (reach - 16) / 14)


def _peribronchial(p: Painter, rng: np.random.Generator) -> None:
    thick = rng.uniform(1.6, 3.0)
    airways = p.canvas.trees["airway"]
    paint_airways(p.canvas, airways.select(airways.level <= 5), wall=0.3, wall_base=thick)
    # The size is the thickness of a wall.
    p.note("thick bronchial walls", "right bronchi", (15, 15, -50), thick, (thick - 1.6) / 1.4, "bilateral")


def _bronchiectasis(p: Painter, rng: np.random.Generator) -> None:
    airways = p.canvas.trees["airway"]
    for lobe in rng.choice([1, 2, 3, 4, 5], rng.integers(1, 4), replace=False):
        widen = rng.uniform(2.0, 2.8)
        part = airways.select((airways.lobe == lobe) & (airways.level >= 2) & (airways.level <= 6))
        radius = np.clip(part.radius * widen, 2.2, 6.0)
        paint_airways(p.canvas, replace(part, radius=radius), wall=0.2, wall_base=0.9)
        centre = (part.start.mean(0) + part.end.mean(0)) / 2
        p.note("cylindrical bronchiectasis", int(lobe), centre, 2 * radius.max(), (widen - 2) / 0.8)


def _consolidation(p: Painter, rng: np.random.Generator) -> None:
    for site in p.sites[9 + rng.permutation(4)[: rng.integers(1, 3)]]:
        radii = rng.uniform(20, 36) * rng.uniform(0.75, 1.25, 3)
        lobe = p.lobe_of(site)
        box, cover = p.blob(rng, site, radii, random_turn(rng), rough=0.3)
        # It stops at the fissures and leaves air in the bronchi.
        where = p.canvas.lung[box] & (p.canvas.regions[box] == lobe) & (p.canvas.hu[box] > -955) & (cover > 0)
        p.fill(box, cover, rng.uniform(25, 50), where, "consolidation")
        p.note("consolidation", lobe, site, 2 * radii.max(), (radii.mean() - 20) / 16)


def _atelectasis(p: Painter, rng: np.random.Generator) -> None:
    low = sorted(p.sites[13:19].tolist())[: rng.integers(1, 4)]
    for site in low:
        thick = max(rng.uniform(2.5, 5.5), 0.6 * float(p.grid.voxel.mean()))
        radii = np.array([thick, rng.uniform(22, 42), rng.uniform(22, 42)])
        tilt = turn(about_z=rng.uniform(0, 180), about_y=rng.uniform(-40, 40), about_x=rng.uniform(-40, 40))
        box, cover = p.blob(rng, site, radii, tilt, rough=0.2)
        p.fill(box, cover, rng.uniform(-30, 40), p.canvas.lung[box] & (cover > 0))
        p.note("linear atelectasis", p.lobe_of(np.array(site)), site, 2 * radii.max(), (radii.max() - 22) / 20)


def _nodule(p: Painter, rng: np.random.Generator) -> None:
    sites = p.sites[19:24]
    sites = sites[sites[:, 1].argsort()]  # the foremost first, where fluid does not reach
    for i in range(rng.integers(1, 5)):
        radius = float(np.clip(rng.lognormal(np.log(5), 0.45), 2.5, 15))
        if i == 0:  # one that the grid can show
            radius = max(radius, 4.0, 1.35 * float(p.grid.voxel.max()))
        kind = rng.choice(["solid", "solid", "part-solid", "calcified"])
        radii = radius * rng.uniform(0.85, 1.15, 3)
        site = sites[i] + rng.normal(0, 2, 3)
        if kind == "part-solid":
            box, cover = p.blob(rng, site, 1.5 * radii, rough=0.2, cell=10)
            p.fill(box, cover, -580.0, p.canvas.lung[box] & (p.canvas.hu[box] < -580), "lung nodule")
        if radius > 7:  # spicules
            for direction in rng.normal(0, 1, (7, 3)):
                tip = site + direction / np.linalg.norm(direction) * radius * 2
                p.canvas.stamp(*polyline([site, tip], [1.5, 0.4], 0.8), -50.0, p.canvas.lung)
        box, cover = p.blob(rng, site, radii, random_turn(rng), rough=0.15, cell=10)
        value = rng.uniform(250, 500) if kind == "calcified" else rng.uniform(10, 60)
        p.fill(box, cover, value, p.canvas.lung[box] & (cover > 0), "lung nodule")
        p.note(f"{kind} nodule", p.lobe_of(site), site, 2 * radii.max(), (radius - 3) / 9)


def _plaques(
    p: Painter, rng: np.random.Generator, name: str, count: int, size: tuple[float, float], wall: float
) -> np.ndarray:
    """Stamp ``count`` calcified plaques on the wall of a vessel and return their mean position."""
    points, radii = p.canvas.paths[name]
    inner = np.flatnonzero(np.abs(points[:, 0]) < 130)
    at = rng.choice(inner, count)
    out = rng.normal(0, 1, (count, 3))
    along = points[np.minimum(at + 1, len(points) - 1)] - points[np.maximum(at - 1, 0)]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    out -= (out * along).sum(1, keepdims=True) * along
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    centre = points[at] + wall * radii[at, None] * out
    spread = np.cross(out, along) * 2.5  # plaques are longer than thick
    balls = np.concatenate([centre - spread, centre, centre + spread])
    p.canvas.stamp(balls, np.tile(rng.uniform(*size, count), 3), rng.uniform(700, 1100))
    return centre.mean(0)


def _arterial_calcification(p: Painter, rng: np.random.Generator) -> None:
    count = int(rng.integers(7, 26))
    centre = _plaques(p, rng, "aorta", count, (1.6, 3.6), 0.95)
    p.note("aortic wall plaques", "aorta", centre, 5 * count, (count - 7) / 19, "midline")


def _coronary_calcification(p: Painter, rng: np.random.Generator) -> None:
    names = rng.choice(["circumflex", "left anterior descending", "right coronary"], rng.integers(1, 4), replace=False)
    for name in names:
        count = int(rng.integers(4, 10))
        centre = _plaques(p, rng, str(name), count, (2.0, 3.2), 0.5)
        side = "right" if name == "right coronary" else "left"
        p.note(f"{name} plaques", "heart", centre, 4 * count, (count - 4) / 6, side)


def _medical_material(p: Painter, rng: np.random.Generator) -> None:
    kind = rng.choice(["pacemaker", "central venous catheter", "port catheter", "sternal wires"])
    cava, _ = p.canvas.paths["vena cava"]
    jitter = rng.normal(0, 4, 3)
    step = 0.6 * float(p.grid.voxel.min())
    tubes, balls, centre = [], None, np.array([60.0, -20.0, -24.0])
    if kind == "sternal wires":
        turns = np.linspace(0, 2 * np.pi, 17)
        for z in np.linspace(-40, 70, 6) + jitter[0]:
            y = float(p.body.front(np.array(z))) - 7
            tubes.append(np.stack([z + 2 * np.sin(2 * turns), y + 9 * np.sin(turns), 15 * np.cos(turns)], 1))
        centre, region, size = np.array([15.0 + jitter[0], -98.0, 0.0]), "chest wall", 110
    else:
        end = {"pacemaker": [(-20, -20, -28), (-50, -45, 20)], "port catheter": [(5, -14, -30)]}.get(str(kind), [])
        down = [*cava[:: max(1, len(cava) // 4)], *np.array(end, float).reshape(-1, 3)]
        side = 1 if kind == "pacemaker" else -1
        pocket = np.array([82, -84, 80 * side]) + jitter
        vein = [(100, -50, 50 * side), (112, -12, 20 * side)]
        tubes.append(np.concatenate([pocket[None], vein, down]) if kind != "central venous catheter" else
                     np.concatenate([[(136, -4, -40)], down]))  # fmt: skip
        region, size, centre = "superior vena cava", 150, centre + jitter
        if kind == "pacemaker":
            balls = (pocket, (22, 6, 24))
        elif kind == "port catheter":
            balls = (pocket, (11, 7, 11))
    for points in tubes:
        p.canvas.stamp(*polyline(points, np.full(len(points), 1.5), step), 2600.0)
    if balls:
        box, cover = p.blob(rng, *balls)
        p.fill(box, cover, 2900.0, cover > 0)
    p.note(str(kind), region, centre, size, 0.5)


DRAWERS: dict[str, Callable[[Painter, np.random.Generator], None]] = {
    "Cardiomegaly": _cardiomegaly,
    "Pericardial effusion": _pericardial_effusion,
    "Hiatal hernia": _hiatal_hernia,
    "Pleural effusion": _pleural_effusion,
    "Lymphadenopathy": _lymphadenopathy,
    "Emphysema": _emphysema,
    "Mosaic attenuation pattern": _mosaic,
    "Lung opacity": _opacity,
    "Interlobular septal thickening": _septal,
    "Pulmonary fibrotic sequela": _fibrosis,
    "Peribronchial thickening": _peribronchial,
    "Bronchiectasis": _bronchiectasis,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Lung nodule": _nodule,
    "Arterial wall calcification": _arterial_calcification,
    "Coronary artery wall calcification": _coronary_calcification,
    "Medical material": _medical_material,
}
