import re
from datetime import datetime

import pytest

from common.data.ehr.mimic_iv import parse_study_time
from common.data.virtual.study import (
    MAX_SCANS,
    MAX_SEEDS,
    study_date_and_time,
    virtual_dicom_id,
    virtual_study,
)


def test_ids_look_like_those_of_mimic():
    for seed in range(300):
        study = virtual_study(seed, seed % MAX_SCANS)
        assert re.fullmatch(r"1\d{7}", str(study.subject_id))
        assert re.fullmatch(r"5\d{7}", str(study.study_id))
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", study.dicom_id)
        assert study.hadm_id is None or re.fullmatch(r"2\d{7}", str(study.hadm_id))
        assert study.stay_id is None or re.fullmatch(r"3\d{7}", str(study.stay_id))


def test_the_same_seed_gives_the_same_study_and_keeps_the_subject_over_scans():
    assert virtual_study(7) == virtual_study(7, 0)
    scans = [virtual_study(7, scan) for scan in range(MAX_SCANS)]
    assert len({study.subject_id for study in scans}) == 1
    assert len({study.study_id for study in scans}) == len({study.dicom_id for study in scans}) == MAX_SCANS
    times = [study.study_time for study in scans]
    assert all((later - sooner).days >= 58 for sooner, later in zip(times, times[1:], strict=False))


def test_no_two_studies_share_an_id():
    seeds = sorted({*range(3000), *range(MAX_SEEDS - 3000, MAX_SEEDS), *range(5000, MAX_SEEDS, 997)})
    studies = [virtual_study(seed, scan) for seed in seeds for scan in (0, 1, 9)]
    assert len({study.subject_id for study in studies}) == len(seeds)
    for name in ("study_id", "dicom_id", "hadm_id", "stay_id"):
        ids = [getattr(study, name) for study in studies if getattr(study, name) is not None]
        assert len(set(ids)) == len(ids) > 0.5 * len(studies), name


def test_times_are_shifted_into_the_future_and_kept_to_the_millisecond():
    studies = [virtual_study(seed, scan) for seed in range(500) for scan in (0, 9)]
    assert all(datetime(2110, 1, 1) <= study.study_time < datetime(2201, 1, 1) for study in studies)
    for study in studies:
        assert parse_study_time(*study_date_and_time(study.study_time)) == study.study_time
    assert {study.study_time.hour for study in studies} == set(range(24))


def test_leading_zeros_of_the_study_time_are_lost_as_in_mimic():
    assert study_date_and_time(datetime(2180, 5, 6, 9, 30, 14, 531_000)) == ("21800506", "93014.531")
    assert study_date_and_time(datetime(2180, 5, 6, 0, 0, 14)) == ("21800506", "14.000")


def test_some_studies_are_in_both_stays_some_in_one_some_in_none():
    studies = [virtual_study(seed) for seed in range(2000)]
    kinds = [(study.stay_id is not None, study.hadm_id is not None) for study in studies]
    share = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert share[True, True] == pytest.approx(0.60, abs=0.04)
    assert share[True, False] == pytest.approx(0.20, abs=0.04)
    assert share[False, True] == pytest.approx(0.12, abs=0.03)
    assert share[False, False] == pytest.approx(0.08, abs=0.03)


def test_each_view_has_an_id_of_its_own():
    assert virtual_study(3).dicom_id == virtual_dicom_id(3, view="PA") != virtual_dicom_id(3, view="LATERAL")


@pytest.mark.parametrize(("seed", "scan"), [(-1, 0), (MAX_SEEDS, 0), (0, MAX_SCANS), (0.5, 0), (True, 0)])
def test_arguments_out_of_range_are_refused(seed, scan):
    with pytest.raises(ValueError, match="is not a whole number from 0 to"):
        virtual_study(seed, scan)
