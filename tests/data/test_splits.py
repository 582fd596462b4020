from collections import Counter

import pytest

from common.data.splits import split_by_patient, split_counts


@pytest.mark.parametrize(
    ("n_patients", "counts"),
    [
        (323, (243, 48, 32)),
        (646, (486, 96, 64)),
        (0, (0, 0, 0)),
        (1, (1, 0, 0)),
        (2, (2, 0, 0)),
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (20, (15, 3, 2)),
    ],
)
def test_counts_follow_the_document(n_patients, counts):
    assert split_counts(n_patients) == counts


def test_counts_always_add_up():
    for n_patients in range(200):
        counts = split_counts(n_patients)
        assert sum(counts) == n_patients and (n_patients < 3 or min(counts) >= 1)


def test_other_fractions():
    assert split_counts(10, (0.8, 0.1, 0.1)) == (8, 1, 1)
    assert split_counts(10, (1, 0, 0)) == (10, 0, 0)
    for wrong in ((1, 1), (1, -1, 1), (0, 0, 0), (float("nan"), 1, 1)):
        with pytest.raises(ValueError, match="three non-negative"):
            split_counts(10, wrong)


def test_every_patient_is_in_one_split_and_order_does_not_matter():
    patients = {f"case{i}": f"p{i // 3:03d}" for i in range(969)}
    split = split_by_patient(patients)
    by_patient = {(patients[case], part) for case, part in split.items()}
    assert Counter(part for _, part in by_patient) == {"train": 243, "val": 48, "test": 32}
    assert len(by_patient) == 323
    assert split_by_patient(dict(reversed(patients.items()))) == split
    assert list(split) == list(patients)


def test_seeds_differ_and_one_more_patient_moves_few():
    patients = {f"c{i}": f"p{i}" for i in range(323)}
    split = split_by_patient(patients, seed=0)
    other = split_by_patient(patients, seed=1)
    assert sum(split[case] != other[case] for case in split) > 50
    more = split_by_patient(patients | {"new": "new"}, seed=0)
    assert sum(split[case] != more[case] for case in split) <= 3
