from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common.data.case_list import CaseList
from common.evaluation.reports import ReportEvaluation
from common.io.bad_input import BadInput
from common.visualize.html_report import render_page

TEXTS = {0: "No acute process.", 1: "Small left pleural effusion.", 2: "Cardiomegaly."}


class Vision(nn.Module):
    """An image is a number of the kind of its finding; its features point there."""

    def tokens(self, image):
        kind = image[:, 0, 0, 0].long()
        return None, nn.functional.one_hot(kind, 3).float()[:, None], (1, 1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision, self.weight = Vision(), nn.Parameter(torch.zeros(2))


def write(inputs, network):
    kinds = inputs[:, 0, 0, 0].long().tolist()
    logits = torch.tensor([[5.0 if kind == 1 else -5.0, 5.0 if kind == 2 else -5.0] for kind in kinds])
    return SimpleNamespace(texts=[[TEXTS[kind]] for kind in kinds], findings=logits)


def case(split, number, kind):
    return {
        "case": f"{split}{number}",
        "split": split,
        "patient": str(number // 2),
        "kind": kind,
        "report": TEXTS[kind],
    }


class Images(torch.utils.data.Dataset):
    def __init__(self, cases, broken=()):
        self.cases, self.broken = cases, broken

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, i):
        if self.cases[i]["case"] in self.broken:
            raise BadInput(self.cases[i]["case"], "is broken")
        return self.cases[i] | {"image": torch.full((3, 2, 2), float(self.cases[i]["kind"]))}


def collate(items):
    batch = {name: [item[name] for item in items] for name in ("case", "report")}
    return batch | {"image": torch.stack([item["image"] for item in items])}


def evaluation(cases, broken=(), **changes):
    arguments = {"input": "data", "cases": cases, "dataset": Images(cases, broken), "collate_fn": collate}
    arguments |= {"batch_size": 4, "network": Network(), "prepare_batch": lambda b, d: (b["image"], None, (), {})}
    arguments |= {"inferer": write, "device": "cpu", "labels": ["Pleural Effusion", "Cardiomegaly"], "draws": 50}
    return ReportEvaluation(**arguments | changes)


def cohort():
    train = [case("train", i, kind) for i, kind in enumerate([0, 0, 0, 1, 2, 0])]
    return CaseList(train + [case("test", i, i % 3) for i in range(12)] + [case("val", i, 0) for i in range(3)])


def test_a_perfect_model_beside_those_that_do_not_look(tmp_path):
    sentences = lambda labels, seed: " ".join(name for name, value in labels.items() if value)  # noqa: E731
    measured = evaluation(cohort(), sentences=sentences, published=[{"system": "other", "bleu_4": 0.1}]).run(tmp_path)
    rows = {row["system"]: row for row in measured.tables["metrics_mean"] if row["split"] == "test"}
    assert rows["model"]["micro_f1_14"] == 1 and rows["model"]["rouge_l"] == 1 and rows["model"]["cases"] == 12
    assert rows["nearest training image"]["micro_f1_14"] == 1
    assert rows["most frequent report"]["distinct_reports"] == pytest.approx(1 / 12)
    assert rows["model, images shuffled"]["micro_f1_14"] < 1
    assert rows["finding head in sentences"]["micro_f1_5"] > 0.9
    assert measured.baselines["most frequent report"] == rows["most frequent report"]["micro_f1_14"]
    assert rows["model"]["micro_f1_14_low"] == rows["model"]["micro_f1_14_high"] == 1
    last = measured.tables["metrics_mean"][-1]
    assert (last["system"], last["split"], last["bleu_4"]) == ("other", "published", 0.1)
    each = measured.tables["metrics"]
    assert len(each) == 12 and each[1]["report"] == each[1]["reference"] and np.isfinite(each[1]["rouge_l"])


def test_shuffled_images_are_of_other_patients(tmp_path):
    cases = CaseList([case("test", i, i // 2 % 3) for i in range(8)])
    measured = evaluation(cases).run(tmp_path)
    rows = {row["system"]: row for row in measured.tables["metrics_mean"]}
    assert list(rows) == ["model", "model, images shuffled"]  # nothing to learn from, so no other methods
    assert rows["model, images shuffled"]["rouge_l"] < 1


def test_what_cannot_be_read_is_listed(tmp_path):
    cases = cohort()
    measured = evaluation(cases, broken=["test3"]).run(tmp_path)
    assert measured.cases == 11 and {"path": "test3", "reason": "is broken"} in list(measured.excluded)
    with pytest.raises(BadInput, match="has no usable case in the split val"):
        evaluation(cases, broken=["val0", "val1", "val2"]).run(tmp_path)


def test_differences_are_tested_from_enough_patients_on_and_shown(tmp_path):
    cases = CaseList([case("test", 2 * i, i % 3) for i in range(24)])
    measured = evaluation(cases).run(tmp_path)
    (model, shuffled) = measured.tables["metrics_mean"]
    assert "micro_f1_14_p" not in model and shuffled["micro_f1_14_p"] < 0.05
    page = render_page(measured.page)
    assert "Reference: Cardiomegaly." in page and "Model: Cardiomegaly." in page and page.count("data:image/png") >= 9
    few = evaluation(CaseList(cases[:6])).run(tmp_path)
    assert not any(name.endswith("_p") for row in few.tables["metrics_mean"] for name in row)
