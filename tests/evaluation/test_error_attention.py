"""The part of a comparison's page that shows where the encoders looked."""

import re

import numpy as np
import pytest
from PIL import Image

from common.data.cxr.cases import read_cxr_cases
from common.data.prediction_table import write_predictions, write_truth
from common.evaluation.compare_models import compare_models
from common.evaluation.error_attention import StudyEncoders, saved_encoders
from common.evaluation.error_cases import case_details
from common.networks.study_encoders import saved_network
from common.networks.vision_encoder import VisionEncoder
from common.networks.weights import MissingWeights
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.visualize.figures import picture_caption
from tests.clients.packed_mdfnet import write_prepared, write_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"), data)


def compared(data, out, encoders, labels=CHEXPERT_LABELS[:3], cases=None):
    """The page of a comparison of one model that says 0.5 more or less by chance."""
    rows = read_cxr_cases(data, "test")
    names, patients = [row["case"] for row in rows], [row["patient"] for row in rows]
    y = np.stack([row["label"] for row in rows])[:, : len(labels)]
    p = np.random.default_rng(0).random(y.shape)
    write_truth(out / "predictions" / "labels_test.csv", names, patients, labels, y)
    write_predictions(out / "predictions" / "all_test.csv", names, patients, labels, p)
    cases = case_details(data, "test") if cases is None else cases
    compare_models(out / "predictions", out / "predictions" / "labels_test.csv", out, None, 5, cases=cases,
                   encoders=encoders)  # fmt: skip
    return (out / "index.html").read_text()


def test_the_encoders_of_a_run_are_those_of_its_network(data, weights, tmp_path):
    whole = saved_network(str(weights))
    found = saved_encoders(weights)
    for part in ("vision", "text"):
        ours, theirs = getattr(found, part).state_dict(), getattr(whole, part).state_dict()
        assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
        assert not getattr(found, part).training
    assert found.tokenizer.tokens(found.tokenizer.encode("Cough."))[1:-1] == ["cough", "."]
    only = saved_encoders(write_weights(tmp_path / "image", data, ("vision",)))
    assert only.vision is not None and only.text is None and only.tokenizer is None
    with pytest.raises(MissingWeights, match=r"network.json does not exist; make it with python -m common run"):
        saved_encoders(tmp_path)


def test_the_worst_cases_show_image_and_note(data, weights, tmp_path):
    page = compared(data, tmp_path, saved_encoders(weights))
    assert "Where the encoders looked" in page
    pictures = sorted((tmp_path / "pictures").glob("looked_*.png"))
    assert 1 <= len(pictures) <= 6
    captions = [picture_caption(path) for path in pictures]
    assert all("Over the X-ray: attention of the image encoder." in caption for caption in captions)
    noted = [row["case"] for row in case_details(data, "test") if row["note"]]
    shown = [re.search(r"Case (\S+):", caption).group(1) for caption in captions]
    assert page.count('class="note-attention"') == len(set(shown) & set(noted)) > 0
    assert "Cough</span>" in page or "Fell</span>" in page
    assert len(set(shown)) == len(shown)  # a case that errs twice is shown once


def test_another_encoder_gives_another_picture_and_a_convolutional_one_has_no_attention(data, weights, tmp_path):
    first = StudyEncoders(saved_encoders(weights).vision)
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    other = StudyEncoders(VisionEncoder(config=config, embedding=4, image_size=28).eval())
    pages = [compared(data, tmp_path / str(i), encoders) for i, encoders in enumerate((first, other))]
    a, b = (np.asarray(Image.open(tmp_path / str(i) / "pictures" / "looked_1.png")).astype(int) for i in (0, 1))
    assert a.shape == b.shape and (a != b).any()
    assert "saliency (magnitude of its last features) of the image encoder" in pages[1]
    assert "attention of the image encoder" not in pages[1] and 'note-attention"' not in pages[1]


def test_pixels_and_cases_without_image(data, weights, tmp_path):
    cases = [row | {"image": np.full((40, 30), 7, np.uint16) if i % 2 else None}
             for i, row in enumerate(case_details(data, "test"))]  # fmt: skip
    compared(data, tmp_path, saved_encoders(weights), cases=cases)
    given = {row["case"]: row["image"] is not None for row in cases}
    captions = [picture_caption(path) for path in (tmp_path / "pictures").glob("looked_*.png")]
    shown = {re.search(r"Case (\S+):", caption).group(1): "Over the X-ray" in caption for caption in captions}
    assert set(shown.values()) == {True, False} and all(given[case] == over for case, over in shown.items())


def test_what_is_not_shown_is_said_and_old_pictures_go(data, weights, tmp_path):
    compared(data, tmp_path, saved_encoders(weights))
    page = compared(data, tmp_path, None)
    assert "Nothing is shown for all: no weights of its encoders were given." in page
    assert not list((tmp_path / "pictures").glob("looked_*.png"))
    assert "it has neither image nor note encoder" in compared(data, tmp_path, StudyEncoders())
