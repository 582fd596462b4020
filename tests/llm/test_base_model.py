import json

import pytest
import torch

from common.llm.base_model import BaseConversion, OriginalSaver, TowerClassifier, TowerLoader, base_folder, hash_of_base
from common.llm.llava import load_llava
from common.llm.llava_conversion import is_original_layout
from common.networks.weights import MissingWeights, count_parameters, save_parts
from tests.llm.answer_cases import small_tokenizer
from tests.llm.test_answer_model import model
from tests.llm.tiny_llava import VISION, write_original


@pytest.fixture
def made(tmp_path):
    """A base in the making, and its tokenizer as a demo makes it: without `<image>`."""
    from common.llm.tokens import load_tokenizer

    small_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    tokenizer_of_model = small_tokenizer(tmp_path / "other")
    network = model(tokenizer_of_model, r=0)
    network.base.resize_token_embeddings(len(tokenizer))
    return network, tokenizer


def test_what_a_demo_makes_is_converted_as_what_is_published(made, tmp_path):
    network, tokenizer = made
    OriginalSaver(str(tmp_path / "run" / "original"), network, tokenizer)()
    assert is_original_layout(tmp_path / "run" / "original")
    BaseConversion(None, str(tmp_path / "models"), str(tmp_path / "run"), image_size=28).run()
    again = load_llava(base_folder(None, str(tmp_path / "models")), precision="float32")
    known = len(tokenizer)
    for name, tensor in network.base.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name][: len(tensor)], tensor)
        assert len(tensor) in (known, len(again.state_dict()[name]))
    note = json.loads((tmp_path / "run" / "convert" / "history.json").read_text())["notes"][0]
    assert hash_of_base(str(tmp_path / "models" / "base")) in note


def test_where_the_base_is(tmp_path):
    original = write_original(tmp_path / "original")
    with pytest.raises(MissingWeights, match="base does not exist.*make it with COMMAND"):
        base_folder(str(original), str(tmp_path / "models"), "COMMAND")
    BaseConversion(str(original), str(tmp_path / "models"), str(tmp_path / "run"), image_size=28).run()
    converted = base_folder(str(original), str(tmp_path / "models"))
    assert converted == str(tmp_path / "models" / "base")
    assert base_folder(converted, "elsewhere") == converted and base_folder("a/name", "elsewhere") == "a/name"
    BaseConversion(converted, str(tmp_path / "more"), str(tmp_path / "run"), image_size=28).run()
    assert not (tmp_path / "more").exists(), "what is converted stays where it is"
    with pytest.raises(MissingWeights, match="no base is given"):
        BaseConversion(None, str(tmp_path), str(tmp_path / "empty"), make_weights="COMMAND").run()
    assert hash_of_base("a/name") is None


def test_a_tower_learns_labels_from_the_tokens_that_a_projector_reads(made, tmp_path):
    network, _ = made
    classifier = TowerClassifier(VISION | {"model_type": "clip_vision_model"}, labels=3)
    images = torch.randn(2, 3, 28, 28)
    classifier(images).sum().backward()
    trained = [p for params in classifier.groups().values() for p in params]
    assert all(p.grad is not None for p in trained)
    assert sum(p.numel() for p in trained) < count_parameters(classifier), "what comes behind is not trained"
    save_parts(tmp_path / "tower.pt", classifier.parts())
    TowerLoader(str(tmp_path / "tower.pt"), network)()
    expected = classifier.head(network.tokens(images)[1].mean(1))
    torch.testing.assert_close(expected, classifier(images))
