import pytest

from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.redaction import BACKGROUND, find_leaks, redact, split_background

COVID = ["COVID-19"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Pneumonia", "PNEUMONIA"),
        ("Pneumonia", "pna"),
        ("Pneumonia", "bronchopneumonia"),
        ("Pneumothorax", "PTX"),
        ("Pleural Effusion", "pleural effusions"),
        ("Edema", "CHF"),
        ("Edema", "congestive heart failure"),
        ("Cardiomegaly", "cardiomegaly"),
        ("Fracture", "rib fx"),
        ("Fracture", "fractured"),
        ("Support Devices", "pacemaker"),
        ("Support Devices", "PICC line"),
        ("Lung Lesion", "lung cancer"),
        ("Atelectasis", "atelectasis"),
        ("Consolidation", "consolidation"),
        ("Lung Opacity", "infiltrate"),
        ("Pleural Other", "pleural thickening"),
        ("Enlarged Cardiomediastinum", "widened mediastinum"),
        ("No Finding", "normal chest x-ray"),
    ],
)
def test_terms_of_every_label_are_found(label: str, text: str) -> None:
    note = f"61-year-old man. Chief complaint: {text}, Dyspnea.\nVital signs: heart rate 90 /min."
    assert label in {leak.label for leak in find_leaks(note, [label])}
    clean = redact(note, [label])
    assert "[REDACTED]" in clean and not find_leaks(clean, [label])
    assert clean.startswith("61-year-old man. Chief complaint: ") and clean.endswith("heart rate 90 /min.")


def test_every_label_is_known() -> None:
    assert find_leaks("Fever and cough, short of breath.", CHEXPERT_LABELS) == []
    with pytest.raises(ValueError, match="label 'Pneumonitis' has no known terms, expected some of Atelectasis"):
        find_leaks("text", ["Pneumonitis"])


@pytest.mark.parametrize("text", ["Leg pain", "Chest pain", "body mass index 31", "portable", "N/V", "Fall", "Syncope"])
def test_other_words_stay(text: str) -> None:
    note = f"Chief complaint: {text}."
    assert redact(note, CHEXPERT_LABELS) == note


def test_denied_terms_count_too() -> None:
    assert redact("No pneumonia.", ["Pneumonia"]) == "No [REDACTED]."


@pytest.mark.parametrize(
    "text",
    [
        "COVID-19", "covid19", "Covid 19", "SARS-CoV-2", "2019-nCoV", "Coronavirus", "PCR", "RT-PCR", "nucleic acid",
        "pneumonia", "Pneumocystis jirovecii", "Streptococcus", "legionella", "E.Coli", "influenza", "ARDS",
        "varicella", "Klebsiella", "tuberculosis",
    ],
)  # fmt: skip
def test_diseases_of_the_covid_data_set(text: str) -> None:
    clean = redact(f"Man with fever and {text} since Monday.", COVID)
    assert clean.startswith("Man with fever and ") and clean.endswith("[REDACTED] since Monday.")
    assert not find_leaks(clean, COVID)


def test_neighbours_become_one_mark() -> None:
    assert redact("Known COVID-19 pneumonia now.", COVID) == "Known [REDACTED] now."
    assert redact("CHF, pneumonia", ["Edema", "Pneumonia"]) == "[REDACTED], [REDACTED]"


def test_spans_point_into_the_note() -> None:
    note = "Cough. Sent in for pneumonia.\nHistory: heart failure."
    leaks = find_leaks(note, CHEXPERT_LABELS)
    assert [(leak.label, leak.text) for leak in leaks] == [("Pneumonia", "pneumonia"), ("Edema", "heart failure")]
    assert all(note[leak.start : leak.end] == leak.text for leak in leaks)


def test_background_is_apart() -> None:
    note = f"Cough.{BACKGROUND}- Fever may mean pneumonia."
    assert find_leaks(note, ["Pneumonia"]) == [] and redact(note, ["Pneumonia"]) == note
    assert split_background(note) == ("Cough.", "- Fever may mean pneumonia.")
    assert split_background("Cough.") == ("Cough.", "")


def test_findings_of_nih_have_their_synonyms() -> None:
    assert redact("COPD, pleural effusion, a mass", ["Emphysema", "Effusion", "Mass"]).count("[REDACTED]") == 3
