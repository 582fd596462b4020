import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from common.data.virtual.geometry import stream
from common.data.virtual.patient import (
    CT_RATE_LABELS,
    LESIONS,
    REGION_SWAP,
    REGIONS,
    lesion_map,
    make_virtual_patient,
    thick_reconstruction,
    virtual_labels,
    virtual_person,
)

DEMO = (48, 96, 96)
# The lesion that a label draws.
LESION_OF = {
    "Pericardial effusion": "pericardial effusion",
    "Pleural effusion": "pleural effusion",
    "Consolidation": "consolidation",
    "Lung opacity": "ground-glass opacity",
    "Lung nodule": "lung nodule",
}


@pytest.fixture(scope="module")
def healthy():
    return {seed: make_virtual_patient(seed, DEMO, findings=[]) for seed in (0, 1, 2)}


def test_same_seed_same_patient():
    a, b, c = (make_virtual_patient(seed, DEMO) for seed in (5, 5, 6))
    assert np.array_equal(a.ct, b.ct) and np.array_equal(a.regions, b.regions)
    assert a.findings == b.findings and a.labels == b.labels
    assert not np.array_equal(a.ct, c.ct)


def test_a_second_scan_is_the_same_person_with_other_noise():
    a, b = (make_virtual_patient(5, DEMO, findings=[], scan=scan) for scan in (0, 1))
    assert np.array_equal(a.regions, b.regions) and not np.array_equal(a.ct, b.ct)
    assert (a.sex, a.age) == (b.sex, b.age) == virtual_person(5)
    assert a.case != b.case


def test_streams_are_independent_and_stable():
    assert stream(3, "anatomy").random() != stream(3, "noise").random()
    assert stream(3, "anatomy").integers(1 << 30) == stream(3, "anatomy").integers(1 << 30)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((33, 57, 71), (5.0, 3.1, 2.9)), ((97, 64, 80), (0.8, 0.7, 0.6)), ((40, 90, 120), (12.0, 5.0, 5.0))],
)
def test_geometry_at_odd_sizes(shape, spacing):
    p = make_virtual_patient(1, shape, spacing, findings=["Lung nodule"])
    assert p.ct.shape == shape[::-1] == p.regions.shape == p.lesions["lung nodule"].shape
    assert p.ct.dtype == np.int16 and p.regions.dtype == np.uint8
    assert np.allclose(np.diag(p.affine)[:3], [-spacing[2], -spacing[1], spacing[0]])
    middle = p.affine @ [*((np.array(shape[::-1]) - 1) / 2), 1]
    assert np.allclose(middle[:3], 0)
    # The whole body is in view: nothing of it touches a side of the image.
    body = p.regions > 0
    assert not body[0].any() and not body[-1].any() and not body[:, 0].any() and not body[:, -1].any()
    assert body.any()
    assert p.ct.min() >= -1024 and p.ct.max() <= 3071


def test_patient_is_scaled_to_a_small_field_and_left_alone_in_a_large_one():
    assert make_virtual_patient(0, DEMO, (1.5, 1, 1), findings=[]).scale < 0.3
    large = make_virtual_patient(0, DEMO, (10, 6, 6), findings=[])
    assert large.scale == 1 and not large.regions[:, :, 0].any()


def test_left_and_right_are_where_the_affine_says(healthy):
    p = healthy[0]
    for name, sign in (("right lower lobe", 1), ("left lower lobe", -1)):
        voxel = np.argwhere(p.regions == REGIONS.index(name) + 1).mean(0)
        assert np.sign((p.affine @ [*voxel, 1])[0]) == sign  # RAS: the right has positive x
    top = np.argwhere(p.regions == REGIONS.index("trachea") + 1)[:, 2].mean()
    assert top > np.argwhere(p.regions == REGIONS.index("upper abdomen") + 1)[:, 2].mean()
    spine = np.argwhere(p.regions == REGIONS.index("spine") + 1).mean(0)
    assert (p.affine @ [*spine, 1])[1] < 0


def test_every_region_is_present_and_holds_its_tissue(healthy):
    assert len(REGIONS) == 20
    for p in healthy.values():
        assert set(np.unique(p.regions)) == set(range(21))
        mean = {name: p.ct[p.regions == i].mean() for i, name in enumerate(REGIONS, 1)}
        assert all(-900 < mean[name] < -650 for name in REGIONS[:5])
        assert mean["trachea"] < -600 and mean["spine"] > 100 and mean["right ribs"] > 150
        assert -30 < mean["heart"] < 250 and -20 < mean["upper abdomen"] < 130


def test_region_swap_is_its_own_inverse():
    assert sorted(REGION_SWAP) == list(range(21))
    assert all(REGION_SWAP[REGION_SWAP[i]] == i for i in range(21))
    assert REGION_SWAP[REGIONS.index("right ribs") + 1] == REGIONS.index("left ribs") + 1


@pytest.mark.parametrize("label", CT_RATE_LABELS)
def test_every_finding_changes_voxels_and_nothing_else_does(healthy, label):
    places = set()
    for seed, base in healthy.items():
        p = make_virtual_patient(seed, DEMO, findings=[label])
        change = np.abs(p.ct.astype(int) - base.ct)
        assert (change > 40).sum() >= 25, "too small to learn from, or drowned in noise"
        assert (change > 0).mean() < 0.4, "the noise or the anatomy moved"
        assert p.labels == {name: int(name == label) for name in CT_RATE_LABELS}
        assert p.findings and {f.label for f in p.findings} == {label}
        places.add(tuple((f.kind, f.centre_mm, f.size_mm) for f in p.findings))
        drawn = {name for name, mask in p.lesions.items() if mask.any()}
        assert drawn == ({LESION_OF[label]} if label in LESION_OF else set())
        for name in drawn:
            mask = p.lesions[name] > 0
            assert mask.sum() >= 8
            assert (change[mask] > 30).mean() > 0.9
            # What changed clearly lies in the mask or next to it.
            near = ndimage.binary_dilation(mask, iterations=2)
            assert (change[~near] > 100).sum() <= max(3, 0.02 * (change > 100).sum())
    assert len(places) == 3


def test_all_findings_together_keep_their_masks():
    p = make_virtual_patient(3, DEMO, findings=CT_RATE_LABELS)
    assert tuple(p.lesions) == LESIONS and all(mask.any() for mask in p.lesions.values())
    assert all(p.labels.values()) and {f.label for f in p.findings} == set(CT_RATE_LABELS)
    assert set(np.unique(lesion_map(p))) == set(range(6))
    assert not (p.lesions["consolidation"] & p.lesions["ground-glass opacity"]).any()


def test_labels_are_drawn_near_the_prevalence():
    drawn = [virtual_labels(seed) for seed in range(400)]
    assert 0.35 < np.mean(["Lung nodule" in labels for labels in drawn]) < 0.55
    assert all(any(name in labels for labels in drawn) for name in CT_RATE_LABELS)


@pytest.mark.parametrize("ratio", [2, 5])
def test_thick_slices_are_means_of_thin_ones(healthy, ratio):
    p = healthy[1]
    thick, affine = thick_reconstruction(p, ratio)
    n = p.ct.shape[2] // ratio
    assert thick.dtype == np.int16 and thick.shape[2] == n
    mean = p.ct[:, :, : n * ratio].reshape(*p.ct.shape[:2], n, ratio).mean(3)
    assert np.abs(thick - mean).max() <= 0.5
    centre = np.mean([p.affine @ [0, 0, k, 1] for k in range(ratio, 2 * ratio)], axis=0)
    assert np.allclose(affine @ [0, 0, 1, 1], centre)


def test_noise_is_louder_in_thin_slices_with_a_sharp_kernel_and_in_the_middle():
    def noise(shape, spacing, kernel="smooth"):
        quiet, loud = (
            make_virtual_patient(4, shape, spacing, findings=[], noise_hu=n, kernel=kernel).ct.astype(int)
            for n in (0, 12)
        )
        return loud - quiet

    thin, thick = noise((48, 96, 96), (1.5, 2, 2)), noise((24, 96, 96), (3.0, 2, 2))
    sharp = noise((48, 96, 96), (1.5, 2, 2), "sharp")
    assert thin.std() > 1.2 * thick.std() and sharp.std() > 1.4 * thin.std()
    assert thin[44:52, 44:52].std() == pytest.approx(12, rel=0.1)
    assert thin[38:58, 38:58].std() > 1.2 * thin[38:58, 10:20].std()


@pytest.mark.parametrize(
    "bad",
    [
        {"shape": (96, 192)}, {"shape": (0, 96, 96)}, {"spacing": (1, 0, 1)}, {"spacing": (1, float("nan"), 1)},
        {"findings": ["Lung nodules"]}, {"kernel": "bone"}, {"noise_hu": -1}, {"seed": -1},
    ],
)  # fmt: skip
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).removesuffix("s")):
        make_virtual_patient(**({"seed": 0, "shape": (16, 32, 32)} | bad))


def test_bad_ratio_is_named(healthy):
    with pytest.raises(ValueError, match="ratio 49"):
        thick_reconstruction(healthy[0], 49)


def test_needs_neither_torch_nor_monai():
    code = "import sys, common.data.virtual.layouts; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
