import pytest

from common.data.datasets.curriculum import Curriculum

SCORES = [0.0, 5.0, 0.0, 2.0, 9.0, 1.0]


def curriculum(**changes):
    arguments = {
        "scores": SCORES,
        "thresholds": {"warmup": 0, "easy": 2, "hard": float("inf")},
        "last_epochs": {"warmup": 2, "easy": 5, "hard": 6},
        "batch_size": 4,
    }
    return Curriculum(**arguments | changes)


def test_stages_are_nested_and_follow_each_other():
    found = curriculum()
    assert [found.indices(name) for name in ("warmup", "easy", "hard")] == [[0, 2], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    assert [found.first_epoch(name) for name in ("warmup", "easy", "hard")] == [0, 2, 5]
    assert [found.epochs(name) for name in ("warmup", "easy", "hard")] == [2, 3, 1]
    assert [found.before(name) for name in ("warmup", "easy", "hard")] == [None, "warmup", "easy"]
    assert [found.is_last(name) for name in ("warmup", "easy", "hard")] == [False, False, True]
    assert found.samples == 2 * 2 + 3 * 4 + 6 and found.steps == 2 + 3 + 2 == found.all_steps("easy")


def test_another_name_is_a_training_without_stages_that_sees_as_many_samples():
    found = curriculum()
    assert found.indices("plain") == list(range(6)) and found.first_epoch("plain") == 0 and found.is_last("plain")
    assert found.epochs("plain") == round(22 / 6) and found.all_steps("plain") == 4 * 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"thresholds": {"warmup": 3, "easy": 2, "hard": 9}}, "easy takes scores up to 2, expected at least the 3 of"),
        ({"thresholds": {"warmup": -1, "easy": 2, "hard": 9}}, "warmup has none of 6 cases with a score of at most -1"),
        ({"last_epochs": {"warmup": 2, "easy": 2, "hard": 6}}, "easy ends with epoch 2, expected more than 2"),
        ({"last_epochs": {"warmup": 2, "hard": 6}}, "thresholds are of warmup, easy, hard, expected the stages of"),
    ],
)
def test_what_is_no_curriculum(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        curriculum(**changes)
