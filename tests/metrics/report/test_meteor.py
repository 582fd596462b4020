import random

import pytest

from common.metrics.report.meteor import align_words, count_chunks, meteor_exact_stem
from tests.metrics.report.work import lines_run


def value(hypothesis, reference, **parameters):
    return meteor_exact_stem([hypothesis], [reference], **parameters).value()["meteor_exact_stem"]


def test_by_hand():
    # 4 of 5 words match 4 of 6 in two chunks ("the lungs are" and "today").
    precision, recall = 4 / 5, 4 / 6
    mean = 10 * precision * recall / (recall + 9 * precision)
    assert value("the lungs are fine today", "the lungs are quite clear today") == pytest.approx(
        mean * (1 - 0.5 * (2 / 4) ** 3)
    )


@pytest.mark.parametrize("words", [1, 4, 60])
def test_equal_texts_keep_the_penalty_of_one_chunk(words):
    text = " ".join(f"w{i}" for i in range(words))
    assert value(text, text) == pytest.approx(1 - 0.5 / words**3)


def test_stems_match_after_words():
    assert align_words(["opacity", "opacities"], ["opacities", "opacity"]) == [(0, 1), (1, 0)]
    assert align_words(["effusion"], ["effusions"]) == [(0, 0)]
    assert value("small effusions", "small effusion") == value("small effusion", "small effusion")


def test_the_longest_run_is_matched_first():
    # The second "the" of the reference belongs to "the lungs", though the first would be free.
    hypothesis, reference = "the lungs".split(), "the heart and the lungs".split()
    assert align_words(hypothesis, reference) == [(0, 3), (1, 4)]
    assert count_chunks(align_words(hypothesis, reference)) == 1


def test_each_word_is_matched_once():
    matches = align_words("the the the".split(), "the cat the".split())
    assert len(matches) == 2
    assert len({i for i, _ in matches}) == len({j for _, j in matches}) == 2


def test_matches_are_as_many_as_the_texts_share():
    rng = random.Random(0)
    for _ in range(200):
        a, b = (rng.choices(["a", "b", "c", "runs", "run"], k=rng.randint(1, 30)) for _ in range(2))
        matches = align_words(a, b)
        shared = sum(min(a.count(w), b.count(w)) for w in set(a))
        assert len(matches) >= shared
        assert all(a[i][:3] == b[j][:3] for i, j in matches)
        assert matches == sorted(matches) and len({j for _, j in matches}) == len(matches)


def test_parameters():
    pair = "a b x c".split(), "a b c d e".split()
    recall_only = value(*map(" ".join, pair), alpha=1.0, gamma=0.0)
    assert recall_only == pytest.approx(3 / 5)
    assert value(*map(" ".join, pair), alpha=0.0, gamma=0.0) == pytest.approx(3 / 4)


@pytest.mark.parametrize("texts", [("", "a b"), ("a b", ""), ("", ""), (" ", "x"), ("肺", "lung"), ("x", "y")])
def test_without_a_match_it_is_0(texts):
    assert value(*texts) == 0


@pytest.mark.parametrize("letters", [1, 20, 5000])
def test_the_work_grows_with_the_words_and_not_with_their_square(letters):
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(letters)}" for _ in range(2000)) for _ in range(2)]
    assert 0 < value(*texts) < 1
    assert lines_run(value, *texts) < 2000 * 2000
