import json

import pytest
import torch
from ignite.engine import Engine

from common.apps.run.bundle import open_bundle
from common.data.datasets.study_files import fitted_tokenizer, saved_tokenizer
from common.handlers.study_parts import StudyCheckpointLoader, StudyPartsSaver
from common.io.bad_input import BadInput
from common.networks.mdfnet import FeatureMDFNet
from common.networks.slice_interpolator import MissingWeights
from common.networks.study_encoders import build_network, saved_network
from tests.data.datasets.tiny_study import LABELS
from tests.networks.tiny_mdfnet import make_network


def state(folder, name="model"):
    return torch.load(folder / f"{name}.pt", weights_only=True)


def parts_of(found):
    return {name.split(".")[0] for name in found}


def test_when_training_completes_weights_and_definitions_are_there(tmp_path):
    network = make_network()
    engine = Engine(lambda *_: None)
    StudyPartsSaver(str(tmp_path / "models"), network, LABELS).attach(engine)
    engine.run([0])
    found = state(tmp_path / "models")
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    overlay = json.loads((tmp_path / "models" / "network.json").read_text())
    assert overlay["labels"] == list(LABELS) and overlay["modalities"] == ["vision", "text", "clinical"]
    assert build_network(tmp_path / "models" / "network.json").definition() == network.definition()
    assert not list((tmp_path / "models").glob(".*"))


def test_inference_builds_the_network_from_the_overlay(tmp_path):
    network = make_network(("vision", "clinical"))
    StudyPartsSaver(str(tmp_path), network, LABELS)()
    config = open_bundle("mdfnet_cxr").config("inference", ckpt_dir=tmp_path)
    built = config.get_parsed_content("network_def")
    assert built.definition() == network.definition() and config["labels"] == list(LABELS)
    assert config.get_parsed_content("network").state_dict().keys() == network.state_dict().keys()


def test_parts_that_are_not_saved_now_stay(tmp_path):
    first, second = make_network(seed=1), make_network(seed=2)
    StudyPartsSaver(str(tmp_path), first, LABELS, parts=["vision", "text"])()
    assert parts_of(state(tmp_path)) == {"vision", "text"}
    assert "modalities" not in json.loads((tmp_path / "network.json").read_text())
    StudyPartsSaver(str(tmp_path), FeatureMDFNet(second.clinical, second.fusion), LABELS)()
    found = state(tmp_path)
    assert torch.equal(found["vision.projection.weight"], first.vision.projection.weight)
    assert torch.equal(found["fusion.head.0.weight"], second.fusion.head[0].weight)
    overlay = json.loads((tmp_path / "network.json").read_text())
    assert {"vision_def", "text_def", "clinical_def", "fusion_def"} <= overlay.keys()


def test_a_head_stands_beside_the_encoders_it_was_trained_on(tmp_path):
    """A bug: stage 1 run again after stage 2 put its head beside stage 2's encoders."""
    frozen, tuned = make_network(seed=1), make_network(seed=2)
    StudyPartsSaver(str(tmp_path), frozen, LABELS, "encoders", ["vision", "text"])()
    StudyPartsSaver(str(tmp_path), tuned, LABELS)()
    StudyPartsSaver(str(tmp_path), FeatureMDFNet(frozen.clinical, frozen.fusion), LABELS, base="encoders")()
    assert all(torch.equal(state(tmp_path)[name], tensor) for name, tensor in frozen.state_dict().items())
    assert build_network(tmp_path / "network.json").load(tmp_path / "model.pt").definition() == frozen.definition()
    # A packed copy has no such file: its model.pt holds the encoders.
    (tmp_path / "encoders.pt").unlink()
    StudyPartsSaver(str(tmp_path), FeatureMDFNet(tuned.clinical, tuned.fusion), LABELS, base="encoders")()
    assert torch.equal(state(tmp_path)["vision.projection.weight"], frozen.vision.projection.weight)


def test_settings_other_than_those_of_the_features_are_refused(tmp_path):
    frozen = make_network()
    head, made = FeatureMDFNet(frozen.clinical, frozen.fusion), {"image_size": 16, "background_passages": 0}
    StudyPartsSaver(str(tmp_path), frozen, LABELS, "encoders", ["vision", "text"], made)()
    StudyPartsSaver(str(tmp_path), head, LABELS, settings=made, base="encoders")()
    assert json.loads((tmp_path / "network.json").read_text()).items() >= made.items()
    with pytest.raises(BadInput, match=r"has background_passages 0 \(now 2\), expected the same; features"):
        StudyPartsSaver(str(tmp_path), head, LABELS, settings=made | {"background_passages": 2}, base="encoders")


def test_the_dropout_of_stage_2_is_that_of_the_configuration(tmp_path):
    StudyPartsSaver(str(tmp_path), make_network(), LABELS)()
    network = saved_network(str(tmp_path), {"dropout_fusion": 0.4, "dropout_head": [0.1, 0.0]}, True)
    assert network.fusion.dropout.p == 0.4 and network.fusion.definition()["dropout_head"] == [0.1, 0.0]
    assert network.text.gradient_checkpointing


@pytest.mark.parametrize("packed", [False, True])
def test_a_baseline_is_a_checkpoint_folder_of_its_own(tmp_path, packed):
    """A bug: it held its head alone, and no verb could use it."""
    frozen, tuned, subset = make_network(seed=1), make_network(seed=2), make_network(("text",), seed=3)
    made = {"max_tokens": 64}
    fitted_tokenizer([{"note": "cough"}], str(tmp_path), vocab_size=90)
    if packed:  # such a copy has no encoders.pt, its model.pt holds them
        StudyPartsSaver(str(tmp_path), frozen, LABELS, settings=made)()
    else:
        StudyPartsSaver(str(tmp_path), frozen, LABELS, "encoders", ["vision", "text"], made)()
        StudyPartsSaver(str(tmp_path), tuned, LABELS, settings=made)()
    before = (tmp_path / "model.pt").read_bytes()
    name = "baselines/text/model"
    StudyPartsSaver(str(tmp_path), FeatureMDFNet(None, subset.fusion), LABELS, name, None, made, "encoders")()
    assert (tmp_path / "model.pt").read_bytes() == before
    folder = tmp_path / "baselines" / "text"
    assert {path.name for path in folder.iterdir()} == {"model.pt", "network.json", "tokenizer"}
    assert parts_of(state(folder)) == {"text", "fusion"}
    overlay = json.loads((folder / "network.json").read_text())
    assert overlay.keys() == {"modalities", "text_def", "fusion_def", "labels", "max_tokens"}
    network = saved_network(str(folder))
    expected = {f"text.{k}": v for k, v in frozen.text.state_dict().items()}
    expected |= {f"fusion.{k}": v for k, v in subset.fusion.state_dict().items()}
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(network.state_dict()[k], v) for k, v in expected.items())
    assert saved_tokenizer(str(folder)).encode("cough") == saved_tokenizer(str(tmp_path)).encode("cough")


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_saved_is_loaded_when_an_engine_starts(tmp_path, whole):
    saved, other = make_network(seed=1), make_network(seed=2)
    StudyPartsSaver(str(tmp_path), saved, LABELS)()
    network = other if whole else FeatureMDFNet(other.clinical, other.fusion)  # stage 1 has no encoders
    engine = Engine(lambda *_: None)
    StudyCheckpointLoader(str(tmp_path / "model.pt"), network).attach(engine)
    engine.run([0])
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_weights_of_other_parts_are_refused(tmp_path):
    with pytest.raises(MissingWeights, match="model.pt does not exist; make it with"):
        StudyCheckpointLoader(str(tmp_path / "model.pt"), make_network())()
    StudyPartsSaver(str(tmp_path), make_network(("vision",)), LABELS)()
    with pytest.raises(ValueError, match="model.pt does not fit: [1-9]"):
        StudyCheckpointLoader(str(tmp_path / "model.pt"), make_network())()
