import numpy as np
import pytest
import torch

from common.engines.report_batch import PrepareReportBatch
from common.llm.report_batch import ReportCollate
from common.llm.tokens import IGNORED, build_tokenizer
from tests.llm.tiny_bart import SENTENCES


@pytest.fixture(scope="module")
def collate(tmp_path_factory):
    return ReportCollate(build_tokenizer(SENTENCES, tmp_path_factory.mktemp("tokenizer"), 300))


def items(read="image"):
    made = {"image": torch.ones(3, 4, 4), "tokens": torch.ones(9, 5, dtype=torch.float16)}[read]
    return [
        {"case": f"c{i}", read: made * i, "label": np.array([1.0, np.nan], np.float32), "report": SENTENCES[i]}
        | {"regions": np.ones(7, np.float32), "index": i, "patient": "1"}
        for i in range(2)
    ]


@pytest.mark.parametrize("read", ["image", "tokens"])
def test_a_batch_is_what_the_model_takes(collate, read):
    batch = collate(items(read))
    assert (
        batch["case"] == ["c0", "c1"] and batch["report"] == list(SENTENCES[:2]) and batch["index"].tolist() == [0, 1]
    )
    inputs, target, _, given = PrepareReportBatch()(batch)
    assert torch.equal(inputs, batch[read]) and torch.equal(given["labels"], batch["labels"])
    assert (batch["labels"][0] == IGNORED).sum() > 0 and target["regions"].dtype == torch.bool
    assert target["findings"][:, 1].isnan().all()


def test_findings_alone_are_read_and_unknown_ones_are_half(collate):
    inputs, _, _, _ = PrepareReportBatch("label")(collate([{**item, "image": None} for item in items()]))
    assert inputs.tolist() == [[1.0, 0.5]] * 2


def test_a_context_is_given_to_the_model_up_to_its_length(collate):
    reader = ReportCollate(collate.tokenizer, context_tokens=4)
    texts = ("", SENTENCES[0])
    batch = reader([item | {"context": text} for item, text in zip(items(), texts, strict=True)])
    assert batch["context"].shape == (2, 4) and (batch["context"][0] != IGNORED).sum() == 2
    assert torch.equal(PrepareReportBatch(twice=True)(batch)[3]["context"], batch["context"].repeat(2, 1))
    del batch["labels"]
    assert list(PrepareReportBatch()(batch)[3]) == ["context"]


def test_every_case_twice(collate):
    inputs, target, _, given = PrepareReportBatch(twice=True)(collate(items()))
    assert len(inputs) == 4 and torch.equal(inputs[:2], inputs[2:])
    assert torch.equal(*given["labels"].chunk(2)) and len(target["findings"]) == 4


def test_without_reports_there_are_no_targets(collate):
    batch = collate([{name: item[name] for name in ("case", "image", "label")} for item in items()])
    inputs, target, _, given = PrepareReportBatch()(batch)
    assert inputs.shape == (2, 3, 4, 4) and target is None and given == {}
    assert "labels" not in ReportCollate()(items())
    with pytest.raises(ValueError, match="inputs is 'text', expected image or label"):
        PrepareReportBatch("text")
