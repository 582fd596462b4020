import pytest

from common.text.ct_labels import CT_RATE_LABELS
from common.text.ct_template import ct_report
from common.text.template_facts import DescribedFinding
from tests.text.template_cases import check_english, check_sections, check_spans, ct_case, findings_of

NONE = dict.fromkeys(CT_RATE_LABELS, 0)


def stated(report):
    return {(span.label, span.value) for span in report.spans}


@pytest.mark.parametrize("incidental", [True, False])
def test_every_report_is_english_of_the_asked_length_and_says_what_its_labels_say(incidental):
    for seed in range(120):
        findings, labels = ct_case(seed)
        report = ct_report(findings, labels, "F" if seed % 2 else "M", 18 + seed % 80, seed, incidental=incidental)
        check_english(report)
        check_spans(report)
        assert report.labels == labels and list(report.labels) == list(CT_RATE_LABELS)
        assert {label for label, value in stated(report) if value == 1.0} == {name for name in labels if labels[name]}
        assert all(labels[label] == value for label, value in stated(report))


def test_sections_are_found_again():
    for seed in range(60):
        findings, labels = ct_case(seed)
        check_sections(ct_report(findings, labels, "F", 50, seed))


def test_all_labels_at_once_fit():
    for seed in range(60):
        findings, labels = ct_case(seed, share=1.0)
        report = ct_report(findings, labels, "M", 70, seed)
        check_english(report)
        assert {label for label, _ in stated(report)} == set(CT_RATE_LABELS)


@pytest.mark.parametrize("label", CT_RATE_LABELS)
def test_every_label_is_stated_and_denied(label):
    denied = False
    for seed in range(40):
        report = ct_report([], NONE | {label: 1}, "F", 40, seed)
        assert (label, 1.0) in stated(report) and (label, 0.0) not in stated(report)
        denied = denied or (label, 0.0) in stated(ct_report([], NONE, "F", 40, seed))
    assert denied, "an absent label is never said to be absent"


@pytest.mark.parametrize("label", CT_RATE_LABELS)
def test_an_uncertain_label_has_uncertain_spans_only(label):
    for seed in range(5):
        report = ct_report([], NONE | {label: 1}, "F", 40, seed, uncertain=[label])
        assert {value for name, value in stated(report) if name == label} == {-1.0}
        assert report.labels[label] == 1
        check_english(report)


def test_what_is_known_is_told_and_nothing_else():
    nodule = DescribedFinding("Lung nodule", "calcified nodule", "right middle lobe", "right", 7.2, "mild")
    told, untold = [], []
    for seed in range(20):
        told.append(ct_report([nodule], NONE | {"Lung nodule": 1}, "F", 40, seed, incidental=False).narrative)
        untold.append(ct_report([], NONE | {"Lung nodule": 1}, "F", 40, seed, incidental=False).narrative)
    for text in told:
        assert "7 mm" in text and "calcif" in text.lower()
        assert "right middle lobe" in text or "middle lobe of the right lung" in text
        assert "left" not in text
    for text in untold:
        assert " mm" not in text and " cm" not in text and " lobe" not in text and "compared" not in text


def test_severity_and_sides_reach_the_text():
    two = [
        DescribedFinding("Pleural effusion", "free effusion", "right lower lobe", "right", 45.0, "mild"),
        DescribedFinding("Pleural effusion", "free effusion", "left lower lobe", "left", 20.0, "severe"),
    ]
    texts = [ct_report(two, NONE | {"Pleural effusion": 1}, None, None, seed).narrative.lower() for seed in range(20)]
    assert all("large" in text or "massive" in text for text in texts)  # the worse of the two
    assert all("bilateral" in text or "on both sides" in text for text in texts)
    assert any("on the right and 2 cm on the left" in text for text in texts)


def test_the_same_seed_gives_the_same_report_and_others_differ():
    findings, labels = ct_case(3)
    reports = [ct_report(findings, labels, "F", 40, seed) for seed in (1, 1, 2)]
    assert reports[0] == reports[1] and reports[0].text != reports[2].text
    texts = {ct_report([], NONE | {"Emphysema": 1}, "F", 40, seed).narrative for seed in range(200)}
    assert len(texts) == 200


def test_wording_is_varied():
    """Distinct bigrams of 200 reports of one and the same case; those of a fixed template would be 1 / 200 of all."""
    findings, labels = ct_case(1, share=0.25)
    words = [ct_report(findings, labels, "F", 40, seed).narrative.lower().split() for seed in range(200)]
    bigrams = [pair for text in words for pair in zip(text, text[1:], strict=False)]
    assert len(set(bigrams)) / len(bigrams) > 8 / 200


def test_person_and_unknown_person():
    findings, labels = ct_case(5)
    texts = [ct_report(findings, labels, "F", 63, seed).sections["indication"] for seed in range(30)]
    assert any("63-year-old" in text for text in texts)
    assert all(
        " man" not in text and "63" not in ct_report([], labels, None, None, 1).sections["indication"] for text in texts
    )


def test_ct_rate_columns():
    report = ct_report([], NONE, "F", 40, 0)
    columns = report.ct_rate_columns()
    assert list(columns) == ["ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"]
    assert columns["Findings_EN"] == report.sections["findings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"Emphysema": 1}}, "labels lack"),
        ({"labels": NONE | {"Cough": 1}}, "labels hold 'Cough'"),
        ({"labels": NONE | {"Emphysema": 2}}, "Emphysema is 2, expected 0 or 1"),
        ({"findings": [DescribedFinding("Emphysema")]}, "'Emphysema' is described, but its label is 0"),
        ({"uncertain": ["Emphysema"]}, "'Emphysema' is described, but its label is 0"),
        ({"findings": [DescribedFinding("Emphysema", severity="bad")]}, "severity 'bad'"),
        ({"findings": [DescribedFinding("Emphysema", side="up")]}, "side 'up'"),
        ({"findings": [DescribedFinding("Emphysema", size_mm=-1.0)]}, "size -1.0 mm"),
        ({"findings": [DescribedFinding("Emphysema", size_mm=float("nan"))]}, "size nan mm"),
        ({"sex": "X"}, "sex is 'X'"),
        ({"age": 300}, "age is 300"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"findings": [], "labels": NONE, "sex": "F", "age": 40, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        ct_report(**arguments)


def test_a_virtual_finding_can_be_told():
    from common.data.virtual.findings import Finding

    finding = Finding("Consolidation", "consolidation", "left lower lobe", "left", (1.0, 2.0, 3.0), 42.0, "severe")
    report = ct_report([finding], NONE | {"Consolidation": 1}, "M", 80, 4)
    assert "left lower lobe" in report.narrative or "lower lobe of the left lung" in report.narrative


def test_several_devices_are_all_told():
    import random

    findings = [f for s in range(6) for f in findings_of(random.Random(s), "Medical material", 1)]
    for seed in range(20):
        text = ct_report(findings, NONE | {"Medical material": 1}, "F", 40, seed)
        check_english(text)
