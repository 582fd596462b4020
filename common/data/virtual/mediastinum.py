"""What lies between the lungs of a virtual patient: heart, great vessels, central airways, oesophagus and spine."""

from __future__ import annotations

import numpy as np

from common.data.virtual.anatomy import Canvas
from common.data.virtual.body import HALF_HEIGHT, HEART_RADII, HEART_TURN, REGION_ID, heart_centre, heart_field
from common.data.virtual.geometry import polyline

# Chambers in the frame of the heart: position and radii along its axes as shares of the heart's radii; the first axis
# points to the apex. The last entry tells whether the chamber belongs to the left heart.
CHAMBERS = (
    ((0.22, 0.30, 0.28), (0.55, 0.46, 0.44), True),  # left ventricle
    ((0.10, -0.42, -0.28), (0.58, 0.36, 0.50), False),  # right ventricle
    ((-0.58, 0.42, 0.22), (0.30, 0.40, 0.52), True),  # left atrium
    ((-0.52, -0.30, -0.40), (0.34, 0.46, 0.40), False),  # right atrium
)
# Coronary arteries on the surface of the heart, directions in its frame.
CORONARIES = {
    "left anterior descending": ((-0.5, 0.35, 0.8), (0.0, -0.35, 0.95), (0.5, -0.3, 0.8), (0.85, -0.2, 0.45)),
    "circumflex": ((-0.5, 0.35, 0.8), (-0.25, 0.85, 0.45), (-0.1, 0.95, -0.1), (0.1, 0.8, -0.5)),
    "right coronary": ((-0.55, -0.3, 0.75), (-0.15, -0.9, 0.3), (-0.05, -0.8, -0.6), (0.1, 0.0, -1.0)),
}


def paint_mediastinum(canvas: Canvas) -> None:
    """Paint the heart, the great vessels, the central airways, the oesophagus and the spine."""
    paint_heart(canvas)
    _paint_great_vessels(canvas)
    _paint_spine(canvas)
    # Tubes that leave the chest are cut off where the body ends.
    outside = np.abs(canvas.grid.axes[0].ravel()) > HALF_HEIGHT
    canvas.hu[outside] = -1000
    canvas.regions[outside] = 0


def paint_heart(canvas: Canvas) -> None:
    """Paint pericardium, fat, muscle, chambers and coronary arteries."""
    grid, body = canvas.grid, canvas.body
    box, q = heart_field(grid, body, canvas.heart_scale, margin=1.06)
    z, y, x = grid.coords(box)
    # The heart rests on the diaphragm and stays off the chest wall.
    free = (body.cavity(z, y, x) < 0.97) & (z > body.diaphragm(y, x))
    inside = (q < 1) & free
    r = np.sqrt(q)
    scale = body.heart_size * canvas.heart_scale
    depth = (1 - r) * (50 * scale)  # about body mm below the pericardium
    hu = np.where(depth > 5.5, np.float32(52), np.float32(-85))
    rim = max(2.0, 0.6 * float(grid.voxel.mean()))
    hu += np.clip(1 - depth / rim, 0, 1) * (2.0 / rim) * 100
    frame = (HEART_TURN / (np.array(HEART_RADII) * scale)).astype(np.float32)
    dz, dy, dx = (a - np.float32(c) for a, c in zip((z, y, x), heart_centre(scale), strict=True))
    u, v, w = (dz * frame[0, i] + dy * frame[1, i] + dx * frame[2, i] for i in range(3))
    # Fat fills the groove between atria and ventricles.
    groove = (np.abs(u + 0.28) < 0.06) & (q > 0.6)
    np.copyto(hu, np.float32(-80), where=groove)
    for centre, radii, left in CHAMBERS:
        c = ((u - centre[0]) / radii[0]) ** 2 + ((v - centre[1]) / radii[1]) ** 2 + ((w - centre[2]) / radii[2]) ** 2
        np.copyto(hu, np.float32(body.blood[1 if left else 0]), where=(c < 1) & (q < 0.83))
    edge = np.clip((1 - r) * (50 * scale / float(grid.voxel.mean())) + 0.5, 0, 1)
    old = canvas.hu[box]
    np.copyto(old, old + edge * (hu - old), where=free & (edge > 0))
    np.copyto(canvas.regions[box], np.uint8(REGION_ID["heart"]), where=inside)
    np.copyto(canvas.lung[box], False, where=inside)
    for name, directions in CORONARIES.items():
        shares = [0.93 * np.array(d) / np.linalg.norm(d) for d in directions]
        points = [heart_centre(scale) + HEART_TURN @ (share * np.array(HEART_RADII) * scale) for share in shares]
        path = polyline(points, [1.9, 1.7, 1.5, 1.2], 0.6 * float(grid.voxel.min()))
        canvas.paths[name] = path
        canvas.stamp(*path, body.blood[1] + 10)


def _paint_great_vessels(canvas: Canvas) -> None:
    body = canvas.body
    right_blood, left_blood = body.blood
    age = (body.age - 50) / 40  # the aorta widens and unfolds with age
    w = body.wobble

    def path(*points: tuple[float, float, float], first: int) -> list[np.ndarray]:
        return [np.array(p) + w[first + i] for i, p in enumerate(points)]

    lung_artery, cava, aorta = REGION_ID["pulmonary artery"], REGION_ID["superior vena cava"], REGION_ID["aorta"]
    mediastinum = REGION_ID["mediastinum"]
    canvas.tube("vena cava", path((112, -8, -24), (76, -14, -25), (42, -12, -27), (2, -12, -30), first=0),
                [8, 9, 9.5, 9], right_blood, cava)  # fmt: skip
    canvas.tube("brachiocephalic vein", path((124, -18, 46), (94, -36, 14), (78, -20, -20), first=4),
                [6.5, 6.5, 7], right_blood, mediastinum)  # fmt: skip
    canvas.tube("inferior cava", [(-141, 12, -20), (-90, 6, -24), (-50, -2, -26)], [11, 11, 12], 42.0 + 0.3 * (
        right_blood - 42), mediastinum)  # fmt: skip
    canvas.tube("trunk", path((4, -42, 14), (26, -34, 20), (36, -6, 24), first=8), [13, 13.5, 12],
                right_blood, lung_artery)  # fmt: skip
    canvas.tube("left lung artery", path((34, -12, 24), (38, 8, 34), (28, 18, 44), first=11), [10.5, 10, 7],
                right_blood, lung_artery)  # fmt: skip
    canvas.tube("right lung artery", path((32, -10, 18), (29, -2, -8), (28, 6, -30), (24, 12, -44), first=14),
                [10.5, 10, 9, 7], right_blood, lung_artery)  # fmt: skip
    points = path((0, -16, 0), (34, -28, -13), (64, -26, -12), (82, -8, 4), (79, 16, 20), (58, 36, 27), (20, 42, 25),
                  (-40, 40, 21), (-95, 36, 13), (-141, 32, 6), first=18)  # fmt: skip
    points = [p + np.array([4, 0, 3]) * age for p in points]
    radii = np.array([15, 15.5, 15, 13.5, 12.5, 12, 11.5, 11, 10.5, 10]) * (1 + 0.12 * age)
    canvas.tube("aorta", points, list(radii), left_blood, aorta)
    for i, (top, root) in enumerate((((128, -2, -22), (84, -12, -4)), ((132, 2, 20), (86, -4, 8)),
                                     ((124, 12, 44), (82, 10, 16)))):  # fmt: skip
        canvas.tube(f"arch branch {i}", [root, np.add(root, top) / 2, top], [5.5, 5, 4.5], left_blood, mediastinum)

    carina, air = (40, 22, 0), -995.0
    gullet = path(
        (141, 31, 5), (92, 36, 5), (40, 41, 4), (0, 40, 7), (-40, 32, 9), (-72, 20, 16), (-96, 8, 40), first=30
    )
    canvas.tube("oesophagus", gullet, [6, 6.5, 7, 7, 7.5, 8, 8], 40.0, REGION_ID["oesophagus"])
    samples, radius = canvas.paths["oesophagus"]
    gas = np.sin(samples[:, 0] / 9 + w[40, 0]) > 0.35
    if gas.any():
        canvas.stamp(samples[gas], 0.4 * radius[gas], -900.0)
    canvas.tube("right bronchus", [carina, (27, 24, -20), (12, 24, -34), (-6, 26, -42)], [7.5, 7, 6, 4.5], air,
                REGION_ID["right bronchi"], 1.4)  # fmt: skip
    canvas.tube("right upper bronchus", [(28, 24, -20), (32, 22, -36), (38, 16, -50)], [5.5, 5, 4], air,
                REGION_ID["right bronchi"], 1.2)  # fmt: skip
    canvas.tube("left bronchus", [carina, (26, 25, 22), (14, 25, 36), (-4, 28, 46)], [7, 6.5, 5.5, 4], air,
                REGION_ID["left bronchi"], 1.4)  # fmt: skip
    canvas.tube("left upper bronchus", [(16, 25, 34), (18, 14, 44), (26, 4, 52)], [5, 4.5, 3.5], air,
                REGION_ID["left bronchi"], 1.2)  # fmt: skip
    canvas.tube("trachea", [(141, 14, 0), (100, 17, 1), (70, 20, 1), carina], [9, 9, 9, 9], air,
                REGION_ID["trachea"], 1.6)  # fmt: skip
    # Airways within the lungs that a voxel can show belong to the bronchi of their side.
    index, _ = canvas.paths.pop("airway voxels")
    regions = canvas.regions.reshape(-1)
    lobe = regions[index]
    regions[index[(lobe >= 1) & (lobe <= 3)]] = REGION_ID["right bronchi"]
    regions[index[(lobe >= 4) & (lobe <= 5)]] = REGION_ID["left bronchi"]
    canvas.lung.reshape(-1)[index] = False


def _paint_spine(canvas: Canvas) -> None:
    grid, body = canvas.grid, canvas.body
    box = grid.box((0, body.spine_y + 24, 0), (150, 48, 44))
    z, y, x = grid.coords(box)
    side = np.abs(x)
    # Behind the middle of the vertebral body, following the kyphosis.
    v = y - (body.spine_y + 4 * np.cos((z - 20) / 60))
    step = (z + 9) % 25
    radius = np.sqrt((x / (17 - z / 60)) ** 2 + (v / 14.5) ** 2)
    vertebra = radius < 1
    disc = step < 5
    cortex = (radius > 1 - max(1.8, 0.4 * float(grid.voxel[1])) / 16) | (step < 6.5) | (step > 23.5)
    value = np.where(disc, np.float32(85), np.where(cortex, np.float32(480), np.float32(body.bone_hu - 40)))
    hu, regions = canvas.hu[box], canvas.regions[box]

    def paint(where: np.ndarray, what: np.ndarray | float, region: str = "spine") -> None:
        np.copyto(hu, np.float32(what), where=where)
        np.copyto(regions, np.uint8(REGION_ID[region]), where=where)
        np.copyto(canvas.lung[box], False, where=where)

    # Soft tissue around the vertebrae keeps the lung off the bone.
    soft = (((x / 29) ** 2 + ((v - 16) / 25) ** 2) < 1) & canvas.lung[box]
    paint(soft, 45.0, "mediastinum")
    paint(vertebra, value)
    ring = np.sqrt(x**2 + (v - 24) ** 2)
    lamina = (ring < 13) & (step > 7)
    paint(lamina, 380.0)
    process = (side < 3.6) & (v > 34) & (v < 58) & ((step + 0.8 * (v - 34)) % 25 > 14)
    paint(process, 300.0)
    wings = (side > 9) & (side < 36) & (np.abs(v - 24 - 0.25 * side) < 4.5) & (np.abs(step - 16) < 5)
    paint(wings, 340.0)
    paint(ring < 9, 22.0)
