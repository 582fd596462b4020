import csv

import pytest

from common.apps.run.prepare import prepare_virtual
from common.data.cxr.inputs import xray_cases
from common.data.cxr.report_context import SOURCES, PreparedReports, context_text, with_context
from common.data.cxr.reports import read_report_cases, text_cases
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.sections import report_sections

SHAPE, SPACING = (16, 32, 32), (9, 10, 11)
PRIOR = {"findings": "Small  effusion.", "impression": "Effusion."}


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    out = tmp_path_factory.mktemp("mimic")
    prepare_virtual(out, "mimic_cxr", n=12, shape=SHAPE, spacing=SPACING)
    return out


def test_one_text_of_what_was_known():
    assert context_text(SOURCES, "Cough.\n Fever.", PRIOR) == (
        "Indication: Cough. Fever. Prior report: Small effusion. Effusion."
    )
    assert context_text(["indication"], "Cough.", PRIOR) == "Indication: Cough."
    assert context_text(SOURCES, "", None) == "" and context_text([], "Cough.", PRIOR) == ""
    with pytest.raises(ValueError, match="context is prior, expected some of indication, prior_report"):
        context_text(["prior"])


def test_the_report_before_is_the_last_one_of_the_patient_and_never_a_later_one(mimic):
    with (mimic / "manifest.csv").open() as file:
        studies = {row["study"]: row for row in csv.DictReader(file)}.values()
    cases = read_report_cases(mimic, None, CHEXPERT_LABELS, context=["prior_report"])
    text = {row["study"]: report_sections(open(row["report"]).read()) for row in studies}
    with_prior = 0
    for case in cases:
        own = next(row for row in studies if row["study"] == case["study"])
        before = sorted((r for r in studies if r["patient"] == own["patient"] and r["time"] < own["time"]),
                        key=lambda r: r["time"])  # fmt: skip
        said = text[before[-1]["study"]] if before else {}
        expected = f"Prior report: {said['findings']} {said['impression']}" if before else ""
        assert case["context"] == " ".join(expected.split())
        assert ("none" not in text[own["study"]]["comparison"].lower()) == bool(before)
        with_prior += bool(before)
    assert 2 < with_prior < len(cases)


def test_the_indication_is_that_of_the_own_report(mimic):
    for case in read_report_cases(mimic, None, CHEXPERT_LABELS, context=["indication"]):
        assert case["context"].startswith("Indication: ") and "Prior" not in case["context"]
    assert "context" not in read_report_cases(mimic, None, CHEXPERT_LABELS)[0]


def test_a_prepared_folder_knows_the_context_of_its_cases(mimic):
    expected = {c["case"]: c["context"] for c in read_report_cases(mimic, None, CHEXPERT_LABELS, context=SOURCES)}
    found = with_context(xray_cases(mimic, CHEXPERT_LABELS), mimic, SOURCES)
    assert {case["case"]: case["context"] for case in found}.items() >= expected.items()
    with pytest.raises(BadInput, match="knows its reports itself, expected a single X-ray for --indication"):
        with_context(xray_cases(mimic, CHEXPERT_LABELS), mimic, SOURCES, "cough")


def test_a_single_case_is_given_its_context(mimic, tmp_path):
    image = next(mimic.glob("files/*/*/*/*.jpg"))
    cases = xray_cases(image, CHEXPERT_LABELS)
    report = tmp_path / "before.txt"
    report.write_text("FINDINGS: Small effusion.\n\nIMPRESSION: Effusion.\n")
    assert with_context(cases, image, SOURCES, "Cough.", report)[0]["context"] == (
        "Indication: Cough. Prior report: Small effusion. Effusion."
    )
    assert with_context(cases, image, SOURCES)[0]["context"] == ""
    assert with_context(cases, image, []) is cases
    with pytest.raises(BadInput, match="is given --indication, which the weights do not read"):
        with_context(cases, image, ["prior_report"], "Cough.")
    report.write_text("TECHNIQUE: PA.\n")
    with pytest.raises(BadInput, match="has neither findings nor an impression"):
        with_context(cases, image, SOURCES, None, report)
    with pytest.raises(BadInput, match="holds 2 cases, expected a single X-ray for --indication"):
        several = xray_cases(image, CHEXPERT_LABELS)
        several.append(several[0])
        with_context(several, image, SOURCES, "Cough.")


def test_layouts_that_know_no_times_have_no_report_before(tmp_path):
    prepare_virtual(tmp_path, "r2gen", n=3, shape=SHAPE, spacing=SPACING)
    with pytest.raises(BadInput, match="has no column 'time'"):
        PreparedReports(tmp_path / "manifest.csv", ["prior_report"])
    assert read_report_cases(tmp_path, None, CHEXPERT_LABELS, context=["indication"])[0]["context"] == ""


def test_texts_without_images_have_a_context():
    texts = text_cases(60, 7, CHEXPERT_LABELS, context=SOURCES)
    prior = sum("Prior report: " in text["context"] for text in texts)
    assert 10 < prior < 35 and all(text["context"].startswith("Indication: ") for text in texts)
