"""The X-ray of a virtual patient: a digitally reconstructed radiograph (DRR) of its own CT, with CheXpert's 14 labels.

    >>> xray = make_virtual_xray(make_virtual_patient(seed=7), size=512, view="PA")
    >>> xray.image.shape, xray.labels["Pleural Effusion"]
    ((512, 512), 0.0)

The beam is a cone from a point source. The CT is summed along the beam in slabs of a centimetre and every slab is
magnified by its distance from the detector, so the heart is larger in AP than in PA. What reaches the detector
(primary, scatter, quantum noise) is shown as readers see it: bones bright, lungs dark, the patient's left on the right
of a frontal image and the front on the left of a lateral one.

All lengths are millimetres of an adult: those of the CT over ``patient.scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from common.data.virtual.findings import Finding
from common.data.virtual.geometry import stream
from common.data.virtual.patient import VirtualPatient
from common.data.virtual.xray_labels import virtual_xray_labels

FIELD_MM = 340.0
SLAB_MM = 10.0
WATER = 0.0206  # linear attenuation of water per mm at 60 keV
# HU are of a CT at about 75 keV. At 60 keV bone attenuates about twice as much above soft tissue as its HU say: its
# photoelectric part rises with the third power of 75/60.
BONE_FROM, BONE_GAIN = 130, 1.0
# Millimetres of the blurs of scatter, of the range that is narrowed and of the detail that is lifted for the eye.
SCATTER_MM, WIDE_MM, FINE_MM = 40.0, 25.0, 3.0
NARROW, LIFT, MIDDLE = 0.25, 0.6, 3.0


@dataclass(frozen=True)
class Beam:
    """How a view is taken.

    Attributes:
        axis: the axis (z, y, x) along which the beam runs.
        towards: 1 if it runs towards higher coordinates, else -1.
        source_mm: from the source to the detector.
        detector_mm: from the middle of the body to the detector.
        scatter: scattered energy per primary energy of the surroundings.
        quanta: photons per square millimetre of the detector if nobody is in the way.
        window: optical depth that is shown black and that is shown white.
    """

    axis: int
    towards: int
    source_mm: float
    detector_mm: float
    scatter: float
    quanta: float
    window: tuple[float, float]


VIEWS = {
    "PA": Beam(1, -1, 1830.0, 150.0, 0.10, 2e5, (1.75, 4.85)),
    "AP": Beam(1, 1, 1100.0, 170.0, 0.20, 1e5, (1.7, 4.7)),
    "LATERAL": Beam(2, 1, 1830.0, 230.0, 0.10, 2e6, (1.8, 6.8)),
}


@dataclass(frozen=True)
class VirtualXray:
    """One image.

    Attributes:
        image: uint8 or uint16 (size, size), dense is bright (MONOCHROME2).
        view: one of ``VIEWS``.
        pixel_mm: width of a pixel on the detector.
        labels: 1.0, 0.0, -1.0 or None for each of ``CHEXPERT_LABELS``, in that order.
        findings: what is seen of the CT's findings (see `common.data.virtual.xray_labels`).
        scale: of the patient's CT.
    """

    image: np.ndarray
    view: str
    pixel_mm: float
    labels: dict[str, float | None]
    findings: tuple[Finding, ...]
    scale: float

    def pixel(self, centre_mm: Sequence[float]) -> tuple[float, float]:
        """Return where a point (as ``Finding.centre_mm``: RAS millimetres of the CT) is seen, as (row, column)."""
        beam = VIEWS[self.view]
        x, y, z = -centre_mm[0] / self.scale, -centre_mm[1] / self.scale, centre_mm[2] / self.scale
        across, along = (x, y) if beam.axis == 1 else (y, x)
        pixels = _magnification(beam, along) / self.pixel_mm
        middle = (len(self.image) - 1) / 2
        return middle - z * pixels, middle + across * pixels


def make_virtual_xray(
    patient: VirtualPatient, size: int = 512, view: str = "PA", dtype: type[np.unsignedinteger] = np.uint8
) -> VirtualXray:
    """Take an X-ray of a virtual patient.

    Args:
        patient: the patient; a CT of the shape (192, 112, 352) and the spacing (1.7, 2.6, 1.15) is as fine across a
            frontal beam as 512 pixels can show, which the default is not.
        size: pixels along each side, at least 16.
        view: "PA", "AP" or "LATERAL".
        dtype: ``np.uint8`` or ``np.uint16``, whose whole range is used.

    Returns:
        The image and its labels; the same arguments give the same bytes.

    Raises:
        ValueError: if an argument is not usable.
    """
    if view not in VIEWS:
        raise ValueError(f"view {view!r} is not one of {', '.join(VIEWS)}.")
    if isinstance(size, bool) or int(size) != size or size < 16:
        raise ValueError(f"size {size} is not a whole number of at least 16.")
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(f"dtype {dtype} is not numpy's uint8 or uint16.")
    pixel_mm = FIELD_MM / int(size)
    depth = optical_depth(patient.ct.T, np.asarray(patient.spacing) / patient.scale, view, int(size))
    shown = _develop(depth, VIEWS[view], pixel_mm, stream(patient.seed, f"x-ray noise/{patient.scan}/{view}"))
    image = np.rint(shown * np.iinfo(dtype).max).astype(dtype)
    return VirtualXray(image, view, pixel_mm, *virtual_xray_labels(patient), patient.scale)


def optical_depth(hu: np.ndarray, voxel: Sequence[float], view: str, size: int) -> np.ndarray:
    """Integrate the attenuation from the source to every pixel.

    Beyond the ends of the CT the body goes on as its last slice.

    Args:
        hu: int16 (D, H, W) in HU, z up, y to the back, x to the left; the middle of the body in the middle.
        voxel: millimetres along (z, y, x).
        view: one of ``VIEWS``.
        size: pixels along each side of the field of ``FIELD_MM``.

    Returns:
        float32 (size, size), the exponent of the law of Beer and Lambert, head up.
    """
    beam = VIEWS[view]
    across = 3 - beam.axis
    # Where the voxels are finer than the pixels, pixels are means of finer ones.
    finer = max(1, round(FIELD_MM / size / min(voxel[0], voxel[across])))
    mm = ((np.arange(size * finer) + 0.5) / (size * finer) - 0.5) * FIELD_MM
    count = hu.shape[beam.axis]
    edges = np.linspace(0, count, min(count, max(1, round(count * voxel[beam.axis] / SLAB_MM))) + 1).round().astype(int)
    out = np.zeros((len(mm), len(mm)), np.float32)
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        slab = hu[:, start:end] if beam.axis == 1 else hu[:, :, start:end]
        water = slab.sum(beam.axis, dtype=np.int32) + 1000 * (end - start)
        bone = np.maximum(slab, BONE_FROM).sum(beam.axis, dtype=np.int32) - BONE_FROM * (end - start)
        grow = _magnification(beam, (start + end - count) / 2 * voxel[beam.axis])
        seen = (water + BONE_GAIN * bone).astype(np.float32)
        seen = _resample(seen, 0, (hu.shape[0] - 1) / 2 - mm / grow / voxel[0])
        out += _resample(seen, 1, (hu.shape[across] - 1) / 2 + mm / grow / voxel[across])
    out *= np.float32(WATER * voxel[beam.axis] / 1000)
    if finer > 1:
        out = out.reshape(size, finer, size, finer).mean((1, 3))
    return np.maximum(out, 0, out=out)


def _magnification(beam: Beam, along: float) -> float:
    """Return how much larger than it is something is seen that lies at ``along`` mm of the beam's axis."""
    return beam.source_mm / (beam.source_mm - beam.detector_mm + beam.towards * along)


def _resample(a: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Sample an image (Catmull-Rom) at fractional indices ``at`` of an axis; the border repeats."""
    first = np.floor(at).astype(int)
    t = (at - first).astype(np.float32)
    weights = (((2 - t) * t - 1) * t, (3 * t - 5) * t * t + 2, ((4 - 3 * t) * t + 1) * t, (t - 1) * t * t)
    shape = (-1, 1) if axis == 0 else (1, -1)
    # Four gathers instead of a matrix product: the same bytes with every BLAS, on one core.
    return sum(
        np.take(a, first + k, axis=axis, mode="clip") * (w / 2).reshape(shape) for k, w in enumerate(weights, start=-1)
    )


def _develop(depth: np.ndarray, beam: Beam, pixel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Turn optical depth into what a reader sees, float32 0..1."""
    primary = np.exp(-depth)
    energy = primary + beam.scatter * gaussian_filter(primary, SCATTER_MM / pixel_mm, truncate=2.0)
    noise = rng.standard_normal(depth.shape, dtype=np.float32)
    # The logarithm of a count of n quanta scatters by 1 / sqrt(n).
    seen = noise / np.sqrt(beam.quanta * pixel_mm**2 * energy) - np.log(energy)
    wide = gaussian_filter(seen, WIDE_MM / pixel_mm, truncate=2.0)
    fine = gaussian_filter(seen, FINE_MM / pixel_mm, truncate=2.0)
    black, white = beam.window
    seen += LIFT * (seen - fine) - NARROW * (wide - MIDDLE)
    return np.clip((seen - black) / (white - black), 0, 1)
