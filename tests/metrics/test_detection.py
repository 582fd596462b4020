import json

import numpy as np
import pytest
from monai.data.box_utils import box_iou, convert_box_mode
from monai.metrics import compute_froc_curve_data, compute_froc_score

from common.metrics.detection import ScanBoxes, box_iou_mm, froc, match_detections, paired_overlap

NODULE = [10.0, 20.0, 30.0, 8.0, 8.0, 8.0]
FAR = [200.0, 200.0, 200.0, 8.0, 8.0, 8.0]


def shifted(box, x):
    return [box[0] + x, *box[1:]]


def random_scans(n=40, seed=0, decimals=2):
    """Scans in which most lesions are found and some detections are nowhere near one."""
    rng = np.random.default_rng(seed)
    scans = []
    for _ in range(n):
        corners = rng.uniform(0, 300, (rng.integers(0, 4), 3))
        truth = np.c_[corners, np.full_like(corners, 10)]
        near = truth[rng.random(len(truth)) < 0.7] + np.r_[rng.uniform(-2, 2, 3), 0, 0, 0]
        corners = rng.uniform(0, 300, (rng.integers(0, 4), 3))
        boxes = np.r_[near, np.c_[corners, np.full_like(corners, 10)]]
        chance = np.r_[rng.uniform(0.3, 1, len(near)), rng.uniform(0, 0.8, len(corners))].round(decimals)
        scans.append(ScanBoxes(boxes, chance, truth))
    return scans


def test_iou_by_hand_and_by_monai():
    assert box_iou_mm([NODULE], [NODULE, FAR, shifted(NODULE, 4)]).tolist() == [[1, 0, pytest.approx(1 / 3)]]
    rng = np.random.default_rng(0)
    a, b = (np.c_[rng.uniform(0, 20, (5, 3)), rng.uniform(5, 20, (5, 3))] for _ in range(2))
    corners = (convert_box_mode(boxes, "xyzwhd", "xyzxyz") for boxes in (a, b))
    assert box_iou_mm(a, b) == pytest.approx(box_iou(*corners), abs=1e-5)


def test_a_detection_takes_the_free_box_it_overlaps_most():
    truth = [NODULE, shifted(NODULE, 5)]
    scan = ScanBoxes([shifted(NODULE, 1), NODULE, shifted(NODULE, 2), FAR], [0.9, 0.8, 0.7, 0.6], truth)
    # The second overlaps the first box most, but that is taken, and it reaches the other by 3 of 13 parts.
    assert match_detections(scan).tolist() == [0, 1, -2, -1]
    assert match_detections(scan, iou=0.5).tolist() == [0, -2, -2, -1]


def test_froc_of_a_small_case_by_hand():
    # Two scans, three lesions. Accepted from the most probable down: hit, false, hit, false, false.
    scans = [
        ScanBoxes([NODULE, FAR, shifted(FAR, 50)], [0.9, 0.8, 0.3], [NODULE, shifted(NODULE, 60)]),
        ScanBoxes([NODULE, FAR], [0.7, 0.5], [NODULE]),
    ]
    result = froc(scans, (0.25, 0.5, 1, 8), draws=0)
    assert result.false_positives.tolist() == [0, 0, 0.5, 0.5, 1, 1.5]
    assert result.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert [value.value for value in result.at.values()] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert result.mean.value == pytest.approx(7 / 12) and (result.scans, result.lesions) == (2, 3)


@pytest.mark.parametrize("repeated", ["false_positive", "nothing"])
@pytest.mark.parametrize("decimals", [12, 1])
def test_froc_is_monais_when_its_lowest_threshold_is_let_in(decimals, repeated):
    scans = random_scans(decimals=decimals)
    hits, misses, lesions = [], [-1.0], 0  # MONAI drops the lowest probability: -1 takes its place
    for scan in scans:
        found = match_detections(scan)
        hits += scan.probabilities[found >= 0].tolist()
        misses += scan.probabilities[(found == -1) | ((found == -2) & (repeated == "false_positive"))].tolist()
        lesions += len(scan.truth)
    curve = compute_froc_curve_data(np.array(misses), np.array(hits), lesions, len(scans))
    result = froc(scans, repeated=repeated, draws=0)
    assert result.mean.value == pytest.approx(compute_froc_score(*curve, (0.125, 0.25, 0.5, 1, 2, 4, 8)), abs=1e-12)
    assert result.false_positives == pytest.approx(curve[0][::-1])
    assert result.sensitivity == pytest.approx(curve[1][::-1])


def test_a_detector_that_is_always_certain_has_a_froc():
    scans = [ScanBoxes([NODULE], [1.0], [NODULE]), ScanBoxes([NODULE, FAR], [1.0, 1.0], [NODULE])]
    assert froc(scans, (0.5, 1), draws=0).at["0.5"].value == 1


def test_scans_without_boxes():
    nothing = ScanBoxes([], [], [])
    undefined = froc([nothing, ScanBoxes([FAR], [0.5], [])], draws=10)
    assert np.isnan(undefined.mean.value) and undefined.mean.undefined == 10
    json.dumps(undefined.to_dict(), allow_nan=False)
    assert froc([nothing, ScanBoxes([], [], [NODULE])], draws=0).mean.value == 0


def test_intervals_redraw_scans():
    scans = random_scans()
    result = froc(scans, (1,), draws=200, seed=1)
    assert result.at["1"].low < result.at["1"].value < result.at["1"].high
    rng = np.random.default_rng(1)
    drawn = [froc([scans[i] for i in rng.integers(0, 40, 40)], (1,), draws=0).mean.value for _ in range(200)]
    assert (result.mean.low, result.mean.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_boxes_are_paired_for_the_largest_overlap():
    # Alone, the first true box would take the second detection (1/3 over 1/5) and leave the other box without one.
    scan = ScanBoxes([shifted(NODULE, -16 / 3), shifted(NODULE, 4)], [1, 1], [NODULE, shifted(NODULE, 10)])
    iou, distance = paired_overlap(scan)
    assert iou == pytest.approx([0.2, 1 / 7]) and distance == pytest.approx([16 / 3, 6])
    iou, distance = paired_overlap(ScanBoxes([FAR], [1], [NODULE]))
    assert iou.tolist() == [0] and np.isnan(distance).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ScanBoxes([[0, 0, 0, 1, 1, 0]], [0.5], []), "positive dx"),
        (lambda: ScanBoxes([[0, 0, 0, 1, 1]], [0.5], []), "positive dx"),
        (lambda: ScanBoxes([[0, 0, float("nan"), 1, 1, 1]], [0.5], []), "positive dx"),
        (lambda: ScanBoxes([NODULE], [1.5], []), "from 0 to 1"),
        (lambda: ScanBoxes([NODULE], [], []), "for each of 1"),
        (lambda: froc([]), "expected a scan"),
        (lambda: froc(random_scans(3), iou=0), "IoU in"),
        (lambda: froc(random_scans(3), repeated="once"), "nothing"),
    ],
)
def test_impossible_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
