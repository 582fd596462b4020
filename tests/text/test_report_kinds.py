import pytest

from common.text.ct_labeller import label_ct
from common.text.cxr_labeller import label_cxr
from tests.text.report_kinds import is_right, kind_cases


@pytest.mark.parametrize("suite", ["MENDED", "KEPT"])
def test_the_labellers_read_sentences_of_hard_kinds(suite):
    """The share of all 2,000 is that of benchmarks/report_kinds.py."""
    cases = kind_cases(suite, 600)
    found = [{"cxr": label_cxr, "ct": label_ct}[case.labeller](case.report) for case in cases]
    wrong = [case.report for case, labels in zip(cases, found, strict=True) if not is_right(case, labels)]
    assert len(wrong) <= 0.01 * len(cases), wrong


def test_sentences_are_the_same_for_a_seed_and_different_from_each_other():
    cases = kind_cases("KEPT", 300, seed=3)
    assert cases == kind_cases("KEPT", 300, seed=3) != kind_cases("KEPT", 300, seed=4)
    assert len({(case.labeller, case.report) for case in cases}) == 300
    assert {case.labeller for case in cases} == {"cxr", "ct"}


def test_the_suites_share_no_template():
    one, other = ({case.report for case in kind_cases(suite, 1000)} for suite in ("MENDED", "KEPT"))
    assert not one & other


def test_a_label_that_is_wrong_is_told():
    case = next(case for case in kind_cases("KEPT", 10) if case.labeller == "cxr")
    assert is_right(case, case.expected)
    assert not is_right(case, dict.fromkeys(case.expected, 0.5))
