"""A bundle of two stages that train a linear layer on random numbers with MONAI's own trainer, in no time."""

import json
from pathlib import Path

LOGGING = """[loggers]
keys=root
[handlers]
keys=consoleHandler
[formatters]
keys=fullFormatter
[logger_root]
level=INFO
handlers=consoleHandler
[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stderr,)
[formatter_fullFormatter]
format=%(name)s %(message)s
"""

TRAIN = {
    "imports": ["$import json", "$import monai", "$import torch", "$from pathlib import Path"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/data'",
    "output_dir": "$@bundle_root + '/runs'",
    "ckpt_dir": "$@output_dir + '/models'",
    "seed": 0,
    "stage": "first",
    "label": "none",
    "switch": False,
    "rates": [0.1, 0.2],
    "network": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 1},
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
    "train": {
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': torch.rand(4), 'label': torch.rand(1)} for _ in range(4)]",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2},
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "cpu",
            "max_epochs": 1,
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": {"_target_": "torch.nn.MSELoss"},
        },
    },
    "history": {
        "stage": "@stage", "seconds": 0.5, "iterations": [], "validations": [], "notes": [],
        "metrics": {"epochs": "$@train#trainer.state.epoch", "weight": "$float(@network.weight.detach().sum())"},
    },
    "run": [
        "$@train#trainer.run()",
        "$(Path(@output_dir) / @stage / 'history.json').write_text(json.dumps(@history))",
        "$torch.save(@network.state_dict(), Path(@ckpt_dir) / (@stage + '.pt'))",
        "$(Path(@output_dir) / 'order.txt').open('a').write(@stage + ' ')",
    ],
}  # fmt: skip

VIRTUAL = {"n": 4, "shape": [12, 32, 32], "spacing": [12.0, 10.0, 10.0], "seed": 0}

CONFIGS = {
    "train": TRAIN,
    "first": {"stage": "first"},
    "second": {"stage": "second", "train#trainer#max_epochs": 2, "only_second": 1},
    "extra": {"stage": "extra"},
    "tiny": {"virtual": VIRTUAL},
    "demo": {"virtual": VIRTUAL, "held_out": {"n": 2, "input": "images", "ratio": 3}},
    "short": {"stages": ["second"], "virtual": VIRTUAL, "stage_overrides": {"second": {"train#trainer#max_epochs": 5}}},
    "metadata": {"version": "0.0.1", "name": "toy"},
    "recipe": {
        "stages": [
            {"name": "extra", "config": ["train.json", "extra.json"], "optional": True},
            {"name": "first", "config": ["train.json", "first.json"]},
            {"name": "second", "config": ["train.json", "second.json"], "overrides": {"optimizer#lr": 0.05}},
        ]
    },
    "inference": {
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "mode": "linear",
        "target_spacing": 1.0,
        "layer_def": {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 1},
    },
}


def make_toy_bundle(folder: Path) -> Path:
    """Write the bundle to `folder/toy` and give its path."""
    configs = folder / "toy" / "configs"
    configs.mkdir(parents=True)
    for name, content in CONFIGS.items():
        (configs / f"{name}.json").write_text(json.dumps(content, indent=1))
    (configs / "logging.conf").write_text(LOGGING)
    return folder / "toy"


def make_manifest(folder: Path, cases: str = "abc") -> Path:
    """Write a prepared data set that names images which nobody opens, and give its folder."""
    folder.mkdir(exist_ok=True)
    rows = [f"{case},{case},{'val' if i == 0 else 'train'},{case}.nii.gz,{i}f" for i, case in enumerate(cases)]
    (folder / "manifest.csv").write_text("\n".join(["case,patient,split,image,sha256", *rows]) + "\n")
    return folder
