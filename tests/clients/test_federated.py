"""MONAI's federated client on the packed bundle: two rounds of the refiner on prepared cases."""

import pytest

from tests.clients.packed import make_packed, python, without_common
from tests.data.ct.thin_ct import write_manifest

pytestmark = pytest.mark.client

ROUNDS = """
import sys
root, data, out = sys.argv[1:4]
sys.path.insert(0, root)
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

settings = {
    "dataset_dir": data, "output_dir": out, "resume": False, "num_workers": 0, "patches_per_epoch": 64,
    "patch_size": [8, 8], "patch_ratios": [2, 3], "ratio": 2, "resolution": None, "ckpt_interval": 1,
    "rows": {"_target_": "scripts.common.data.manifest.read_split", "manifest": "@dataset_dir", "split": "train"},
}
stage = ["configs/train.json", "configs/refiner.json"]
algo = MonaiAlgo(root, 1, False, stage, settings, stage, settings)
algo.initialize({ExtraItems.CLIENT_NAME: "site"})
copied = lambda found: {name: value.numpy().copy() for name, value in found.weights.items()}  # as if sent
weights = copied(algo.get_weights())
print("TENSORS", len(weights))
for _ in range(2):
    algo.train(ExchangeObject(weights=weights))
    new = algo.get_weights()
    sent = copied(new)
    changed = sum(bool((sent[name] != weights[name]).any()) for name in weights)
    metrics = algo.evaluate(ExchangeObject(weights=sent)).metrics
    print("ROUND", algo.trainer.state.epoch, changed, new.weight_type == WeightType.WEIGHTS, sorted(metrics))
    weights = sent
best = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
print("BEST", len(best.weights))
final = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.FINAL_MODEL}).weights
print("FINAL", final.keys() == best.weights.keys(), len(final))
algo.finalize()
"""


def test_two_rounds(tmp_path):
    bundle, env = make_packed(tmp_path), without_common(tmp_path)
    data = tmp_path / "data"
    write_manifest(data, {"a": "train", "b": "train", "c": "val"})
    said = python("-c", ROUNDS, bundle, data, tmp_path / "out", env=env)
    rounds = [line.split() for line in said.splitlines() if line.startswith("ROUND")]
    assert [line[1] for line in rounds] == ["1", "2"]
    assert "FINAL True" in said
    assert all(int(line[2]) > 10 and line[3] == "True" and "'psnr'" in " ".join(line[4:]) for line in rounds)
