"""Tokenizer and scaling in the configurations of the bundle: whose they are, whatever the data at hand."""

import pytest
from monai.bundle import ConfigParser

from common.apps.run.bundle import open_bundle
from common.apps.run.recipe import merged_stage
from common.data.cxr.study_files import saved_scaler
from common.data.note_tokenizer import NoteTokenizer
from tests.bundles.test_mdfnet_configs import BUNDLE
from tests.clients.packed_mdfnet import TEXT, write_prepared, write_weights

NOTE = "Cough and fever since Monday, fell from a ladder."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("data"))


def part(name, stage, data, models, **overrides):
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(data), "output_dir": str(models.parent / "out")}
    sizes = {"vocab_size": TEXT["vocab_size"], "max_tokens": 64} | overrides
    job = merged_stage(open_bundle(BUNDLE), stage, "demo", places | {"ckpt_dir": str(models)}, sizes)
    return ConfigParser(job.config).get_parsed_content(name)


def other_data(folder, data):
    """The same cases with other notes and values."""
    other = write_prepared(folder)
    rows = (other / "notes.csv").read_text().replace("Cough and fever", "Weakness and nausea")
    (other / "notes.csv").write_text(rows)
    values = (other / "clinical.csv").read_text().splitlines()
    (other / "clinical.csv").write_text(
        "\n".join([values[0], *(f"{v.split(',')[0]},99{',' * 29}" for v in values[1:])])
    )
    return other


def test_features_of_a_packed_model_use_its_tokenizer_and_scaling(data, tmp_path):
    """A bug: both were made anew of the data at hand, so ids were foreign, and model.pt of no use afterwards."""
    models = write_weights(tmp_path / "models", data)
    files = {path: path.read_bytes() for path in [models / "clinical.json", *(models / "tokenizer").iterdir()]}
    ids, scaler = NoteTokenizer(models / "tokenizer").encode(NOTE), saved_scaler(str(models))
    other = other_data(tmp_path / "other", data)
    assert part("tokenizer", "features", other, models).encode(NOTE) == ids
    assert part("scaler", "features", other, models) == scaler
    assert {path: path.read_bytes() for path in [models / "clinical.json", *(models / "tokenizer").iterdir()]} == files


def test_features_of_all_cases_use_the_tokenizer_of_encoders_of_some(data, tmp_path):
    """A bug: `encoders --small_sample 2` and `features` had a tokenizer each."""
    models = tmp_path / "models"
    small = part("tokenizer", "encoders", data, models, small_sample=2)
    for limit in (2, None):
        assert part("tokenizer", "features", data, models, small_sample=limit).encode(NOTE) == small.encode(NOTE)
    whole = part("tokenizer", "encoders", data, tmp_path / "whole")
    assert whole.encode(NOTE) != small.encode(NOTE)  # which would have been foreign


@pytest.mark.parametrize(("modalities", "names"), [(["vision"], ("tokenizer", "scaler")), (["text"], ("scaler",))])
def test_features_without_a_modality_need_no_file_of_it(data, tmp_path, modalities, names):
    models = write_weights(tmp_path / "models", data, modalities)
    for name in names:
        assert part(name, "features", data, models, modalities=modalities) is None
    assert not (models / "clinical.json").exists()
