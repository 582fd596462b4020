import json

import pytest
import torch

from common.handlers.model_parts import ModelPartSaver
from common.io.bad_input import BadInput
from common.networks.mdfnet import FeatureMDFNet
from common.networks.study_encoders import build_network, frozen_encoders, saved_network
from common.networks.weights import MissingWeights, freeze, save_parts
from tests.data.cxr.tiny_study import LABELS
from tests.networks.tiny_mdfnet import make_network

COMMAND = "python -m common run bundles/mdfnet_cxr --scale demo"


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_encoders_get_the_weights_of_a_checkpoint_and_are_frozen(tmp_path):
    source, network = make_network(seed=1), make_network(seed=2)
    ModelPartSaver(str(tmp_path), source, labels=LABELS, parts=["vision", "text"])()
    assert not same(network.vision, source.vision)
    found = frozen_encoders(network, str(tmp_path / "model.pt"))
    assert found is network and same(found.vision, source.vision) and same(found.text, source.text)
    trains = {name.split(".")[0] for name, p in found.named_parameters() if p.requires_grad}
    assert trains == {"clinical", "fusion"}
    assert not found.train().vision.training and found.clinical.training


def test_an_encoder_with_weights_of_its_own_needs_no_checkpoint(tmp_path):
    network = make_network()
    network.vision.has_weights = network.text.has_weights = True
    before = network.vision.projection.weight.clone()
    frozen_encoders(network, str(tmp_path / "model.pt"))
    assert torch.equal(network.vision.projection.weight, before) and not network.vision.projection.weight.requires_grad


@pytest.mark.parametrize("part", ["vision", "text"])
def test_missing_weights_name_the_option_and_the_command(tmp_path, part):
    """A bug: for a model.pt without the encoder the sentence named the command of another bundle."""
    network = make_network((part,))
    with pytest.raises(MissingWeights, match=f"--{part}_weights names none and .*model.pt does not exist.*{COMMAND}"):
        frozen_encoders(network, str(tmp_path / "model.pt"), COMMAND)
    save_parts(tmp_path / "model.pt", {"fusion": network.fusion})
    with pytest.raises(MissingWeights, match=f"--{part}_weights names none and .*model.pt holds none.*{COMMAND}"):
        frozen_encoders(network, str(tmp_path / "model.pt"), COMMAND)


def test_weights_of_another_size_are_refused(tmp_path):
    network = make_network(("vision",))
    save_parts(tmp_path / "model.pt", {"vision": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="model.pt: vision does not fit"):
        frozen_encoders(network, str(tmp_path / "model.pt"))


def test_the_network_that_a_stage_saved_comes_back_and_trains(tmp_path):
    source = make_network(seed=3)
    freeze(source.vision)
    freeze(source.text)
    ModelPartSaver(str(tmp_path), source, labels=LABELS)()
    network = saved_network(str(tmp_path))
    assert same(network, source) and all(p.requires_grad for p in network.parameters())
    assert network.train().vision.training
    shell = build_network(tmp_path / "network.json")
    assert shell.definition() == source.definition() and not same(shell, source)


def test_stage_1_leaves_a_network_for_stage_2(tmp_path):
    encoders, trained = make_network(seed=4), make_network(seed=5)
    ModelPartSaver(str(tmp_path), encoders, labels=LABELS, parts=["vision", "text"])()
    ModelPartSaver(str(tmp_path), FeatureMDFNet(trained.clinical, trained.fusion), labels=LABELS)()
    network = saved_network(str(tmp_path))
    assert same(network.vision, encoders.vision) and same(network.text, encoders.text)
    assert same(network.clinical, trained.clinical) and same(network.fusion, trained.fusion)


@pytest.mark.parametrize("name", ["network.json", "model.pt"])
def test_a_checkpoint_folder_that_lacks_a_file_names_the_command(tmp_path, name):
    ModelPartSaver(str(tmp_path), make_network(), labels=LABELS)()
    (tmp_path / name).unlink()
    with pytest.raises(MissingWeights, match=f"{name} does not exist; make it with {COMMAND}, then --ckpt_dir"):
        saved_network(str(tmp_path), make_weights=COMMAND)


def test_a_subset_is_built_without_the_parts_it_has_not(tmp_path):
    ModelPartSaver(str(tmp_path), make_network(("text", "clinical")), labels=LABELS)()
    content = json.loads((tmp_path / "network.json").read_text())
    assert content["modalities"] == ["text", "clinical"] and "vision_def" not in content
    assert saved_network(str(tmp_path)).modalities == ("text", "clinical")


def test_the_size_that_is_trained_is_the_size_that_is_saved(tmp_path):
    """A bug: network.json had two sizes, and inference read the older one."""
    ModelPartSaver(str(tmp_path / "one"), make_network(), labels=LABELS, settings={"image_size": 16})()
    network = saved_network(str(tmp_path / "one"), image_size=24).eval()
    ModelPartSaver(str(tmp_path / "two"), network, labels=LABELS, settings={"image_size": 24})()
    content = json.loads((tmp_path / "two" / "network.json").read_text())
    assert content["vision_def"]["image_size"] == content["image_size"] == 24
    assert content["vision_def"]["config"]["image_size"] == 16  # of the table of positions, which are interpolated
    again = saved_network(str(tmp_path / "two")).eval()
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.vision(image), network.vision(image)) and again.vision.image_size == 24


def test_recomputing_activations_is_as_it_is_asked_for(tmp_path):
    ModelPartSaver(str(tmp_path), make_network(), labels=LABELS)()
    network = saved_network(str(tmp_path), gradient_checkpointing=True)
    assert network.vision.gradient_checkpointing and network.text.gradient_checkpointing
    ModelPartSaver(str(tmp_path), network, labels=LABELS)()
    assert not saved_network(str(tmp_path)).vision.gradient_checkpointing


def test_a_training_of_other_modalities_is_refused(tmp_path):
    """A bug: all encoders trained, whatever subset was asked for."""
    ModelPartSaver(str(tmp_path), make_network(), labels=LABELS)()
    with pytest.raises(BadInput, match=r"takes vision, text, clinical \(asked for vision\).*--stages vision_stage2"):
        saved_network(str(tmp_path), modalities=["vision"])
    assert saved_network(str(tmp_path), modalities=["clinical", "text", "vision"]).modalities
