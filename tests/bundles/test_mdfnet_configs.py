"""The configurations of the bundle: sizes and numbers of the document, and ids that clients rely on."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from monai.bundle import ConfigParser

from common.apps.bundle import open_bundle
from common.apps.check import check_bundle
from common.apps.plan import plan_bundle
from common.apps.recipe import merged_stage, read_recipe, scale_names
from common.data.modalities import MODALITIES
from common.networks.modality_fusion import SUBSETS
from common.networks.pretrained_encoder import count_parameters
from common.text.cxr_labeller import CHEXPERT_LABELS

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "mdfnet_cxr"
CONFIGS = BUNDLE / "configs"
SCHEMA = ROOT.parent / "shared" / "data" / "monai_schema" / "meta_schema_20240725.json"
STAGES = [stage.name for stage in read_recipe(open_bundle(BUNDLE))]
NO_PLACES = {"dataset_dir": "data", "output_dir": "out", "ckpt_dir": "models"}


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def stage_config(name, scale="paper", places=NO_PLACES, overrides=None):
    return merged_stage(open_bundle(BUNDLE), name, scale, places, overrides or {}).config


def build_on_meta(parser):
    with torch.device("meta"):
        return {part: parser.get_parsed_content(f"{part}_def") for part in ("vision", "text", "clinical", "fusion")}


@pytest.mark.parametrize("name", ["train", "inference"])
def test_paper_size_parameter_counts(name):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json")])
    parts = build_on_meta(parser)
    sizes = {name: count_parameters(part) for name, part in parts.items()}
    assert abs(sizes["vision"] - 87e6) < 0.5e6 and sizes["vision"] == 86_972_928
    assert abs(sizes["text"] - 149e6) < 0.5e6 and sizes["text"] == 149_014_272
    assert [layer.in_features for layer in parts["clinical"].modules() if isinstance(layer, torch.nn.Linear)] == [
        45, 256, 256,
    ]  # fmt: skip
    fusion = parts["fusion"]
    layers = [layer for layer in fusion.head if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(768, 512), (512, 256), (256, 14)]
    assert sum(count_parameters(layer) for layer in layers[:2]) == 525_056  # the document's 525 K
    assert fusion.sizes == {"vision": 512, "text": 768, "clinical": 256} and fusion.attention.num_heads == 8
    assert parts["text"].max_tokens == 8192 and parts["vision"].model.config.patch_size == 14


def test_training_and_inference_build_the_same_parts():
    parsers = [ConfigParser(), ConfigParser()]
    for parser, name in zip(parsers, ("train", "inference"), strict=True):
        parser.read_config([str(CONFIGS / f"{name}.json")])
    one, two = (build_on_meta(parser) for parser in parsers)
    for part in one:
        assert one[part].definition() == two[part].definition(), part


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_subset_is_a_stage_with_its_own_parts(subset):
    name = "stage1" if subset == "all" else subset
    parser = ConfigParser(stage_config(name))
    wanted = MODALITIES if subset == "all" else tuple(subset.split("_"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert network.modalities == wanted and (network.clinical is not None) == ("clinical" in wanted)
    assert parser["train#model_part#name"] == ("model" if subset == "all" else f"baselines/{subset}")


def test_the_documents_hyperparameters():
    train, stage1 = stage_config("stage1"), config("train")
    assert (train["batch_size"], train["accumulation_steps"], train["warmup_epochs"]) == (16, 2, 3)
    assert (train["max_epochs"], train["lr_stage1"], train["weight_decay"]) == (15, 1e-3, 1e-4)
    assert (train["dropout_fusion"], train["dropout_head1"], train["dropout_head2"]) == (0.3, 0.3, 0.2)
    parser = ConfigParser(train)
    weights = [parser.get_parsed_content(name) for name in ("bce_weight", "focal_weight", "focal_alpha", "focal_gamma")]
    assert weights == pytest.approx([0.7, 0.3, 0.25, 2.0])
    assert (train["early_stopping"], train["max_grad_norm"], train["precision"]) == (5, 1.0, "bfloat16")
    assert train["best"]["criteria"] == {
        "best_auroc": "pooled_auroc", "best_mean": "mean_auroc", "best_rare": "rare_auroc",
    }  # fmt: skip
    assert (train["best"]["every"], train["best"]["n_saved"]) == (5, 3)
    assert tuple(stage1["labels"]) == CHEXPERT_LABELS and stage1["small_sample"] is None
    assert (stage1["image_size"], stage1["max_tokens"], stage1["layout"]) == (518, 8192, "mimic_cxr")
    stage2 = stage_config("stage2")
    assert (stage2["max_epochs"], stage2["warmup_epochs"], stage2["batch_size"]) == (30, 3, 16)
    rates = [stage2[f"lr_{group}_stage2"] for group in ("encoders", "fusion", "head")]
    assert rates == [1e-5, 1e-4, 1e-4] and list(stage2["learning_rates"]) == ["encoders", "fusion", "head"]
    for name in ("vision", "text", "clinical", "vision_text", "vision_clinical", "text_clinical"):
        baseline = stage_config(name)
        same = ("batch_size", "max_epochs", "learning_rates", "weight_decay", "warmup_epochs", "loss", "optimizer")
        assert {key: baseline[key] for key in same} == {key: train[key] for key in same}, name


def test_the_documents_search_space():
    space = {name: entry["values"] for name, entry in config("search")["space"].items()}
    assert {name: sorted(values) for name, values in space.items()} == {
        "lr_stage1": [5e-4, 1e-3, 2e-3],
        "lr_encoders_stage2": [5e-6, 1e-5, 2e-5],
        "lr_fusion_stage2": [5e-5, 1e-4, 2e-4],
        "weight_decay": [1e-5, 1e-4, 1e-3],
        "dropout_fusion": [0.2, 0.3, 0.4],
        "dropout_head": [0.2, 0.3, 0.4],
        "bce_weight": [0.6, 0.7, 0.8],
        "focal_alpha": [0.2, 0.25, 0.3],
        "focal_gamma": [1.5, 2.0, 2.5],
    }
    assert space.keys() <= config("train").keys()


def test_the_hyperparameters_reach_the_objects():
    """The names of the document are no decoration: what is built has their values."""
    settings = {"bce_weight": 0.6, "focal_weight": 0.4, "focal_alpha": 0.2, "focal_gamma": 3.0, "dropout_fusion": 0.4,
                "dropout_head1": 0.1, "dropout_head2": 0.5, "weight_decay": 1e-3, "lr_stage1": 5e-4,
                "lr_encoders_stage2": 2e-5, "lr_fusion_stage2": 5e-5, "lr_head_stage2": 2e-4}  # fmt: skip
    parser = ConfigParser(stage_config("stage1"))
    parser.update({key: value for key, value in settings.items() if key in parser.config})
    parser["loss#class_weights"] = None  # they would come from the data
    loss, network, optimizer = (parser.get_parsed_content(name) for name in ("loss", "network_def", "optimizer"))
    assert (loss.bce_weight, loss.focal_weight, loss.alpha, loss.gamma) == (0.6, 0.4, 0.2, 3.0)
    rates = [layer.p for layer in network.fusion.head if isinstance(layer, torch.nn.Dropout)]
    assert network.fusion.dropout.p == 0.4 and rates == [0.1, 0.5]
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {"fusion": (5e-4, 1e-3), "head": (5e-4, 1e-3)}
    stage2 = ConfigParser(stage_config("stage2", overrides=settings))
    rates = stage2.get_parsed_content("learning_rates")
    assert rates == {"encoders": 2e-5, "fusion": 5e-5, "head": 2e-4}


def test_metadata_is_valid():
    meta = config("metadata")
    assert meta["version"] in meta["changelog"]
    inputs, outputs = (meta["network_data_format"][key] for key in ("inputs", "outputs"))
    assert next(iter(inputs)) == "image" and next(iter(outputs)) == "pred"
    assert tuple(outputs["pred"]["channel_def"].values()) == CHEXPERT_LABELS
    if not SCHEMA.is_file():
        pytest.skip("the metadata schema is not here")
    jsonschema.validate(meta, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("scale", scale_names(open_bundle(BUNDLE), read_recipe(open_bundle(BUNDLE))))
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_parses_at_every_scale(name, scale):
    """Every reference of the merged files finds what it names."""
    found = stage_config(name, scale)
    parser = ConfigParser(found)
    parser.parse()
    for key in ("train", "validate", "test", "run", "initialize", "optimizer", "best"):
        resolved = parser.get_parsed_content(key, instantiate=False, eval_expr=False)
        assert resolved is not None, key


@pytest.mark.parametrize("name", ["features", "encoders", "stage2"])
def test_a_label_policy_is_for_training_alone(name):
    """Uncertain labels may be smoothed to train on them; a model is scored on what is known."""
    cases = ConfigParser(stage_config(name, overrides={"label_policy": "lsr"})).get_parsed_content(
        "cases", instantiate=False
    )
    found = {split: cases[split].get_config().get("policy", "ignore") for split in ("train", "val", "test")}
    assert found == {"train": "lsr", "val": "ignore", "test": "ignore"}


@pytest.mark.parametrize("name", [p.stem for p in CONFIGS.glob("*.json")])
def test_every_overlay_changes_something_that_exists(name):
    """An overlay's `a#b` must find its `a` in the files it goes over."""
    if name in ("metadata", "recipe", "inference", "search"):
        pytest.skip("is no overlay")
    base = config("train") | (config("stage2") if name == "encoders" else {})
    for key in config(name):
        node = base
        for part in key.split("#")[:-1]:
            node = node[int(part)] if isinstance(node, list) else node[part]


def test_standard_ids_are_there():
    train, inference = config("train"), config("inference")
    for key in ("bundle_root", "device", "dataset_dir", "val_interval", "network_def", "initialize", "run"):
        assert key in train
    for key in ("trainer", "dataset", "inferer", "handlers", "preprocessing", "postprocessing", "key_metric"):
        assert key in train["train"]
    for key in ("evaluator", "dataset", "dataloader", "handlers", "inferer", "key_metric"):
        assert key in train["validate"]
    for key in ("bundle_root", "device", "dataset_dir", "dataset", "evaluator", "network_def", "inferer"):
        assert key in inference


def test_check_finds_nothing():
    assert check_bundle(BUNDLE) == []


def test_the_plan_of_both_stages_at_paper_size() -> None:
    """Nothing is allocated: the networks are walked through as fake tensors."""
    found = plan_bundle("mdfnet_cxr", stages="stage1,stage2")
    first, second = found["stages"]
    assert found["not_planned"] == [] and second["parameters"] == 240_213_518 == second["trainable"]
    assert second["weights"] == second["gradients"] == 4 * 240_213_518 and second["average"] == 0
    assert second["peak"] > 4 * second["weights"] > 100 * first["peak"] / 10
