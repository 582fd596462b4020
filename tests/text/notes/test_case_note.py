import pytest

from common.text.notes.case_note import presentation


@pytest.mark.parametrize(
    ("notes", "kept"),
    [
        ("", ""),
        ("Fever and dry cough for 3 days. Patchy opacities in both lungs.", "Fever and dry cough for 3 days."),
        ("Presentation: Short of breath . Imaging Notes: Cough. Discussion: He has a fever.", "Short of breath."),
        ("Chest X-ray shows fever lines.", ""),
        ("Dyspnea; positive swab for the virus.", "Dyspnea."),
        ("History of asthma. She was intubated because of dyspnea. Fever improved later.", "History of asthma."),
        ("Fever (38?C) and cough. Opacity of the right base.", "Fever (38C) and cough."),
        ("A 60-year-old man with cough was diagnosed with tuberculosis.", ""),
        ("No pleural effusion.", ""),
        ("The weather was fine.", ""),
        ("PC: Fever and malaise. Impression: cough.", "Fever and malaise."),
    ],
)
def test_only_what_was_known_before_the_image_is_kept(notes: str, kept: str) -> None:
    assert presentation(notes) == kept


def test_a_sentence_that_names_the_label_goes_whole() -> None:
    notes = "Fever after contact with a covid patient. Cough since Monday."
    assert presentation(notes, ["COVID-19"]) == "Cough since Monday."
