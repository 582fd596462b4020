import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.llm.load import load_language_model
from common.networks.weights import count_parameters
from tests.llm.tiny_bart import SIZES

BART_LARGE = {"model_type": "bart"}  # Hugging Face's defaults are BART-large


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bart")
    load_language_model(config=SIZES, text_encoder=True).save_pretrained(path)
    return path


def test_published_sizes():
    with torch.device("meta"):
        whole = load_language_model(config=BART_LARGE, text_encoder=True)
        network = load_language_model(config=BART_LARGE)
    assert count_parameters(whole) == 406_291_456 and count_parameters(whole.model.decoder) == 254_084_096
    assert count_parameters(network) < 256e6


def test_weights_are_those_of_the_folder(folder):
    whole, network = load_language_model(str(folder), text_encoder=True), load_language_model(str(folder))
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in whole.state_dict().items() if name in saved)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert len(network.model.encoder.layers) == 0 and len(network.model.decoder.layers) == 2


def test_every_parameter_that_is_trained_gets_a_gradient(folder):
    network = load_language_model(str(folder))
    states = torch.randn(2, 3, 16)
    network(encoder_outputs=(states,), labels=torch.tensor([[0, 5, 2], [0, 7, 2]])).loss.backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith("model.encoder.") for name in frozen)


def test_a_checkpoint_without_a_tensor_is_refused_by_its_name(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    del state["model.decoder.layers.1.fc1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no weights for 1 of .* \(model.decoder.layers.1.fc1.weight\)"):
        load_language_model(str(tmp_path))


def test_a_causal_model_by_its_sizes():
    sizes = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 32}
    network = load_language_model(config=sizes)
    assert type(network).__name__ == "GPT2LMHeadModel" and network.dtype == torch.float32


def test_a_folder_in_half_precision_is_read_in_fp32(folder, tmp_path):
    load_language_model(str(folder), text_encoder=True).half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert load_language_model(str(tmp_path)).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({}, ValueError, "neither model nor config"),
        ({"config": {"vocab_size": 3}}, ValueError, "has no model_type"),
        ({"config": {"model_type": "t5"}}, ValueError, "t5 has no encoder_layers"),
        ({"model": "no/such"}, FileNotFoundError, "downloading is off"),
    ],
)
def test_what_cannot_be_loaded(given, error, sentence):
    with pytest.raises(error, match=sentence):
        load_language_model(**given)
