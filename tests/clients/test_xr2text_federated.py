"""MONAI's federated client on the packed `xr2text`: two rounds without a curriculum on virtual patients."""

import json

import pytest

from common.apps.run.prepare import prepare_virtual
from tests.clients.packed import python, without_common
from tests.clients.packed_xr2text import make_packed

pytestmark = pytest.mark.client

ROUNDS = """
import json, sys
root, data, out = sys.argv[1:4]
sys.path.insert(0, root)
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

# Every site trains on all its cases; what it sends are its weights after the round, not those of its best validation.
settings = {"dataset_dir": data, "output_dir": out, "resume": False, "frozen_encoder": False, "best#final": None}
settings |= {"train#model_part#name": "model", "validate#handlers": [], "max_epochs": 2}
stage = [f"configs/{name}.json" for name in ("train", "plain", "demo", "smoke")]
algo = MonaiAlgo(root, 1, False, stage, settings, [*stage, "configs/evaluate.json"], settings)
algo.initialize({ExtraItems.CLIENT_NAME: "site"})
copied = lambda found: {name: value.numpy().copy() for name, value in found.weights.items()}  # as if sent
weights = copied(algo.get_weights())
for _ in range(2):
    algo.train(ExchangeObject(weights=weights))
    new = algo.get_weights()
    sent = copied(new)
    changed = sum(bool((sent[name] != weights[name]).any()) for name in weights)
    metrics = algo.evaluate(ExchangeObject(weights=sent)).metrics
    print("ROUND", algo.trainer.state.epoch, changed, new.weight_type == WeightType.WEIGHTS, metrics["combined"])
    weights = sent
best = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
print("SAVED", len(best) == len(weights))
algo.finalize()
"""


def test_two_rounds_of_xr2text(tmp_path):
    prepare_virtual(tmp_path / "data", "mimic_cxr", n=12, shape=(16, 32, 32), spacing=(9, 10, 11))
    bundle, env = make_packed(tmp_path), without_common(tmp_path)
    said = python("-c", ROUNDS, bundle, tmp_path / "data", tmp_path / "out", env=env)
    rounds = [line.split() for line in said.splitlines() if line.startswith("ROUND")]
    assert [line[1] for line in rounds] == ["1", "2"], json.dumps(said[-2000:])
    assert all(int(line[2]) > 30 and line[3] == "True" and 0 <= float(line[4]) <= 2 for line in rounds)
    assert "SAVED True" in said
