import pytest

from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.difficulty import WEIGHTS, Difficulty, finding_regions, report_difficulty

NORMAL = "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax."
ONE = "There is a small right pleural effusion. Heart size is normal."
MANY = (
    "Severe cardiomegaly. Large left pleural effusion with possible pneumonia in the left lower lobe. "
    "Extensive edema. Degenerative changes of the spine."
)


def test_counts():
    assert report_difficulty(NORMAL)[:2] == (0, 0)
    assert report_difficulty(NORMAL).words == 15
    many = report_difficulty(MANY)
    assert many.findings == 3 and many.uncertain == 1 and many.severe == 3
    assert many.regions == 4  # heart, costophrenic angles, left lung, spine


def test_what_is_normal_scores_nothing_however_long():
    assert report_difficulty(" ".join([NORMAL] * 5)).score() == 0
    assert report_difficulty("").score() == 0


def test_score_is_the_weighted_sum_and_grows():
    assert Difficulty(2, 1, 3, 1, 50).score() == pytest.approx(2 * 2 + 1.5 + 3 * 0.5 + 1 + 50 * 0.02)
    assert Difficulty(1, 0, 0, 0, 10).score({**WEIGHTS, "words": 1.0}) == 12
    assert 0 < report_difficulty(ONE).score() < report_difficulty(MANY).score()


def test_regions_of_findings():
    assert finding_regions(NORMAL) == {}
    found = finding_regions(MANY)
    assert found["Cardiomegaly"] == ("heart",) and found["Pleural Effusion"] == ("costophrenic angles",)
    assert found["Pneumonia"] == ("left lung",) and found["Edema"] == ("right lung", "left lung")
    assert finding_regions("Consolidation in the right upper lobe.") == {"Consolidation": ("right lung",)}
    assert set(found) <= set(CHEXPERT_LABELS)
