import json

import numpy as np
import pytest
import torch
from torch import nn

from common.evaluation.answers import AnswerEvaluation
from common.inferers.answer_inferer import WrittenAnswers
from common.text.reasoning import ehr_lines
from common.text.report_answers import answer_a, answer_b
from tests.llm.answer_cases import RECORD

ICD = (["pneumonia"], [])


def case(i, split, stage):
    """Patients whose image tells the finding, and whose record (a fever or none) tells the diagnosis."""
    sick, hot = i % 2 == 0, i % 3 == 0
    labels = {"Edema": 1.0} if sick else {"No Finding": 1.0}
    impression = "Pulmonary edema." if sick else "Normal chest radiograph."
    record = RECORD | {"vitals": [RECORD["vitals"][0] | {"value": 39.0 if hot else 36.6}]}
    icd = ICD[0] if hot else ICD[1]
    answer = answer_a(impression, labels) if stage == "a" else answer_b(["x"], impression, icd)
    return {
        "case": f"{split}{i}_{stage}", "patient": f"p{split}{i}", "split": split, "stage": stage, "answer": answer,
        "impression": impression, "labels": labels, "icd": icd if stage == "b" else [],
        "ehr": record if stage == "b" else None, "lines": ehr_lines(record) if stage == "b" else None,
    }  # fmt: skip


def picture(sick):
    return torch.tensor([1.0, 0.2] if sick else [0.0, 0.2]).repeat(2)[:3, None, None].expand(3, 4, 4)


class Reader(nn.Module):
    """Sees the finding in the image, and the diagnosis in the record."""

    def tokens(self, images):
        return None, images.flatten(2).mean(2)[:, None], (1, 1)


@pytest.fixture
def evaluation():
    cases = [case(i, split, stage) for split in ("train", "test") for i in range(24) for stage in "ab"]
    data = [{"image": picture("edema" in c["impression"]), "case": c["case"]} for c in cases]

    def answer(items):
        said = []
        for item in items:
            text = "Pulmonary edema." if item["image"].mean() > 0.5 else "Normal chest radiograph."
            label = {"Edema": 1.0} if "edema" in text else {"No Finding": 1.0}
            hot = item["lines"] is not None and any("39.0 C" in line.text for line in item["lines"])
            value = next((line.text for line in item["lines"] or () if "39.0 C" in line.text), "none")
            said.append(
                answer_a(text, label) if item["stage"] == "a" else answer_b([value], text, ICD[0] if hot else [])
            )
        return said

    return AnswerEvaluation(
        "data", cases, data, lambda items: items, 5, Reader(), lambda items, _: (items, None, (), {}),
        lambda items, network: WrittenAnswers(answer(items), None), "cpu", draws=200,
    )  # fmt: skip


def test_what_the_image_and_the_record_tell(evaluation, tmp_path):
    measured = evaluation.run(tmp_path)
    rows = {(row["answers"], row["system"]): row for row in measured.result}
    assert rows["a", "model"]["micro_f1"] == rows["b", "model"]["micro_f1"] == 1 == rows["a", "model"]["valid"]
    blind = rows["b", "model, no EHR"]
    assert blind["micro_f1"] == 0 and blind["model_minus"] == 1 and blind["model_minus_low"] > 0.9
    assert 0 < rows["b", "model, EHR of another patient"]["micro_f1"] < 1
    assert rows["a", "model, image of another patient"]["micro_f1"] < 1
    assert rows["b", "model, image of another patient"]["micro_f1"] == 1, "the image tells no diagnosis here"
    assert rows["a", "nearest training image"]["micro_f1"] == 1 and rows["a", "logistic regression"]["micro_f1"] == 1
    assert rows["b", "logistic regression"]["micro_f1"] == 1, "the temperature tells it"
    full = {(row.get("answers"), row["system"]): row for row in measured.tables["metrics_mean"]}
    assert full["b", "model"]["values_in_ehr"] == full["b", "model"]["values_right"] == 1
    assert full["a", "model"]["agreement"] == 1
    assert len(measured.tables["metrics"]) == 48 and measured.page is not None
    json.dumps(measured.baselines)


def test_an_answer_that_does_not_parse_counts_as_nothing_and_comes_first(evaluation, tmp_path):
    written = evaluation.inferer

    def broken(items, network):
        texts = written(items, network).texts
        return WrittenAnswers(
            ["{" if item["case"] == "test4_a" else text for item, text in zip(items, texts, strict=True)], None
        )

    evaluation.inferer = broken
    measured = evaluation.run(tmp_path)
    row = next(r for r in measured.result if r["answers"] == "a" and r["system"] == "model")
    assert row["valid"] == pytest.approx(23 / 24) and row["micro_f1"] == pytest.approx(2 * 23 / (2 * 23 + 1))
    failed = next(r for r in measured.tables["metrics"] if r["case"] == "test4_a")
    assert failed["said"] == "{" and not failed["valid"] and np.isclose(failed["micro_f1"], 0)
