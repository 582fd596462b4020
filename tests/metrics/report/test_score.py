import json
import math
import os

import pytest
import torch.distributed as dist
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from common.metrics.report.score import ReportScore
from tests.processes import run_together

IDS = ["a", "b", "c", "d", "e"]
PREDICTIONS = [
    "Mild cardiomegaly. No effusion.",
    "Clear lungs.",
    "",
    "Small left pleural effusion. No pneumothorax.",
    "Possible pneumonia in the left lower lobe.",
]
REFERENCES = [
    "The heart is mildly enlarged. No pleural effusion.",
    "The lungs are clear.",
    "No acute process.",
    "Small left pleural effusion. No pneumothorax.",
    "Left lower lobe pneumonia is possible.",
]
DIVISION = [[0, 3, 1], [1, 2, 4]]  # case b is in both, as a sampler that pads would have it


def one_of_two(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    score = ReportScore()
    for i in DIVISION[rank]:
        score.update([IDS[i]], [PREDICTIONS[i]], [REFERENCES[i]])
    (folder / f"{rank}.json").write_text(json.dumps(score.compute()))
    dist.destroy_process_group()


def whole():
    score = ReportScore()
    score.update(IDS, PREDICTIONS, REFERENCES)
    return score


def same(a, b):
    equal = (a[key] == b[key] or (math.isnan(a[key]) and math.isnan(b[key])) for key in a)
    return a.keys() == b.keys() and all(equal)


def test_batches_and_their_order_do_not_matter():
    score = ReportScore()
    for i in (4, 0, 3, 2, 1):
        score.update([IDS[i]], [PREDICTIONS[i]], [REFERENCES[i]])
    assert same(score.compute(), whole().compute())
    assert len(score) == 5
    score.reset()
    with pytest.raises(NotComputableError):
        score.compute()


def test_values():
    value = whole().compute()
    assert 0 < value["cleaned.bleu_4"] < 1
    assert value["raw.bleu_1"] != value["cleaned.bleu_1"]
    assert value["diversity.distinct_reports"] == 1
    assert {f"labels.uncertain_{policy}.macro_f1_5" for policy in ("ignore", "positive", "negative", "own")} <= set(
        value
    )
    ct = ReportScore("ct")
    ct.update(
        IDS[:2], ["Pleural effusion is seen.", "Normal."], ["Pleural effusion is present.", "Emphysema is present."]
    )
    assert ct.compute()["labels.crg_floor"] == 1 / 3 < ct.compute()["labels.crg"] <= 1


def test_state():
    loaded = ReportScore()
    loaded.load_state_dict(json.loads(json.dumps(whole().state_dict())))
    assert same(loaded.compute(), whole().compute())


def test_an_id_with_other_texts_is_refused():
    score = whole()
    score.update(["a"], [PREDICTIONS[0]], [REFERENCES[0]])
    assert len(score) == 5
    with pytest.raises(ValueError, match="'a' comes twice"):
        score.update(["a"], ["other"], [REFERENCES[0]])
    with pytest.raises(ValueError, match="1 ids come with 2 reports"):
        score.update(["f"], ["x", "y"], ["x"])
    with pytest.raises(ValueError, match="report of 7"):
        score.update([7], ["x"], ["x"])
    with pytest.raises(ValueError, match="'xray', expected one of cxr, ct"):
        ReportScore("xray")


def test_on_an_engine():
    engine = Engine(lambda _, i: {"id": IDS[i], "report": PREDICTIONS[i], "reference": REFERENCES[i]})
    ReportScore(output_transform=lambda o: ([o["id"]], [o["report"]], [o["reference"]])).attach(engine, "report")
    metrics = engine.run(range(5)).metrics
    assert same(metrics["report"], whole().compute())
    assert metrics["cleaned.bleu_4"] == whole().compute()["cleaned.bleu_4"]


def test_two_processes_give_the_result_of_one(tmp_path):
    run_together(one_of_two, 2, tmp_path)
    for rank in range(2):
        assert same(json.loads((tmp_path / f"{rank}.json").read_text()), whole().compute())
