"""What may lie beside weights: sizes, and nothing that runs, is looked up or is fetched."""

import json

import pytest

from common.handlers.model_parts import ModelPartSaver
from common.io.bad_input import BadInput
from common.networks.definitions import read_definitions
from tests.data.cxr.tiny_study import LABELS
from tests.networks.tiny_mdfnet import make_network

CODE = "$__import__('os').mkdir('RAN')"
EVIL = {
    "another id": {"initialize": [CODE]},
    "an expression for a size": {"refiner_def#context": CODE},
    "an expression in a list": {"vae_def": {"num_channels": ["$print(1)"]}},
    "a target": {"vae_def": {"_target_": "os.mkdir", "path": "RAN"}},
    "a target of the library that is no network": {"vae_def#_target_": "common.apps.predict.predict"},
    "another condition": {"vae_def": {"_disabled_": "$__import__('os').mkdir('RAN')"}},
    "a model to fetch": {"text_def": {"model": "somebody/weights"}},
    "code of a model": {"text_def": {"config": {"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}}},
    "a kernel to fetch": {"text_def": {"config": {"model_type": "bert", "x": "kernels-community/y"}}},
    "a reference": {"image_size": "@seed"},
    "labels that are read": {"labels": ["a", CODE]},
    "a context": {"context": ["$import os"]},
    "a context that is no list": {"context": "indication"},
    "a sampler": {"sampler#_target_": "os.system"},
    "a path": {"ckpt_dir": "/etc"},
    "no number": {"image_size": float("nan")},
    "a deeper id": {"vae_def#config#a": 1},
    "an import": {"imports": ["$import os"]},
    "in the other spelling": {"train::run": [CODE]},
}


@pytest.mark.parametrize("kind", EVIL)
def test_what_is_no_size_is_refused(tmp_path, kind):
    (tmp_path / "network.json").write_text(json.dumps(EVIL[kind]))
    with pytest.raises(BadInput, match=r"network.json: sets .*, expected sizes alone"):
        read_definitions(tmp_path / "network.json")


@pytest.mark.parametrize(("text", "why"), [("{", "is not JSON"), ("[]", "holds a list"), ("[" * 99999, "is not JSON")])
def test_a_damaged_file_is_named(tmp_path, text, why):
    (tmp_path / "network.json").write_text(text)
    with pytest.raises(BadInput, match=f"network.json: {why}.*expected .*sizes of a network"):
        read_definitions(tmp_path / "network.json")


def test_what_a_training_writes_is_accepted(tmp_path):
    settings = {"image_size": 28, "max_tokens": 64, "background_passages": 0, "views": ["PA", "AP"]}
    ModelPartSaver(str(tmp_path), make_network(), labels=LABELS, settings=settings)()
    assert read_definitions(tmp_path / "network.json").items() >= settings.items()
    old = {"vae_def#num_channels": [8], "sampler#_target_": "common.inferers.diffusion_samplers.RFlowSampler"}
    (tmp_path / "network.json").write_text(json.dumps(old))
    assert read_definitions(tmp_path / "network.json") == old
