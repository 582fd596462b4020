import json

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.apps.run.bundle import open_bundle, resolve
from common.data.cxr.study_files import fitted_tokenizer, saved_tokenizer
from common.handlers.ema import EMAHandler
from common.handlers.model_parts import ModelPartSaver, PartCheckpointLoader
from common.io.bad_input import BadInput
from common.networks.maisi_vae import MaisiVAE
from common.networks.mdfnet import FeatureMDFNet
from common.networks.slice_refiner import SliceRefiner
from common.networks.slice_unet import SliceUNet
from common.networks.study_encoders import build_network, saved_network
from common.networks.weights import ChosenWeights, MissingWeights, load_part
from tests.clients.packed import REFINER, UNET, VAE
from tests.data.cxr.tiny_study import LABELS
from tests.networks.tiny_mdfnet import make_network

BESIDE = {"text": "tokenizer", "clinical": "clinical.json"}


def state(folder, name="model"):
    return torch.load(folder / f"{name}.pt", weights_only=True)


def parts_of(found):
    return {name.split(".")[0] for name in found}


def test_when_training_completes_weights_and_definitions_are_there(tmp_path):
    network = make_network()
    engine = Engine(lambda *_: None)
    ModelPartSaver(str(tmp_path / "models"), network, labels=LABELS).attach(engine)
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
    ModelPartSaver(str(tmp_path), network, labels=LABELS)()
    config = open_bundle("mdfnet_cxr").config("inference", ckpt_dir=tmp_path)
    built = config.get_parsed_content("network_def")
    assert built.definition() == network.definition() and config["labels"] == list(LABELS)
    assert config.get_parsed_content("network").state_dict().keys() == network.state_dict().keys()


def test_parts_that_are_not_saved_now_stay(tmp_path):
    first, second = make_network(seed=1), make_network(seed=2)
    ModelPartSaver(str(tmp_path), first, labels=LABELS, parts=["vision", "text"])()
    assert parts_of(state(tmp_path)) == {"vision", "text"}
    assert "modalities" not in json.loads((tmp_path / "network.json").read_text())
    ModelPartSaver(str(tmp_path), FeatureMDFNet(second.clinical, second.fusion), labels=LABELS)()
    found = state(tmp_path)
    assert torch.equal(found["vision.projection.weight"], first.vision.projection.weight)
    assert torch.equal(found["fusion.head.0.weight"], second.fusion.head[0].weight)
    overlay = json.loads((tmp_path / "network.json").read_text())
    assert {"vision_def", "text_def", "clinical_def", "fusion_def"} <= overlay.keys()


def test_a_head_stands_beside_the_encoders_it_was_trained_on(tmp_path):
    """A bug: stage 1 run again after stage 2 put its head beside stage 2's encoders."""
    frozen, tuned = make_network(seed=1), make_network(seed=2)
    ModelPartSaver(str(tmp_path), frozen, labels=LABELS, name="encoders", parts=["vision", "text"])()
    ModelPartSaver(str(tmp_path), tuned, labels=LABELS)()
    ModelPartSaver(str(tmp_path), FeatureMDFNet(frozen.clinical, frozen.fusion), labels=LABELS, base="encoders")()
    assert all(torch.equal(state(tmp_path)[name], tensor) for name, tensor in frozen.state_dict().items())
    assert build_network(tmp_path / "network.json").load(tmp_path / "model.pt").definition() == frozen.definition()
    # A packed copy has no such file: its model.pt holds the encoders.
    (tmp_path / "encoders.pt").unlink()
    ModelPartSaver(str(tmp_path), FeatureMDFNet(tuned.clinical, tuned.fusion), labels=LABELS, base="encoders")()
    assert torch.equal(state(tmp_path)["vision.projection.weight"], frozen.vision.projection.weight)


def test_settings_other_than_those_of_the_features_are_refused(tmp_path):
    frozen = make_network()
    head, made = FeatureMDFNet(frozen.clinical, frozen.fusion), {"image_size": 16, "background_passages": 0}
    ModelPartSaver(str(tmp_path), frozen, labels=LABELS, name="encoders", parts=["vision", "text"], settings=made)()
    ModelPartSaver(str(tmp_path), head, labels=LABELS, settings=made, base="encoders")()
    assert json.loads((tmp_path / "network.json").read_text()).items() >= made.items()
    with pytest.raises(BadInput, match=r"has background_passages 0 \(now 2\), expected the same; the stage"):
        ModelPartSaver(str(tmp_path), head, labels=LABELS, settings=made | {"background_passages": 2}, base="encoders")


def test_the_dropout_of_stage_2_is_that_of_the_configuration(tmp_path):
    ModelPartSaver(str(tmp_path), make_network(), labels=LABELS)()
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
        ModelPartSaver(str(tmp_path), frozen, labels=LABELS, settings=made)()
    else:
        ModelPartSaver(str(tmp_path), frozen, labels=LABELS, name="encoders", parts=["vision", "text"], settings=made)()
        ModelPartSaver(str(tmp_path), tuned, labels=LABELS, settings=made)()
    before = (tmp_path / "model.pt").read_bytes()
    name = "baselines/text/model"
    ModelPartSaver(
        str(tmp_path),
        FeatureMDFNet(None, subset.fusion),
        labels=LABELS,
        name=name,
        settings=made,
        base="encoders",
        beside=BESIDE,
    )()
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
    ModelPartSaver(str(tmp_path), saved, labels=LABELS)()
    network = other if whole else FeatureMDFNet(other.clinical, other.fusion)  # stage 1 has no encoders
    engine = Engine(lambda *_: None)
    PartCheckpointLoader(str(tmp_path / "model.pt"), network).attach(engine)
    engine.run([0])
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_weights_of_other_parts_are_refused(tmp_path):
    with pytest.raises(MissingWeights, match="model.pt does not exist; make it with"):
        PartCheckpointLoader(str(tmp_path / "model.pt"), make_network())()
    ModelPartSaver(str(tmp_path), make_network(("vision",)), labels=LABELS)()
    with pytest.raises(ValueError, match="model.pt does not fit: [1-9]"):
        PartCheckpointLoader(str(tmp_path / "model.pt"), make_network())()


# ---- a network that is one part of a file --------------------------------------------------------------------------

MAKERS = {"vae": lambda: MaisiVAE(**VAE), "unet": lambda: SliceUNet(**UNET), "refiner": lambda: SliceRefiner(**REFINER)}
SIZES = {"vae": VAE, "unet": UNET, "refiner": REFINER}


def small_parts(seed=0):
    torch.manual_seed(seed)
    return {part: make() for part, make in MAKERS.items()}


def flat(sizes):
    return {f"{part}_def#{key}": value for part, given in sizes.items() for key, value in given.items()}


def test_the_stages_of_a_recipe_fill_one_file(tmp_path):
    parts = small_parts()
    for part, network in parts.items():
        extra, settings = ({"scale_factor": 0.5}, {"sampler#_target_": "x"}) if part == "unet" else (None, None)
        ModelPartSaver(str(tmp_path), network, part, extra=extra, settings=settings, final=True)()
    model, final = state(tmp_path), state(tmp_path, "model_final")  # which MONAI's federated client asks for
    expected = {f"{part}.{key}": t for part, net in parts.items() for key, t in net.state_dict().items()}
    assert final.keys() == model.keys() == expected.keys() | {"scale_factor"} and model["scale_factor"] == 0.5
    assert all(torch.equal(final[key], t) and torch.equal(model[key], t) for key, t in expected.items())
    overlay = json.loads((tmp_path / "network.json").read_text())
    assert overlay.items() >= (flat(SIZES) | {"sampler#_target_": "x"}).items()
    again = {part: type(net)(**{k.split("#")[1]: v for k, v in overlay.items() if k.startswith(f"{part}_def#")})
             for part, net in parts.items()}  # fmt: skip
    assert all(net.definition() == parts[part].definition() for part, net in again.items())
    for part, net in again.items():
        load_part(net, tmp_path / "model.pt", part)
    assert not list(tmp_path.glob(".*"))


def test_another_size_of_a_part_replaces_the_one_before(tmp_path):
    ModelPartSaver(str(tmp_path), SliceRefiner(3, [8, 16], [1, 1]), "refiner")()
    ModelPartSaver(str(tmp_path), SliceRefiner(5, [8], [1]), "refiner")()
    assert "refiner.body.down.0.weight" not in state(tmp_path)
    overlay = json.loads((tmp_path / "network.json").read_text())
    assert overlay["refiner_def#context"] == 5 and overlay["refiner_def#channels"] == [8]


def test_the_average_is_what_is_saved_and_a_choice_of_names_what_is_saved_of_it(tmp_path):
    refiner = small_parts()["refiner"]
    ema = EMAHandler(refiner, 0.5)
    nn.init.ones_(refiner.body.head.bias)
    ModelPartSaver(str(tmp_path), ema.weights, "refiner")()
    assert not state(tmp_path)["refiner.body.head.bias"].any()
    ModelPartSaver(str(tmp_path), ChosenWeights(refiner, ["body.head.*"]), "refiner")()
    assert state(tmp_path).keys() == {"refiner.body.head.weight", "refiner.body.head.bias"}
    other = small_parts(1)["refiner"]
    stem = other.body.stem.weight.clone()
    PartCheckpointLoader(str(tmp_path / "model.pt"), ChosenWeights(other, ["body.head.*"]), "refiner")()
    assert torch.equal(other.body.head.bias, refiner.body.head.bias) and torch.equal(other.body.stem.weight, stem)


def test_one_part_is_loaded_when_an_engine_starts(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(MissingWeights, match="model.pt does not exist; make it with the command, then --ckpt_dir"):
        PartCheckpointLoader(str(path), small_parts()["unet"], "unet", "the command")()
    saved, other = small_parts()["unet"], small_parts(1)["unet"]
    ModelPartSaver(str(tmp_path), saved, "unet")()
    engine = Engine(lambda *_: None)
    PartCheckpointLoader(str(path), other, "unet").attach(engine)
    engine.run([0])
    assert all(torch.equal(t, other.state_dict()[key]) for key, t in saved.state_dict().items())
    with pytest.raises(MissingWeights, match="model.pt holds no vae weights; make it with"):
        PartCheckpointLoader(str(path), small_parts()["vae"], "vae")()


# ---- what was written before networks said their own sizes ---------------------------------------------------------


def test_a_checkpoint_of_slice_interpolation_in_the_old_form_loads_and_is_gone_on_with(tmp_path):
    parts = small_parts()
    tensors = {f"{part}.{key}": t for part, net in parts.items() for key, t in net.state_dict().items()}
    torch.save(tensors | {"scale_factor": torch.tensor(0.5)}, tmp_path / "model.pt")
    old = flat(SIZES) | {"sampler#_target_": "common.inferers.diffusion_samplers.RFlowSampler"}
    (tmp_path / "network.json").write_text(json.dumps(old, indent=4) + "\n")
    config = open_bundle("ct_slice_interpolation").config(
        "inference", ckpt_dir=tmp_path, overrides={"mode": "diffusion"}
    )
    network, sampler = resolve(config, "network", "sampler")
    assert network.state_dict().keys() == tensors.keys() | {"scale_factor"} and network.scale_factor == 0.5
    assert all(torch.equal(network.state_dict()[key], t) for key, t in tensors.items())
    assert type(sampler).__name__ == "RFlowSampler"
    ModelPartSaver(str(tmp_path), parts["refiner"], "refiner")()
    assert json.loads((tmp_path / "network.json").read_text()).items() >= old.items()
    assert state(tmp_path).keys() == tensors.keys() | {"scale_factor"}


OLD_STUDY = (
    {"vision_def": {"_target_": "common.networks.vision_encoder.VisionEncoder", "_disabled_":
    "$'vision' not in @modalities", "config": {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 8, "pooler_output_size": 16},
    "embedding": 10, "image_size": 16, "gradient_checkpointing": False, "mean": [0.485, 0.456, 0.406], "std": [0.229,
    0.224, 0.225]}, "text_def": {"_target_": "common.networks.text_encoder.TextEncoder", "_disabled_":
    "$'text' not in @modalities", "config": {"model_type": "modernbert", "vocab_size": 90, "hidden_size": 12,
    "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 3,
    "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 3, "layer_types": ["full_attention"]}, "pooling": "cls",
    "gradient_checkpointing": False}, "clinical_def": {"_target_": "common.networks.clinical_encoder.ClinicalEncoder",
    "_disabled_": "$'clinical' not in @modalities", "inputs": 45, "hidden": [8], "dropout": 0.1}, "fusion_def":
    {"_target_": "common.networks.modality_fusion.FusionHead", "modalities": ["vision", "text", "clinical"], "labels":
    2, "sizes": {"vision": 10, "text": 12, "clinical": 8}, "width": 8, "heads": 2, "hidden": [8, 8], "dropout_fusion":
    0.3, "dropout_head": [0.3, 0.2], "modality_dropout": 0.1}, "modalities": ["vision", "text", "clinical"], "labels":
    ["Edema", "Fracture"], "image_size": 16, "max_tokens": 64}
)  # fmt: skip


def test_the_definitions_of_mdfnet_are_what_they_were(tmp_path):
    network, made = make_network(), {"image_size": 16, "max_tokens": 64}
    torch.save(network.state_dict(), tmp_path / "model.pt")
    (tmp_path / "network.json").write_text(json.dumps(OLD_STUDY, indent=1) + "\n")
    found = saved_network(str(tmp_path))
    assert all(torch.equal(t, network.state_dict()[key]) for key, t in found.state_dict().items())
    config = open_bundle("mdfnet_cxr").config("inference", ckpt_dir=tmp_path)
    assert resolve(config, "network")[0].definition() == network.definition()
    ModelPartSaver(str(tmp_path / "new"), network, labels=LABELS, settings=made)()
    assert json.loads((tmp_path / "new" / "network.json").read_text()) == OLD_STUDY
