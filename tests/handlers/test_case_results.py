import json

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys

from common.handlers.case_results import LabelResults


def run(results):
    batches = [
        {"image": torch.tensor([[0.0, 2.0], [-1.0, 1.0]]), "case": ["a", "b"]},
        {"image": torch.tensor([[9.0, -9.0]]), "case": ["c"]},
    ]
    SupervisedEvaluator(
        "cpu",
        batches,
        torch.nn.Identity(),
        prepare_batch=lambda batch, device, non_blocking: (batch[CommonKeys.IMAGE], None),
        val_handlers=[results],
        decollate=False,
    ).run()


def test_a_file_for_each_case_in_their_order(tmp_path):
    results = LabelResults(str(tmp_path), ["x", "y"])
    run(results)
    assert results.written == [str(tmp_path / f"{case}.json") for case in "abc"]
    content = json.loads((tmp_path / "b.json").read_text())
    assert set(content) == {"case", "labels"} and content["case"] == "b"
    assert content["labels"] == pytest.approx({"x": 0.268941, "y": 0.731059}, abs=1e-6)  # sigmoid of -1 and 1


def test_what_the_configuration_adds_is_written_with_its_own_case(tmp_path):
    def describe(batch, said):
        return [{"seen": f"{case} {labels['x']:.1f}"} for case, labels in zip(batch["case"], said, strict=True)]

    run(LabelResults(str(tmp_path), ["x", "y"], describe))
    seen = {case: json.loads((tmp_path / f"{case}.json").read_text())["seen"] for case in "abc"}
    assert seen == {"a": "a 0.5", "b": "b 0.3", "c": "c 1.0"}
