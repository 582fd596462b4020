import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.data.virtual.patient import CT_RATE_LABELS, lesion_map, make_virtual_patient
from common.data.virtual.xray import FIELD_MM, VIEWS, WATER, make_virtual_xray, optical_depth
from common.data.virtual.xray_findings import XRAY_FINDINGS, XRAY_PREVALENCE, draw_xray_findings
from common.data.virtual.xray_labels import is_infected, virtual_xray_labels
from common.text.cxr_labeller import CHEXPERT_LABELS

DEMO = {"shape": (48, 96, 96), "spacing": (3.0, 2.0, 2.0)}
# What in a CT lets an X-ray show a label, as (findings, xray_findings).
SOURCES = {
    "Atelectasis": [("Atelectasis",), ()],
    "Cardiomegaly": [("Cardiomegaly",), ()],
    "Consolidation": [("Consolidation",), ()],
    "Edema": [(), ("Edema",)],
    "Enlarged Cardiomediastinum": [(), ("Enlarged Cardiomediastinum",)],
    "Fracture": [(), ("Fracture",)],
    "Lung Lesion": [("Lung nodule",), ()],
    "Lung Opacity": [("Lung opacity",), ()],
    "Pleural Effusion": [("Pleural effusion",), ()],
    "Pleural Other": [(), ("Pleural Other",)],
    "Pneumonia": [("Consolidation",), ()],
    "Pneumothorax": [(), ("Pneumothorax",)],
    "Support Devices": [("Medical material",), ()],
}
# Other CT findings that may stand behind a label.
ALSO = {
    "Cardiomegaly": {"Pericardial effusion"},
    "Edema": {"Interlobular septal thickening"},
    "Enlarged Cardiomediastinum": {"Lymphadenopathy"},
    "Lung Opacity": {"Pulmonary fibrotic sequela"},
    "Pneumonia": {"Lung opacity"},
}


@pytest.fixture(scope="module")
def healthy():
    return {seed: make_virtual_patient(seed, findings=[], **DEMO) for seed in (0, 2, 5)}


@pytest.fixture(scope="module")
def crowd():
    """Patients as the X-ray layouts draw them."""
    drawn = {seed: draw_xray_findings(seed) for seed in range(50)}
    return [
        make_virtual_patient(seed, (20, 40, 40), (7.0, 5.0, 5.0), findings=ct, xray_findings=xray)
        for seed, (ct, xray) in drawn.items()
    ]


def ball_of_metal(centre_mm, voxel=(4.0, 4.0, 4.0), shape=(90, 80, 100)):
    """Air with a ball of 6 mm at (z, y, x), HU (D, H, W)."""
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    inside = (z - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (x - centre_mm[2]) ** 2 < 36
    return np.where(inside, 3000, -1000).astype(np.int16)


def centroid(image):
    rows, columns = np.indices(image.shape)
    return (rows * image).sum() / image.sum(), (columns * image).sum() / image.sum()


@pytest.mark.parametrize("view", VIEWS)
def test_depth_through_water_and_bone_follows_beer_and_lambert(view):
    thick = {"PA": 60 * 2.0, "AP": 60 * 2.0, "LATERAL": 80 * 2.5}[view]
    box = np.zeros((70, 60, 80), np.int16)
    middle = optical_depth(box, (5.0, 2.0, 2.5), view, 64)[32, 32]
    assert middle == pytest.approx(WATER * thick, rel=1e-5)
    half = optical_depth(box - 500, (5.0, 2.0, 2.5), view, 64)[32, 32]
    assert half == pytest.approx(middle / 2, rel=1e-5)
    assert optical_depth(box - 1000, (5.0, 2.0, 2.5), view, 64).max() == 0
    bone = optical_depth(box + 1000, (5.0, 2.0, 2.5), view, 64)[32, 32]
    assert bone > 2.5 * middle, "bone attenuates more at the energy of an X-ray than at that of a CT"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("place", [(0, 0, 0), (60, 50, 90), (-70, -60, -80), (20, 80, -60)])
def test_a_ball_is_seen_where_the_ray_through_it_meets_the_detector(view, place):
    image = optical_depth(ball_of_metal(place), (4.0, 4.0, 4.0), view, 256)
    # By similar triangles: source and detector on either side of the body.
    gap, source = {"PA": (150, 1830), "AP": (170, 1100), "LATERAL": (230, 1830)}[view]
    detector = {"PA": -gap, "AP": gap, "LATERAL": gap}[view]
    sign = np.sign(detector)
    depth = place[2] if view == "LATERAL" else place[1]
    grow = source / (source - abs(detector - depth))
    assert abs(detector - depth) == sign * (detector - depth)
    across = place[1] if view == "LATERAL" else place[2]
    pixel = FIELD_MM / 256
    expected = 127.5 - place[0] * grow / pixel, 127.5 + across * grow / pixel
    assert centroid(image) == pytest.approx(expected, abs=1.5)


def test_pixel_says_where_a_finding_is_seen():
    patient = make_virtual_patient(0, findings=["Medical material"], **DEMO)
    base = make_virtual_patient(0, findings=[], **DEMO)
    z, y, x = (place * base.scale for place in (40.0, -30.0, 55.0))
    ct = np.array(base.ct)
    index = np.linalg.inv(base.affine) @ [-x, -y, z, 1]
    i, j, k = np.rint(index[:3]).astype(int)
    ct[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 3000
    for view in VIEWS:
        with_ball, without = (make_virtual_xray(p, 256, view) for p in (replace(base, ct=ct), base))
        difference = np.clip(with_ball.image.astype(int) - without.image, 0, None)
        expected = with_ball.pixel((-x, -y, z))
        seen = np.unravel_index(gaussian_filter(difference.astype(float), 3).argmax(), difference.shape)
        assert np.abs(np.subtract(seen, expected)).max() < 4, view
    assert make_virtual_xray(patient, 64).findings == patient.findings


def test_left_is_right_and_the_head_is_up(healthy):
    for patient in healthy.values():
        image = make_virtual_xray(patient, 128).image.astype(float)
        # The heart reaches further to the patient's left, the liver's dome is higher, the shoulders are above.
        heart = image[68:80]
        assert heart[:, 74:84].mean() > heart[:, 44:54].mean() + 10
        assert image[88:92, 30:45].mean() > image[88:92, 83:98].mean()
        lateral = make_virtual_xray(patient, 128, "LATERAL").image.astype(float)
        spine, sternum = lateral[40:60, 72:80].mean(), lateral[40:60, 34:42].mean()
        assert spine > sternum


def test_the_heart_is_larger_from_the_front(healthy):
    def width(patient, view):
        empty, full = (
            make_virtual_patient(patient.seed, findings=[name] if name else [], **DEMO) for name in ("", "Cardiomegaly")
        )
        change = make_virtual_xray(full, 256, view).image.astype(int) - make_virtual_xray(empty, 256, view).image
        columns = np.flatnonzero((change > 15).sum(0) > 3)
        return columns[-1] - columns[0]

    assert all(width(p, "AP") > 1.04 * width(p, "PA") for p in healthy.values())


def test_looks_like_a_radiograph(healthy):
    for patient in healthy.values():
        xray = make_virtual_xray(patient, 256)
        image = xray.image.astype(float)
        lung, mediastinum, abdomen = image[80:130, 40:85], image[110:160, 118:138], image[205:235, 60:100]
        assert lung.mean() + 50 < abdomen.mean() < mediastinum.mean() + 10
        assert (image == 0).mean() < 0.2 and (image == 255).mean() < 0.05
        assert np.std(image - gaussian_filter(image, 2)) > 1, "neither noise nor detail"


def test_same_arguments_same_bytes_and_others_other(healthy):
    patient = healthy[0]
    a, b = make_virtual_xray(patient, 96), make_virtual_xray(patient, 96)
    assert np.array_equal(a.image, b.image) and a.labels == b.labels and a.image.dtype == np.uint8
    assert not np.array_equal(a.image, make_virtual_xray(patient, 96, "AP").image)
    deep = make_virtual_xray(patient, 96, dtype=np.uint16)
    assert deep.image.dtype == np.uint16 and np.abs(deep.image / 257 - a.image).max() <= 0.51
    assert a.image.shape == (96, 96) and a.pixel_mm == pytest.approx(FIELD_MM / 96)


def test_size_of_pixels_and_voxels_does_not_move_the_body(healthy):
    fine = make_virtual_patient(2, (96, 192, 192), (1.5, 1.0, 1.0), findings=[])
    images = [make_virtual_xray(p, size).image.astype(float) for p, size in ((healthy[2], 64), (fine, 64), (fine, 256))]
    images[2] = images[2].reshape(64, 4, 64, 4).mean((1, 3))
    assert all(np.corrcoef(images[0].ravel(), other.ravel())[0, 1] > 0.98 for other in images[1:])


@pytest.mark.parametrize("bad", [{"view": "PB"}, {"size": 8}, {"size": 64.5}, {"dtype": np.int16}])
def test_bad_arguments_are_named(healthy, bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} "):
        make_virtual_xray(healthy[0], **bad)


def test_extra_findings_leave_the_ct_alone_unless_asked_for():
    plain, asked = (
        make_virtual_patient(4, findings=["Lung nodule"], **DEMO, **more) for more in ({}, {"xray_findings": ()})
    )
    assert np.array_equal(plain.ct, asked.ct) and plain.xray_findings == () and plain.scan == 0
    with pytest.raises(ValueError, match="xray_findings has 'Pneumothoraces'"):
        make_virtual_patient(4, xray_findings=["Pneumothoraces"], **DEMO)


@pytest.mark.parametrize("name", XRAY_FINDINGS)
def test_extra_findings_keep_the_18_labels_and_the_lesions_of_the_others(name):
    everything = ["Lung nodule", "Consolidation", "Lung opacity", "Pleural effusion", "Interlobular septal thickening"]
    for seed in (1, 2, 3):
        base, more = (make_virtual_patient(seed, findings=everything, xray_findings=x, **DEMO) for x in ((), (name,)))
        assert more.labels == base.labels and {f.label for f in more.xray_findings} == {name}
        assert tuple(more.labels) == CT_RATE_LABELS
        for lesion, mask in base.lesions.items():
            assert (more.lesions[lesion] > 0).sum() >= 0.5 * (mask > 0).sum(), f"{name} hides the {lesion}"
        assert lesion_map(base).any()
        assert (np.abs(more.ct.astype(int) - base.ct) > 100).sum() > 20


def test_edema_sets_the_labels_of_what_a_ct_shows_of_it():
    patient = make_virtual_patient(1, findings=[], xray_findings=["Edema"], **DEMO)
    assert {name for name, value in patient.labels.items() if value} == {
        "Lung opacity", "Interlobular septal thickening",
    }  # fmt: skip
    assert patient.lesions["ground-glass opacity"].any()


@pytest.mark.parametrize("label", SOURCES)
def test_every_label_changes_pixels_in_its_place(healthy, label):
    findings, extra = SOURCES[label]
    stated = 0
    for seed, base in healthy.items():
        patient = make_virtual_patient(seed, findings=findings, xray_findings=extra, **DEMO)
        before, after = make_virtual_xray(base, 128), make_virtual_xray(patient, 128)
        if label == "Pneumonia" and not is_infected(seed):
            assert after.labels[label] in (0.0, None)
            continue
        change = np.abs(after.image.astype(int) - before.image)
        assert (change > 5).sum() >= 8, "no reader would see it"
        if after.labels[label] not in (1.0, -1.0):
            assert after.labels[label] is None, "what is there was called absent"
            continue
        stated += 1
        assert after.labels["No Finding"] == (1.0 if label == "Support Devices" else None)
        near = np.zeros(change.shape, bool)
        rows, columns = np.indices(change.shape)
        for finding in patient.findings + patient.xray_findings:
            row, column = after.pixel(finding.centre_mm)
            if finding.side == "bilateral":
                near[:] = True
            elif label in ("Pneumothorax", "Pleural Other", "Pleural Effusion"):  # along a whole lung
                near |= (columns - 63.5) * (column - 63.5) > -4
            else:
                reach = (0.6 * finding.size_mm / patient.scale + 20) / after.pixel_mm
                near |= (rows - row) ** 2 + (columns - column) ** 2 < reach**2
        assert change[near].sum() > 0.55 * change[change > 2].sum(), "seen elsewhere"
    assert stated, "no seed states it"


def test_labels_are_the_14_and_agree_with_the_ct(crowd):
    counts = {name: dict.fromkeys((1.0, 0.0, -1.0, None), 0) for name in CHEXPERT_LABELS}
    for patient in crowd:
        labels, shown = virtual_xray_labels(patient)
        assert tuple(labels) == CHEXPERT_LABELS
        drawn = {name for name, value in patient.labels.items() if value} | {f.label for f in patient.xray_findings}
        for name, (ct, extra) in SOURCES.items():
            counts[name][labels[name]] += 1
            behind = {*ct, *extra} | ALSO.get(name, set())
            if labels[name] in (1.0, -1.0):
                assert behind & drawn, f"{name} without anything in the CT"
                assert any(f.label in behind for f in shown)
            if labels[name] == 0.0 and name != "Pneumonia":
                assert not behind & drawn, f"{name} was called absent"
            if name == "Pneumonia" and "Consolidation" in drawn:
                assert labels[name] == 1.0 if is_infected(patient.seed) else labels[name] in (0.0, None)
        others = [labels[name] for name in SOURCES if name != "Support Devices"]
        assert labels["No Finding"] == (None if {1.0, -1.0} & set(others) else 1.0)
        counts["No Finding"][labels["No Finding"]] += 1
        assert {f.label for f in shown} <= drawn
    assert 6 <= counts["No Finding"][1.0] <= 30
    assert all(counts[name][None] for name in counts)
    assert sum(c[-1.0] for c in counts.values()) >= 3 and counts["Pneumothorax"][0.0] > 20


def test_small_nodules_are_not_mentioned():
    patient = make_virtual_patient(0, findings=["Lung nodule"], **DEMO)
    for width, expected in ((5, {None}), (30, {1.0})):
        nodule = replace(patient.findings[0], size_mm=width * patient.scale, kind="solid nodule")
        labels, shown = virtual_xray_labels(replace(patient, findings=(nodule,)))
        assert {labels["Lung Lesion"]} == expected and bool(shown) == (expected == {1.0})
        assert labels["No Finding"] == (1.0 if expected == {None} else None)


def test_prevalence_of_what_x_ray_patients_have():
    drawn = [set(ct) | set(extra) for ct, extra in map(draw_xray_findings, range(600))]
    share = {name: np.mean([name in d for d in drawn]) for name in XRAY_PREVALENCE}
    assert all(abs(share[name] - wanted) < 0.06 for name, wanted in XRAY_PREVALENCE.items())
    assert tuple(XRAY_PREVALENCE) == (*CT_RATE_LABELS, *XRAY_FINDINGS)
    assert draw_xray_findings(3, 0) != draw_xray_findings(3, 1) or draw_xray_findings(4, 0) != draw_xray_findings(4, 1)


def auroc(positive, negative):
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


@pytest.fixture(scope="module")
def look():
    """Takes a small X-ray of a person: seed, findings, xray_findings and scan -> smoothed grey levels of the chest."""

    @cache
    def take(seed, findings=(), extra=(), scan=0, blur=3):
        small = {"shape": (32, 64, 64), "spacing": (4.5, 3.0, 3.0)}
        patient = make_virtual_patient(seed, findings=findings, xray_findings=extra, scan=scan, **small)
        chest = make_virtual_xray(patient, 96).image[12:60, 10:86].astype(float)
        return gaussian_filter((chest - chest.mean()) / chest.std(), blur)

    return take


@pytest.fixture(scope="module")
def crowd_of_healthy(look):
    people = [look(seed) for seed in range(200, 225)]
    return np.mean(people[:15], 0), np.std(people[:15], 0) + 0.05, people[15:]


@pytest.mark.parametrize("label", sorted(SOURCES.keys() - {"Fracture"}))
def test_looking_unlike_the_healthy_tells_a_label_from_its_absence(look, crowd_of_healthy, label):
    mean, spread, healthy = crowd_of_healthy

    def oddness(chest):
        return np.sort(np.abs((chest - mean) / spread), axis=None)[-40:].mean()

    ill = [look(seed, *SOURCES[label]) for seed in range(100, 110)]
    assert auroc([oddness(chest) for chest in ill], [oddness(chest) for chest in healthy]) > 0.6


@pytest.mark.parametrize("label", SOURCES)
def test_the_earlier_image_of_a_person_tells_every_label_from_its_absence(look, label):
    def news(seed, sources):
        return np.abs(look(seed, *sources, blur=1) - look(seed, scan=1, blur=1)).max()

    ill, healthy = ([news(seed, sources) for seed in (3, 4, 5)] for sources in (SOURCES[label], ((), ())))
    assert auroc(ill, healthy) > 0.85


def test_needs_neither_torch_nor_monai():
    code = "import sys, common.data.virtual.xray; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
