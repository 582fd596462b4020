"""The shape of a virtual patient in body millimetres and the names of its regions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from common.data.virtual.geometry import Box, Grid, ellipsoid, stream

REGIONS = (
    "right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe", "left lower lobe",
    "trachea", "right bronchi", "left bronchi", "heart", "aorta",
    "pulmonary artery", "superior vena cava", "oesophagus", "mediastinum", "spine",
    "right ribs", "left ribs", "diaphragm", "upper abdomen", "chest wall",
)  # fmt: skip
REGION_ID = {name: i + 1 for i, name in enumerate(REGIONS)}


# REGION_SWAP[id] is the id after a left-right flip of the image; 0 stays 0. The right middle lobe has no partner and
# keeps its id, so that flipping twice gives the first map back.
REGION_SWAP = (0, 4, 2, 5, 1, 3, 6, 8, 7, 9, 10, 11, 12, 13, 14, 15, 17, 16, 18, 19, 20)

POWER = 2.4  # superellipse of the chest cavity, rounder than a box and fuller than an ellipse
SKIN_POWER = 2.6
HALF_HEIGHT = 170.0  # beyond the fitted field of view, as a body goes on where a scan ends


@dataclass(frozen=True)
class Body:
    """One person's shape, drawn from the anatomy stream; lengths in body mm, attenuation in HU."""

    seed: int
    sex: str
    age: int
    width: float
    depth: float
    fat: float
    heart_size: float
    dome: tuple[float, float]
    fissure: tuple[float, float, float]
    spine_y: float
    lung_hu: float
    bone_hu: float
    blood: tuple[float, float]
    wobble: np.ndarray = field(repr=False)

    @classmethod
    def draw(cls, seed: int) -> Body:
        """Draw the habitus of patient ``seed``."""
        rng = stream(seed, "anatomy")
        sex = "F" if rng.random() < 0.45 else "M"
        age = int(rng.integers(20, 90))
        size = 0.95 if sex == "F" else 1.0
        contrast = rng.random() < 0.3
        return cls(
            seed=seed,
            sex=sex,
            age=age,
            width=size * rng.uniform(0.93, 1.0),
            depth=size * rng.uniform(0.92, 1.0),
            fat=rng.uniform(9, 20) + (4 if sex == "F" else 0),
            heart_size=size * rng.uniform(0.95, 1.03),
            dome=(rng.uniform(-56, -44), rng.uniform(-68, -56)),
            fissure=(rng.uniform(-26, -12), rng.uniform(-24, -10), rng.uniform(0, 12)),
            spine_y=rng.uniform(55, 60),
            lung_hu=rng.uniform(-875, -835),
            bone_hu=260 - 1.6 * age + rng.uniform(-20, 20),
            # right heart and lung arteries, left heart and aorta
            blood=(rng.uniform(180, 320), rng.uniform(150, 280)) if contrast else (42.0, 42.0),
            wobble=rng.normal(0, 1.5, (64, 3)),
        )

    def cavity(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the chest cavity function: below 1 inside the pleura; inputs broadcast."""
        t = np.clip((z + 20) / 145, 0, 0.999)
        taper = np.sqrt(1 - t**2.6)
        a, b = 133 * self.width * taper * (1 - 0.04 * np.clip((-z - 20) / 120, 0, 1)), 92 * self.depth * taper**0.8
        middle = -5 + 14 * t * t
        return (np.abs(x) ** POWER) * a**-POWER + np.abs(y - middle) ** POWER * b**-POWER

    def front(self, z: np.ndarray) -> np.ndarray:
        """Return the y of the front wall of the chest cavity in the midline."""
        t = np.clip((z + 20) / 145, 0, 0.999)
        return -5 + 14 * t * t - 92 * self.depth * (1 - t**2.6) ** 0.4

    def skin(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the body surface function: below 1 inside; inputs broadcast."""
        t = np.clip((z - 40) / 100, 0, 1)
        a, b = 187 * self.width * (1 - 0.1 * t * t), 124 * self.depth * (1 - 0.08 * t)
        return (np.abs(x) ** SKIN_POWER) * a**-SKIN_POWER + np.abs(y - 3 - 8 * t) ** SKIN_POWER * b**-SKIN_POWER

    def hilum_width(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the half-width of the mediastinum."""
        return (5 + 27 * np.exp(-(((y - 4) / 44) ** 2))) * (1 - 0.15 * np.clip((z - 60) / 60, 0, 1))

    def diaphragm(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the height of the domes."""
        tops = []
        for side, top in ((-1, self.dome[0]), (1, self.dome[1])):
            u = side * x - 62  # positive towards the side wall
            v = y + 8
            tops.append(top - 70 * ((u / np.where(u > 0, 95, 120)) ** 2 + (v / np.where(v > 0, 86, 112)) ** 2))
        return np.maximum(*tops)

    def major_fissure(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the height of the oblique fissures, below and behind which the lower lobes lie."""
        base = np.where(x < 0, self.fissure[0], self.fissure[1])
        return base + 0.82 * y + 10 * np.cos((np.abs(x) - 60) / 40)

    def minor_fissure(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the height of the right horizontal fissure, below which the middle lobe lies."""
        return self.fissure[2] + 0.08 * y - 0.0012 * (x + 70) ** 2

    def lobe(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the lobe (region ids 1..5) of lung points."""
        right = x < 0
        lower = z < self.major_fissure(y, x)
        middle = right & ~lower & (z < self.minor_fissure(y, x))
        upper = np.where(right, 1, 4) + np.where(lower, np.where(right, 2, 1), 0)
        return (upper + middle).astype(np.uint8)

    def lung_points(self, rng: np.random.Generator, n: int, margin: float) -> np.ndarray:
        """Return those of ``n`` uniform points (z, y, x) that lie ``margin`` body mm inside a lung, off the heart."""
        p = rng.uniform([-125, -98, -130], [122, 92, 130], (n, 3))
        z, y, x = p.T
        inside = (self.cavity(z, y, x) < (1 - margin / 100) ** POWER) & (np.abs(x) > self.hilum_width(z, y) + margin)
        p = p[inside & (z > self.diaphragm(y, x) + margin)]
        d = (p - np.array(HEART_CENTRE)) @ HEART_TURN / (np.array(HEART_RADII) + 6)
        return p[(d**2).sum(1) > 1]


HEART_CENTRE = (-33.0, -26.0, 14.0)
HEART_RADII = (66.0, 47.0, 47.0)


def _heart_turn() -> np.ndarray:
    long_axis = np.array([-0.42, -0.48, 0.77])  # towards the apex: down, forward, left
    long_axis /= np.linalg.norm(long_axis)
    second = np.cross(long_axis, [1.0, 0.0, 0.0])
    second /= np.linalg.norm(second)
    return np.stack([long_axis, second, np.cross(long_axis, second)], 1)


HEART_TURN = _heart_turn()


def heart_centre(scale: float) -> np.ndarray:
    """Return the middle (z, y, x) in body mm of a heart ``scale`` times as large as that of an average adult."""
    # An enlarged heart grows to the left and down, as it is held by the great vessels.
    return np.array(HEART_CENTRE) + (scale - 1) * np.array([-18.0, -12.0, 22.0])


def heart_field(
    grid: Grid, body: Body, enlarge: float = 1.0, grow: float = 0.0, margin: float = 1.0
) -> tuple[Box, np.ndarray]:
    """Evaluate the heart, see ``ellipsoid``: below 1 inside the pericardium.

    Its radii are ``enlarge`` times those of the person's normal heart and ``grow`` body mm more.
    """
    scale = body.heart_size * enlarge
    return ellipsoid(grid, heart_centre(scale), np.array(HEART_RADII) * scale + grow, HEART_TURN, margin)
