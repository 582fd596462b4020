import json
import logging

import numpy as np
import pytest

from common.data.cxr.study_files import (
    encoder_tokenizer,
    fitted_scaler,
    fitted_tokenizer,
    saved_scaler,
    saved_tokenizer,
)
from common.data.ehr.clinical_vector import ClinicalScaler
from common.data.note_tokenizer import build_note_tokenizer
from common.io.bad_input import BadInput
from tests.data.cxr.tiny_study import make_cases


def write_weights(folder, *parts, name="model"):
    """What stands for weights with these parts, beside which files are kept."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pt").write_bytes(b"weights")
    definitions = "network.json" if name == "model" else f"{name}.json"
    (folder / definitions).write_text(json.dumps({f"{part}_def": {} for part in parts}))


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


def test_a_tokenizer_of_notes_with_background_knows_its_words(tmp_path):
    cases, labels = make_cases(tmp_path), ["Edema", "Pneumonia"]
    made, again = (
        fitted_tokenizer(cases, str(tmp_path / "models"), background_passages=2, labels=labels),
        saved_tokenizer(str(tmp_path / "models"), background_passages=2, labels=labels),
    )
    note = cases[0]["note"]
    assert made.encode(note) == again.encode(note) and made.text(note) == again.text(note) != note
    assert "background" in made.tokens(made.encode(note)) and made.tokenizer.unk_token_id not in made.encode(note)
    assert len(made) > len(fitted_tokenizer(cases, str(tmp_path / "plain"), labels=labels))
    encoders = str(tmp_path / "models" / "tokenizer")
    own = fitted_tokenizer(cases, str(tmp_path / "own"), encoders, background_passages=2, labels=labels)
    assert own.text(note) == made.text(note)


def test_the_encoders_own_tokenizer_travels_with_the_weights(tmp_path):
    own = build_note_tokenizer(["quite other words"], tmp_path / "encoder")
    made = fitted_tokenizer(make_cases(tmp_path), str(tmp_path / "models"), model=str(tmp_path / "encoder"))
    copied = saved_tokenizer(str(tmp_path / "models"))
    assert made.encode("other words") == copied.encode("other words") == own.encode("other words")
    assert len(copied) == len(own)


@pytest.mark.parametrize("modalities", [("vision", "text", "clinical"), ("clinical",)])
def test_the_scaling_of_a_trained_model_is_kept(tmp_path, modalities, caplog):
    """A bug: features of other cases gave the clinical encoder of an existing model.pt another scaling."""
    models = tmp_path / "models"
    first = fitted_scaler(make_cases(tmp_path, 6), str(models))
    other = [case | {"clinical": None if case["clinical"] is None else case["clinical"] + 9} for case in
             make_cases(tmp_path, 6)]  # fmt: skip
    write_weights(models, *modalities)
    before = (models / "clinical.json").read_bytes()
    with caplog.at_level(logging.INFO):
        assert fitted_scaler(other, str(models)) == first
    assert (models / "clinical.json").read_bytes() == before
    assert "clinical.json belongs to model.pt and is kept" in caplog.text
    (models / "clinical.json").unlink()
    with pytest.raises(BadInput, match="expected the scaler of a training"):
        fitted_scaler(other, str(models))


@pytest.mark.parametrize("write", [None, ("model", "vision", "text"), ("encoders", "vision", "text")])
def test_without_a_clinical_encoder_the_scaling_is_fitted_anew(tmp_path, write):
    models = tmp_path / "models"
    fitted_scaler(make_cases(tmp_path, 6), str(models))
    if write:
        write_weights(models, *write[1:], name=write[0])
    other = make_cases(tmp_path, 4)
    assert fitted_scaler(other, str(models)) == ClinicalScaler.fit([case["clinical"] for case in other])


def test_a_trained_encoder_keeps_its_tokenizer(tmp_path):
    """A bug: features made one of the notes at hand, whose ids the encoder has never seen."""
    models, note = tmp_path / "models", "Cough, by ambulance."
    made = fitted_tokenizer(make_cases(tmp_path), str(models), max_tokens=9)
    files = {path.name: path.read_bytes() for path in (models / "tokenizer").iterdir()}
    for name in (None, "encoders", "model"):
        if name:
            write_weights(models, "text", name=name)
        again = encoder_tokenizer(str(models), max_tokens=9, background_passages=1, labels=["Edema"])
        assert again.encode(note)[:4] == made.encode(note)[:4] and len(again) == len(made)
        assert (again.max_tokens, again.background_passages) == (9, 1)
    assert {path.name: path.read_bytes() for path in (models / "tokenizer").iterdir()} == files
    with pytest.raises(BadInput, match="tokenizer: does not exist, expected the tokenizer of a training"):
        encoder_tokenizer(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["model", "encoders"])
def test_a_published_encoder_does_not_take_the_tokenizer_of_other_weights(tmp_path, name):
    """A bug: with --text_weights its tokenizer replaced that of a model that lay there."""
    models, published = tmp_path / "models", str(tmp_path / "published")
    made = fitted_tokenizer(make_cases(tmp_path), str(models))
    build_note_tokenizer(["quite other words"], published)
    write_weights(models, "vision", "clinical", name=name)
    own = encoder_tokenizer(str(tmp_path / "new"), published)
    assert own.encode("other words") == saved_tokenizer(str(tmp_path / "new")).encode("other words")
    write_weights(models, "vision", "text", name=name)
    with pytest.raises(BadInput, match=rf"tokenizer: belongs to {name}.pt .* expected another folder of weights"):
        encoder_tokenizer(str(models), published)
    assert saved_tokenizer(str(models)).tokenizer.get_vocab() == made.tokenizer.get_vocab()
    again = encoder_tokenizer(str(models), str(models / "tokenizer"))  # the same one is no other
    assert again.tokenizer.get_vocab() == made.tokenizer.get_vocab()


def test_new_encoders_say_what_their_tokenizer_does_to_a_model(tmp_path, caplog):
    models = tmp_path / "models"
    fitted_tokenizer(make_cases(tmp_path), str(models))
    write_weights(models, "text")
    fitted_tokenizer(make_cases(tmp_path), str(models))
    assert not caplog.messages
    fitted_tokenizer([{"note": "quite other words"}], str(models))
    (said,) = caplog.messages
    assert "model.pt was trained with another tokenizer" in said


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(BadInput, match="clinical.json: cannot be read .* expected the scaler of a training"):
        saved_scaler(str(tmp_path))
    with pytest.raises(BadInput, match="tokenizer: does not exist, expected the tokenizer of a training"):
        saved_tokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a folder with a tokenizer"):
        fitted_tokenizer(make_cases(tmp_path), str(tmp_path), model=str(tmp_path / "none"))
