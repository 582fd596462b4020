"""MONAI's federated client on the packed `mdfnet_cxr`: two rounds of each stage on prepared studies."""

import pytest

from tests.clients.packed import python, without_common
from tests.clients.packed_mdfnet import SETTINGS, make_packed, write_prepared

pytestmark = pytest.mark.client

ROUNDS = """
import json, sys
root, data, out, stage, settings = sys.argv[1:6]
sys.path.insert(0, root)
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

settings = {"dataset_dir": data, "output_dir": out, "resume": False} | json.loads(settings)
if stage == "stage1":  # every site makes its own features once
    files = [f"{root}/configs/{name}.json" for name in ("train", "features")]
    ConfigWorkflow(files, workflow_type="train", bundle_root=root, logging_file=False, **settings).run()
# What a site sends are its weights after the round, not those of its best validation of all rounds.
settings |= {"best#final": None}
stage = ["configs/train.json", f"configs/{stage}.json"]
algo = MonaiAlgo(root, 1, False, stage, settings, [*stage, "configs/evaluate.json"], settings)
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
    print("ROUND", algo.trainer.state.epoch, changed, new.weight_type == WeightType.WEIGHTS, metrics["mean_auroc"])
    weights = sent
best = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
print("SAVED", all(bool((best[name].numpy() == weights[name]).all()) for name in weights), len(best))
final = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.FINAL_MODEL}).weights
print("FINAL", all(bool((final[name].numpy() == weights[name]).all()) for name in weights), len(final) == len(best))
algo.finalize()
"""


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_rounds_of_mdfnet(stage, tmp_path):
    data, env = write_prepared(tmp_path / "data"), without_common(tmp_path)
    bundle = make_packed(tmp_path, data)
    said = python("-c", ROUNDS, bundle, data, tmp_path / "out", stage, SETTINGS, env=env)
    rounds = [line.split() for line in said.splitlines() if line.startswith("ROUND")]
    assert [line[1] for line in rounds] == ["1", "2"]
    assert all(int(line[2]) > 30 and line[3] == "True" and 0 <= float(line[4]) <= 1 for line in rounds)
    assert "SAVED True" in said and "FINAL True True" in said
