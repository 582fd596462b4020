import numpy as np
import pytest

from common.data.bad_input import BadInput
from common.data.clinical_vector import ClinicalScaler
from common.data.note_tokenizer import build_note_tokenizer
from common.data.study_files import fitted_scaler, fitted_tokenizer, saved_scaler, saved_tokenizer
from tests.data.tiny_study import make_cases


def test_the_scaler_is_that_of_the_training_studies_each_once(tmp_path):
    cases = make_cases(tmp_path, 4)
    twice = [*cases, {**cases[0], "case": "lateral"}, {**cases[0], "case": "third"}]  # further images of one study
    made = fitted_scaler(twice, str(tmp_path / "models"))
    assert made == ClinicalScaler.fit([case["clinical"] for case in cases]) == saved_scaler(str(tmp_path / "models"))
    age = np.array([case["clinical"][0] for case in cases if case["clinical"] is not None], np.float64)
    assert made.median[0] == pytest.approx(np.nanmedian(age)) and made.std[0] == pytest.approx(np.nanstd(age))


def test_a_tokenizer_of_the_training_notes(tmp_path):
    cases = make_cases(tmp_path)
    made = fitted_tokenizer(cases, str(tmp_path / "models"), max_tokens=6, vocab_size=80)
    again = saved_tokenizer(str(tmp_path / "models"), max_tokens=6)
    assert made.encode("fever and cough") == again.encode("fever and cough") and len(made) <= 80
    assert again.tokens(again.encode("Dyspnea.")) == ["[CLS]", "dyspnea", ".", "[SEP]"]
    assert len(again.encode("cough " * 20)) == 6


def test_the_encoders_own_tokenizer_travels_with_the_weights(tmp_path):
    own = build_note_tokenizer(["quite other words"], tmp_path / "encoder")
    made = fitted_tokenizer(make_cases(tmp_path), str(tmp_path / "models"), model=str(tmp_path / "encoder"))
    copied = saved_tokenizer(str(tmp_path / "models"))
    assert made.encode("other words") == copied.encode("other words") == own.encode("other words")
    assert len(copied) == len(own)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(BadInput, match="clinical.json: cannot be read .* expected the scaler of a training"):
        saved_scaler(str(tmp_path))
    with pytest.raises(BadInput, match="tokenizer: does not exist, expected the tokenizer of a training"):
        saved_tokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a folder with a tokenizer"):
        fitted_tokenizer(make_cases(tmp_path), str(tmp_path), model=str(tmp_path / "none"))
