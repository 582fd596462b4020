import json

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler
from sklearn.metrics import f1_score, jaccard_score

from common.metrics.segmentation import OverlapScore, mean_overlap, overlap

NAMES = ("Consolidation", "Pleural effusion")


def masks(seed=0, n=6):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand((n, 2, 4, 5, 6), generator=generator) < share for share in (0.4, 0.3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_dice_and_iou_are_f1_and_jaccard_of_voxels(dtype):
    prediction, target = masks()
    dice, iou = overlap(prediction.to(dtype), target.to(dtype))
    for case in range(6):
        for c in range(2):
            p, t = prediction[case, c].flatten().numpy(), target[case, c].flatten().numpy()
            assert dice[case, c].item() == pytest.approx(f1_score(t, p), abs=1e-6)
            assert iou[case, c].item() == pytest.approx(jaccard_score(t, p), abs=1e-6)


@pytest.mark.parametrize(
    ("empty", "both_empty", "false_alarm"),
    [("one", 1.0, 0.0), ("leave_out", None, 0.0), ("leave_out_truth", None, None)],
)
def test_conventions_for_empty_masks(empty, both_empty, false_alarm):
    none, some = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    for prediction, target, expected in (
        (none, none, both_empty),
        (some, none, false_alarm),
        (none, some, 0.0),
        (some, some, 1.0),
    ):
        for value in overlap(prediction, target, empty):
            assert value.isnan().item() if expected is None else value.item() == expected


def test_means_leave_out_what_the_convention_leaves_out_and_say_so():
    dice = np.array([[0.5, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    result = mean_overlap(dice, dice / 2, NAMES, "leave_out", draws=200)
    assert result.scores["dice"]["Consolidation"].value == result.scores["dice"]["macro"].value == 0.75
    assert result.scores["iou"]["Consolidation"].value == 0.375
    assert result.left_out == {"Consolidation": 1, "Pleural effusion": 3}
    assert set(result.undefined) == {"Pleural effusion"}
    assert 0 < result.scores["dice"]["Consolidation"].undefined < 40  # draws of the third case alone: 1 in 27
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["dice"]["Pleural effusion"]["value"] is None and written["empty"] == "leave_out"
    assert result.summary() == {
        "dice_Consolidation": 0.75,
        "dice_macro": 0.75,
        "iou_Consolidation": 0.375,
        "iou_macro": 0.375,
    }


def test_accumulated_batches_of_different_sizes():
    prediction, target = masks()
    score = OverlapScore(NAMES)
    score.update(prediction[:4], target[:4])
    score([prediction[4], prediction[5]], [target[4], target[5]])
    dice, iou = overlap(prediction, target)
    expected = mean_overlap(dice.numpy(), iou.numpy(), NAMES, "one", draws=50)
    assert score.compute(draws=50).to_dict() == expected.to_dict()
    assert score.aggregate() == expected.summary()


def test_as_metric_of_a_monai_evaluator():
    prediction, target = masks()
    batches = [{"image": prediction[i : i + 2], "label": target[i : i + 2]} for i in (0, 2, 4)]
    handler = IgniteMetricHandler(
        OverlapScore(NAMES, metric="dice_macro"),
        output_transform=lambda output: tuple([item[key] for item in output] for key in ("pred", "label")),
    )
    evaluator = SupervisedEvaluator(torch.device("cpu"), batches, torch.nn.Identity(), key_val_metric={"dice": handler})
    evaluator.run()
    assert evaluator.state.metrics["dice"] == pytest.approx(overlap(prediction, target)[0].mean().item())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: overlap(*masks(), empty="zero"), "leave_out"),
        (lambda: overlap(masks()[0], masks()[1][:3]), "twice"),
        (lambda: overlap(masks()[0] * 0.7, masks()[1]), "threshold"),
        (lambda: mean_overlap(np.zeros((0, 2)), np.zeros((0, 2)), NAMES, "one"), "expected"),
        (lambda: mean_overlap(np.zeros((3, 1)), np.zeros((3, 2)), NAMES, "one"), "expected"),
    ],
)
def test_impossible_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
