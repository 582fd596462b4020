import itertools

import pytest

from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.cxr_template import VIEWS, Examination, cxr_report
from common.text.template_facts import DescribedFinding
from tests.text.template_cases import check_english, check_sections, check_spans, cxr_case

NONE = dict.fromkeys(CHEXPERT_LABELS)
OTHERS = [name for name in CHEXPERT_LABELS if name != "No Finding"]


def stated(report):
    return {(span.label, span.value) for span in report.spans}


def truth(report):
    return {(label, value) for label, value in report.labels.items() if value is not None}


@pytest.mark.parametrize("incidental", [True, False])
def test_every_report_is_english_of_the_asked_length_and_says_exactly_its_labels(incidental):
    for seed in range(150):
        findings, labels = cxr_case(seed)
        report = cxr_report(findings, labels, "F", 20 + seed % 70, seed, VIEWS[seed % 3], incidental=incidental)
        check_english(report)
        check_spans(report)
        assert stated(report) == truth(report)
        assert {name: report.labels[name] for name in OTHERS} == {name: labels[name] for name in OTHERS}


def test_sections_are_found_again():
    for seed in range(60):
        findings, labels = cxr_case(seed)
        check_sections(cxr_report(findings, labels, "F", 50, seed))


@pytest.mark.parametrize(("label", "value"), itertools.product(OTHERS, (1.0, 0.0, -1.0)))
def test_every_value_of_every_label_is_stated(label, value):
    for seed in range(12):
        report = cxr_report([], NONE | {label: value}, "M", 60, seed)
        finding = value != 0.0 and label != "Support Devices"
        assert stated(report) == {(label, value)} | (set() if finding else {("No Finding", 1.0)})


def test_no_finding_follows_from_the_rest():
    assert cxr_report([], NONE, "M", 60, 0).labels["No Finding"] == 1.0
    assert cxr_report([], NONE | {"No Finding": 0.0}, "M", 60, 0).labels["No Finding"] == 1.0
    assert cxr_report([], NONE | {"Support Devices": 1.0, "No Finding": 1.0}, "M", 60, 0).labels["No Finding"] == 1.0
    assert cxr_report([], NONE | {"Edema": -1.0}, "M", 60, 0).labels["No Finding"] is None
    with pytest.raises(ValueError, match="No Finding is 1.0 and Edema is -1.0"):
        cxr_report([], NONE | {"Edema": -1.0, "No Finding": 1.0}, "M", 60, 0)


def test_what_is_known_is_told_and_nothing_else():
    nodule = DescribedFinding("Lung nodule", "calcified nodule", "left upper lobe", "left", 12.0, "mild")
    wanted = NONE | {"Lung Lesion": 1.0}
    for seed in range(20):
        told = cxr_report([nodule], wanted, "F", 40, seed, incidental=False).narrative
        untold = cxr_report([], wanted, "F", 40, seed, incidental=False).narrative
        assert "left upper l" in told or "upper lobe of the left lung" in told
        assert " mm" not in untold and " cm" not in untold and " lobe" not in untold and "unchanged" not in untold


def test_findings_without_a_stated_label_are_not_described():
    hidden = DescribedFinding("Lung nodule", "solid nodule", "left upper lobe", "left", 4.0, "mild")
    aorta = DescribedFinding("Arterial wall calcification", "aortic wall plaques", "aorta", "midline", 9.0, "mild")
    texts = [cxr_report([hidden, aorta], NONE, "F", 40, seed).narrative.lower() for seed in range(10)]
    assert all("nodul" not in text for text in texts)
    assert all("calcif" in text for text in texts)


CHANGED = (
    "unchanged",
    "stable",
    "interval",
    "resol",
    "previously",
    "worsening",
    "persistent",
    "again",
    "remains",
    "new ",
)


def effusion(size, side="right"):
    return DescribedFinding("Pleural effusion", "free effusion", f"{side} lower lobe", side, size, "moderate")


def test_without_an_earlier_examination_nothing_is_compared():
    for seed in range(100):
        findings, labels = cxr_case(seed)
        report = cxr_report(findings, labels, "F", 40, seed)
        assert report.sections["comparison"].startswith("None")
        assert not any(word in report.narrative.lower() for word in CHANGED), report.narrative


@pytest.mark.parametrize(
    ("before", "size", "told", "untold"),
    [
        ([], 60.0, ("new",), ("increas", "decreas", "unchanged", "stable", "resol", "again")),
        ([effusion(60.0)], 61.0, ("unchanged", "stable", "persistent", "no "), ("increas", "decreas", "new ", "resol")),
        ([effusion(40.0)], 80.0, ("increas", "worsening"), ("decreas", "new ", "unchanged", "stable", "resol")),
        ([effusion(80.0)], 40.0, ("decreas", "improving"), ("increas", "new ", "unchanged", "stable", "resol")),
        ([effusion(60.0, "left")], 60.0, (), (*CHANGED, "increas", "decreas")),
        ([effusion(60.0)], None, ("resol", "cleared", "no longer"), ("new ", "unchanged", "stable", "increas")),
    ],
)
def test_what_is_said_of_a_change_follows_from_the_earlier_examination(before, size, told, untold):
    """An effusion that is new, as it was, larger, smaller, on the other side, and gone."""
    name = "Pleural Effusion"
    earlier = Examination(before, NONE | {name: 1.0 if before else 0.0})
    heard = 0
    for seed in range(60):
        findings, labels = ([], {name: 0.0}) if size is None else ([effusion(size)], {name: 1.0})
        report = cxr_report(findings, NONE | labels, "F", 40, seed, incidental=False, earlier=earlier)
        text = report.narrative.lower()
        heard += any(word in text for word in told)
        assert not any(word in text for word in untold), text
        assert not report.sections["comparison"].startswith("None")
        assert stated(report) == truth(report)
    assert heard > 20 or not told


def test_a_device_is_removed_only_if_it_was_there():
    device = DescribedFinding("Medical material", "pacemaker", "heart", "midline", 40.0, "mild")
    gone = NONE | {"Support Devices": 0.0}
    texts = {
        was: [cxr_report([], gone, "F", 40, s, earlier=earlier).narrative.lower() for s in range(30)]
        for was, earlier in (
            (True, Examination([device], NONE | {"Support Devices": 1.0})),
            (False, Examination([], gone)),
        )
    }
    assert sum("remov" in text and "pacemaker" in text for text in texts[True]) > 10
    assert not any("remov" in text for text in texts[False])


def test_the_indication_tells_of_what_was_known_or_is_felt():
    labels = NONE | {"Pneumothorax": 1.0}
    earlier = Examination([], NONE | {"Edema": 1.0})
    known = [cxr_report([], labels, "F", 40, s, earlier=earlier).sections["indication"].lower() for s in range(40)]
    felt = [cxr_report([], labels, "F", 40, s).sections["indication"].lower() for s in range(40)]
    assert sum("edema" in text for text in known) > 10 and not any("known" in text for text in felt)
    assert sum("sudden" in text for text in felt) > 10


def test_whole_reports_with_an_earlier_examination_say_exactly_their_labels():
    for seed in range(150):
        findings, labels = cxr_case(seed)
        report = cxr_report(findings, labels, "F", 40, seed, earlier=Examination(*cxr_case(seed + 1000)))
        check_english(report, followed=True)
        check_spans(report)
        check_sections(report)
        assert stated(report) == truth(report)


def test_an_opacity_is_told_with_what_it_may_be():
    labels = NONE | {"Lung Opacity": 1.0, "Pneumonia": -1.0, "Atelectasis": -1.0}
    texts = [cxr_report([], labels, "F", 40, seed).sections["findings"] for seed in range(40)]
    assert any("versus" in text for text in texts) and any(", which " in text for text in texts)


def test_technique_follows_the_view():
    for seed in range(5):
        assert "PORTABLE" in cxr_report([], NONE, "F", 40, seed, "AP").sections["examination"]
        assert "ateral" in cxr_report([], NONE, "F", 40, seed, "LATERAL").sections["technique"]


def test_the_same_seed_gives_the_same_report_and_others_differ():
    findings, labels = cxr_case(4)
    reports = [cxr_report(findings, labels, "F", 40, seed) for seed in (1, 1, 2)]
    assert reports[0] == reports[1] and reports[0].text != reports[2].text
    texts = {cxr_report([], NONE | {"Edema": 1.0}, "F", 40, seed).narrative for seed in range(200)}
    assert len(texts) > 195


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"Edema": 1.0}}, "labels lack"),
        ({"labels": NONE | {"Cough": 1.0}}, "labels hold 'Cough'"),
        ({"labels": NONE | {"Edema": 0.5}}, "Edema is 0.5, expected 1.0, 0.0, -1.0 or None"),
        ({"labels": NONE | {"Edema": float("nan")}}, "Edema is nan"),
        ({"labels": NONE | {"No Finding": -1.0}}, "No Finding is -1.0"),
        ({"view": "frontal"}, "view is 'frontal'"),
        ({"sex": "f"}, "sex is 'f'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"findings": [], "labels": NONE, "sex": "F", "age": 40, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        cxr_report(**arguments)
