"""Where headers are recognised, and where a colon is just a colon."""

import pytest

from common.text.sections import report_sections

BOTH = {"findings": "Lungs clear.", "impression": "Normal."}


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Lungs clear.\nIMPRESSION: Normal.",
        "FINDINGS:Lungs clear.\nIMPRESSION:Normal.",
        "Findings: Lungs clear.\nImpression: Normal.",
        "findings: Lungs clear.\nimpression: Normal.",
        "Findings : Lungs clear.\nImpression : Normal.",
        "FINDINGS\nLungs clear.\nIMPRESSION\nNormal.",
        "Findings\nLungs clear.\n\nImpression\nNormal.",
        "FINDINGS - Lungs clear.\nIMPRESSION \u2013 Normal.",
        "FINDINGS\uff1a Lungs clear.\nIMPRESSION\uff1a Normal.",
        "## Findings\nLungs clear.\n\n## Impression\nNormal.\n\n---\n",
        "**Findings:** Lungs clear.\n\n**Impression:** Normal.",
        "**FINDINGS**\nLungs clear.\n**IMPRESSION**\nNormal.",
        "**Findings:** Lungs clear. **Impression:** Normal.",
        "1. **Findings**: Lungs clear.\n2. **Impression**: Normal.",
        "- Findings: Lungs clear.\n- Impression: Normal.",
        "Findings: Lungs clear. Impression: Normal.",
        "findings: Lungs clear. impression: Normal.",
        "FINDINGS: Lungs clear. IMPRESSION: Normal.",
        "FINDINGS:\r\nLungs clear.\r\n\r\nIMPRESSION:\r\nNormal.\r\n",
        "FINDINGS:\rLungs clear.\rIMPRESSION:\rNormal.",
        "\ufeff\u00a0FINDINGS:\u00a0Lungs\tclear.\n\tIMPRESSION:\tNormal.",
        "FINDINGS:\u2028Lungs clear.\u2028IMPRESSION:\u2028Normal.",
        "Findings\n--------\nLungs clear.\n\nImpression\n----------\nNormal.",
    ],
)
def test_every_form_of_a_header(text):
    assert report_sections(text) == BOTH


def test_a_report_in_one_line():
    text = (
        "FINAL REPORT EXAMINATION: CHEST (PA AND LAT) INDICATION: ___ year old with cough TECHNIQUE: PA and lateral "
        "COMPARISON: ___ FINDINGS: Lungs clear IMPRESSION: Normal"
    )
    assert report_sections(text) == {
        "impression": "Normal",
        "findings": "Lungs clear",
        "comparison": "___",
        "examination": "CHEST (PA AND LAT)",
        "indication": "___ year old with cough",
        "technique": "PA and lateral",
    }


def test_findings_and_impression_on_the_line_of_other_text():
    text = "INDICATION: Cough.\nCOMPARISON: None.\nLungs clear. IMPRESSION: Normal."
    assert report_sections(text) == {
        "impression": "Normal.",
        "comparison": "None. Lungs clear.",
        "indication": "Cough.",
    }


def test_one_section_only():
    assert report_sections("1. **Findings**: Lungs clear.") == {"findings": "Lungs clear."}
    assert report_sections("Impression: Normal.") == {"impression": "Normal."}


def test_a_report_in_capitals():
    text = "INDICATION: COUGH.\nFINDINGS: THE HEART IS NORMAL IN SIZE.\nNOTE: NOTHING ELSE\nIMPRESSION: NORMAL CHEST."
    assert report_sections(text) == {
        "impression": "NORMAL CHEST.",
        "findings": "THE HEART IS NORMAL IN SIZE. NOTE: NOTHING ELSE",
        "indication": "COUGH.",
    }


@pytest.mark.parametrize(
    "text",
    [
        "There is one finding: a nodule.",
        "There is one\nfinding: a nodule.",
        "The following findings: a nodule.\nNothing else: none.",
        "Seen at 10:42, the ratio is 3:1.",
        "XXXX: removed.\n___: removed.",
        "CHEST PAIN: none.",
        "1. Heart: normal\n2. Lungs: clear",
        "- Heart: normal\n* Lungs: clear",
        "http://example.org/findings:",
    ],
)
def test_a_colon_that_opens_nothing(text):
    assert report_sections(text) == {"last_paragraph": " ".join(text.split())}


def test_a_word_that_looks_like_a_header_after_a_broken_line():
    long = "As stated in the report of the patient, who came with all of this and that, namely:"
    text = f"Findings: {long}\nhistory: of nothing in particular.\nImpression: Normal."
    assert report_sections(text)["history"] == "of nothing in particular."
    wrapped = (
        "findings: Lungs\nThe lungs of this patient are clear, and there is no relevant change to the\ncomparison: none"
    )
    assert report_sections(wrapped) == {"findings": " ".join(wrapped.split()).removeprefix("findings: ")}


def test_mixed_case_inside_a_report_with_capital_headers_is_text():
    text = " FINDINGS:\n Chest: clear.\n Comparison: stable since then.\n \n IMPRESSION: Normal.\n"
    assert report_sections(text)["findings"] == "Chest: clear. Comparison: stable since then."
    text = " FINDINGS: Lungs clear.\n \n Impression: Normal.\n"
    assert report_sections(text) == BOTH


def test_removed_text_at_the_beginning_of_a_line():
    text = " FINDINGS: Seen by\n XXXX: no change.\n XXXX XXXX: none.\n \n IMPRESSION: Normal.\n"
    assert report_sections(text)["findings"] == "Seen by XXXX: no change. XXXX XXXX: none."


def test_sub_headings_stay_in_their_section():
    text = (
        " FINDINGS:\n \n LUNGS: Clear.\n HEART AND MEDIASTINUM: Normal.\n CHEST WALL: Normal.\n \n"
        " LINES AND TUBES: None.\n \n IMPRESSION:\n \n CHEST: Normal.\n ABDOMEN: Normal.\n"
    )
    assert report_sections(text) == {
        "findings": "LUNGS: Clear. HEART AND MEDIASTINUM: Normal. CHEST WALL: Normal. LINES AND TUBES: None.",
        "impression": "CHEST: Normal. ABDOMEN: Normal.",
    }


def test_other_headers_in_capitals_open_a_section_of_their_own():
    text = " FINDINGS: Clear.\n \n RADIATION DOSE: 0.1 mSv\n \n IMPRESSION: Normal.\n"
    assert report_sections(text) == {"findings": "Clear.", "impression": "Normal.", "radiation dose": "0.1 mSv"}


def test_an_indication_that_begins_with_its_own_header():
    text = " INDICATION: \n \n INDICATION: COUGH\n \n FINDINGS: Clear.\n"
    assert report_sections(text) == {"findings": "Clear.", "indication": "INDICATION: COUGH"}
