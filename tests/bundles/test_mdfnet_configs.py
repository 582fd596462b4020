"""The configurations of the bundle: sizes and numbers of the document, and ids that clients rely on."""

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from common.apps.packaging.check import check_bundle
from common.apps.run.bundle import has_id, open_bundle
from common.apps.run.plan import plan_bundle
from common.apps.run.recipe import merged_stage, read_recipe, scale_names, stages_of_scale
from common.apps.search.setup import shared_stages
from common.apps.search.space import read_search_plan
from common.cli.main import VERBS
from common.cli.parse import Group
from common.data.cxr.cases import read_cxr_splits
from common.data.modalities import MODALITIES
from common.networks.modality_fusion import SUBSETS, subset_modalities
from common.networks.weights import count_parameters
from common.text.cxr_labeller import CHEXPERT_LABELS
from tests.bundles.meta_schema import schema_errors

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "mdfnet_cxr"
CONFIGS = BUNDLE / "configs"
STAGES = [stage.name for stage in read_recipe(open_bundle(BUNDLE))]
OVER_DEMO = ("few_cases", "smoke")  # they change what the demo says of stages
SCALES = [
    f"demo+{name}" if name in OVER_DEMO else name
    for name in scale_names(open_bundle(BUNDLE), read_recipe(open_bundle(BUNDLE)))
]
NO_PLACES = {"dataset_dir": "data", "output_dir": "out", "ckpt_dir": "models"}


def config(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def stage_config(name, scale="paper", places=NO_PLACES, overrides=None):
    return merged_stage(open_bundle(BUNDLE), name, scale, places, overrides or {}).config


def optimizer_groups(parser):
    return [group["params"] for group in parser.get_parsed_content("optimizer").param_groups]


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
    saver = parser.get_parsed_content("train#model_part", instantiate=False).get_config()
    assert saver["name"] == ("model" if subset == "all" else f"baselines/{subset}/model")
    assert saver["base"] == "encoders"  # the encoders of the features, and their settings
    if subset not in ("all", "clinical"):  # which has no encoder to unfreeze
        tuned = stage_config(f"{subset}_stage2")
        assert tuned["modalities"] == list(wanted) and tuned["stage"] == tuned["model_name"] == f"{subset}_stage2"
        assert tuned["train"]["model_part"]["name"] == f"baselines/{subset}_stage2/model"
        assert tuned["train"]["model_part"]["base"] is None
        assert ConfigParser(tuned).get_parsed_content("network_def#ckpt_dir") == f"models/baselines/{subset}"


def test_the_documents_hyperparameters():
    train, stage1 = stage_config("stage1"), config("train")
    assert (train["batch_size"], train["accumulation_steps"], train["warmup_epochs"]) == (16, 2, 3)
    assert (train["max_epochs"], train["lr_stage1"], train["weight_decay"]) == (15, 1e-3, 1e-4)
    assert (train["dropout_fusion"], train["dropout_head1"], train["dropout_head2"]) == (0.3, 0.3, 0.2)
    parser = ConfigParser(train)
    weights = [parser.get_parsed_content(name) for name in ("bce_weight", "focal_weight", "focal_alpha", "focal_gamma")]
    assert weights == pytest.approx([0.7, 0.3, 0.25, 2.0])
    assert (train["early_stopping"], train["max_grad_norm"]) == (5, 1.0)
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


@pytest.mark.parametrize("scale", ["paper", "demo", "demo+covid+few_cases", "demo+nih+few_cases"])
def test_a_search_runs_what_its_trials_build_on(scale):
    """A bug: at a scale without published weights no trial had encoders."""
    bundle = open_bundle(BUNDLE)
    plan = read_search_plan(bundle)
    of_scale = stages_of_scale(bundle, scale)
    shared = shared_stages(plan, of_scale, plan.stages)
    assert shared == [name for name in ("encoders", "features") if name in of_scale]
    assert ("encoders" in shared) == (scale != "paper") and plan.stages == ("stage1", "stage2")


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_several_gpus_share_the_statistics_of_batch_norm(device):
    """The demo's ResNet has BatchNorm; PyTorch can synchronise it on GPUs alone."""
    parser = ConfigParser(stage_config("encoders", "demo"))
    parser.update(config("multi_gpu_train") | {"device": f"$torch.device('{device}')"})
    network, parameters = parser.get_parsed_content("network_def"), [p for g in optimizer_groups(parser) for p in g]
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = network.eval()(image)
    synchronized = parser.get_parsed_content("synchronized")
    assert synchronized is network  # so that the optimizer, the validator and what is saved have the same network
    kinds = {type(layer) for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)}
    assert kinds == ({torch.nn.SyncBatchNorm} if device == "cuda" else {torch.nn.BatchNorm1d, torch.nn.BatchNorm2d})
    assert {id(p) for p in network.parameters()} == {id(p) for p in parameters}
    assert torch.equal(network(image), before)


def test_metadata_is_valid():
    meta = config("metadata")
    assert meta["version"] in meta["changelog"]
    inputs, outputs = (meta["network_data_format"][key] for key in ("inputs", "outputs"))
    assert next(iter(inputs)) == "image" and next(iter(outputs)) == "pred"
    assert tuple(outputs["pred"]["channel_def"].values()) == CHEXPERT_LABELS
    assert schema_errors(meta) == []


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_parses_at_every_scale(name, scale):
    """Every reference of the merged files finds what it names."""
    found = stage_config(name, scale)
    parser = ConfigParser(found)
    parser.parse()
    for key in ("train", "validate", "test", "run", "initialize", "optimizer", "best"):
        resolved = parser.get_parsed_content(key, instantiate=False, eval_expr=False)
        assert resolved is not None, key


@pytest.mark.parametrize("scale", SCALES)
def test_every_subset_has_its_own_inputs_at_every_scale(scale):
    """A bug: an overlay named all three, and four models of the table were one."""
    for name in SUBSETS[:-1]:
        found = stage_config(name, scale)
        assert found["model_name"] == name and tuple(found["modalities"]) == subset_modalities(name)


@pytest.mark.parametrize("name", ["features", "encoders", "stage2"])
def test_a_label_policy_is_for_training_alone(name, monkeypatch):
    """Uncertain labels may be smoothed to train on them; a model is scored on what is known."""
    parser = ConfigParser(stage_config(name, overrides={"label_policy": "lsr"}))
    section = parser.get_parsed_content("cases", instantiate=False).get_config()
    assert section["policy"] == "lsr" and section["_target_"] == "common.data.cxr.cases.read_cxr_splits"
    asked = {}
    monkeypatch.setattr("common.data.cxr.cases.read_cxr_cases", lambda *given: asked.update({given[1]: given[4]}))
    read_cxr_splits("data", policy="lsr")
    assert asked == {"train": "lsr", "val": "ignore", "test": "ignore"}


@pytest.mark.parametrize("name", ["encoders", "features", "stage2", "inference"])
def test_every_tokenizer_adds_the_same_background(name):
    """What is appended to a note is asked for once, kept with the weights, and refused when it has changed."""
    found = config("inference") if name == "inference" else stage_config(name)
    assert found["background_passages"] == 0
    given = {key: found["tokenizer"][key] for key in ("background_passages", "labels", "max_tokens")}
    assert given == {key: f"@{key}" for key in given}
    if name != "inference":
        saver = found["encoder_parts" if name == "features" else "train"]
        settings = (saver if name == "features" else saver["model_part"])["settings"]
        assert settings == {key: f"@{key}" for key in ("image_size", "max_tokens", "background_passages", "views")}
        assert settings.keys() <= config("inference").keys()
        assert found["train"]["settings"]["background_passages"] == "@background_passages"


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("*.json")))
def test_every_overlay_changes_something_that_exists(name):
    """An overlay's `a#b` must find its `a` in the files it goes over."""
    if name in ("metadata", "recipe", "inference", "search"):
        pytest.skip("is no overlay")
    overlay = config(name)
    base = config("train") | (config("stage2") if name == "encoders" else {})
    base |= config("demo") if name in ("smoke", "few_cases") else {}
    base |= config("comparison") if name == "smoke" else {}
    for key in overlay:
        node = base
        for part in key.split("#")[:-1]:
            part = int(part) if isinstance(node, list) else part
            assert part in (range(len(node)) if isinstance(node, list) else node), f"{key}: there is no {part!r}"
            node = node[part]


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
    assert found["not_planned"] == ["comparison"] and second["parameters"] == 240_210_958 == second["trainable"]
    assert second["gradients"] == 4 * 240_210_958 and second["average"] == 0
    assert second["weights"] == 4 * (240_210_958 + 2 * (512 + 768)) + 2  # with the scales of the features
    assert second["peak"] > 4 * second["weights"] > 100 * first["peak"] / 10


@pytest.mark.parametrize("scale", ["demo", "demo+covid+few_cases", "demo+nih+few_cases"])
def test_stage_2_of_a_subset_trains_as_that_of_all(scale):
    """A like-for-like comparison; stage 2 has numbers of its own at a scale."""
    whole = stage_config("stage2", scale)
    for name in STAGES[STAGES.index("stage2") + 1 : -1]:  # the last one compares
        found = stage_config(name, scale)
        differ = {key for key in whole if found[key] != whole[key]}
        assert differ == {"stage", "model_name", "modalities", "network_def", "train"}, name


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("features", "comparison")])
def test_what_a_stage_advises_changes_it(name):
    """A bug: an override of the optimizer's rate was named, where every group has a rate of its own."""
    found = stage_config(name)
    advice = found["train"]["advice"]
    rates, (workers,) = (re.findall(r"--([\w:]+)", advice[kind]) for kind in ("plateau", "loader"))
    named = {
        h["_target_"].rpartition(".")[2]: h["advice"]
        for h in found["train"].values()
        if isinstance(h, dict) and "_target_" in h and "advice" in h
    }
    named["ClassificationQuality"] = found["validate"]["key_metric"]["mean_auroc"]["advice"]
    plateau = "@train::advice::plateau"
    assert named == {
        "GradientClipHandler": plateau, "watch_training": "@train::advice", "ClassificationQuality": plateau,
    }  # fmt: skip
    before = ConfigParser(found).get_parsed_content("learning_rates")
    for rate in rates:
        assert ConfigParser(stage_config(name, overrides={rate: 0.5})).get_parsed_content("learning_rates") != before
    changed = stage_config(name, overrides={workers.replace("::", "#"): 7})
    found = changed["train"]["dataloader"]["num_workers"]
    assert (changed[found[1:]] if isinstance(found, str) else found) == 7


def test_one_override_recomputes_activations_everywhere():
    """A bug: one id worked in the forecast alone, another one in stage 2 alone."""
    asked = {"gradient_checkpointing": True}
    assert stage_config("stage2", overrides=asked)["network_def"]["gradient_checkpointing"] == "@gradient_checkpointing"
    parts = build_on_meta(ConfigParser(stage_config("encoders", overrides=asked)))  # as the forecast builds them
    assert parts["vision"].gradient_checkpointing and parts["text"].gradient_checkpointing
    parts = build_on_meta(ConfigParser(stage_config("encoders")))
    assert not parts["vision"].gradient_checkpointing and not parts["text"].gradient_checkpointing


@pytest.mark.parametrize("name", ["mdfnet_cxr", "ct_slice_interpolation"])
def test_every_override_that_the_readme_names_exists(name):
    """In its tables: an id of a stage or of inference.json, or an option of a verb."""
    bundle = open_bundle(name)
    configs = [merged_stage(bundle, stage.name, "paper", NO_PLACES).config for stage in read_recipe(bundle)]
    configs += [bundle.config("inference").config]
    verbs = [v for found in VERBS.values() for v in (found.verbs.values() if isinstance(found, Group) else [found])]
    options = {option for verb in verbs for option in verb.parameters}
    unknown, first = [], 0
    for line in (bundle.root / "docs" / "README.md").read_text().splitlines():
        if not line.startswith("|"):
            first = 0
            continue
        if not first:  # the heading; the document's own words are in the first column of its tables
            first = 2 if line.startswith("| document |") else 1
        for code in re.findall(r"`([^`]+)`", " ".join(re.split(r"(?<!\\)\|", line)[first:])):
            foreign = code.split()[0] in ("torchrun", "tensorboard", "docker", "kubectl") or ".py" in code
            keys = [] if foreign else re.findall(r"(?:^|\s)--([A-Za-z_][\w#]*)(?=[\s=]|$)", code)
            unknown += [key for key in keys if key not in options and not any(has_id(c, key) for c in configs)]
    assert unknown == []
