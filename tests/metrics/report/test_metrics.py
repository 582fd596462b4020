import csv
import random
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from common.metrics.report.metrics import (
    KINDS,
    corpus_figures,
    form_metrics,
    label_metrics,
    overlap_metrics,
    per_label,
    read_labels,
    report_metrics,
    values,
)
from common.metrics.report.text import clean_report

OPEN_I = Path(__file__).parents[3].parent / "shared" / "data" / "reports" / "indiana_reports.csv"
CXR = ["Small left pleural effusion. No pneumothorax.", "Normal heart size.", "Possible pneumonia."]
CT = [
    "Pleural effusion is observed. Emphysema is seen.",
    "Pleural effusion was not detected.",
    "Hiatal hernia is seen.",
]


@pytest.fixture(scope="module")
def open_i():
    if not OPEN_I.is_file():
        pytest.skip("the Open-i reports are not there")
    with OPEN_I.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["findings"].strip() and row["impression"].strip()]
    return [row["impression"] for row in rows[:200]], [row["findings"] for row in rows[:200]]


@pytest.mark.parametrize("group", ["raw", "cleaned"])
def test_equal_to_pycocoevalcap_on_real_reports(open_i, group):
    texts = open_i if group == "raw" else [[clean_report(text) for text in side] for side in open_i]
    kept = [i for i in range(200) if all(side[i].strip() for side in texts)]
    hypotheses, references = ([side[i] for i in kept] for side in texts)
    found = {key: value for key, value in values(overlap_metrics(hypotheses, references)).items()}
    theirs = {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}
    for k, value in enumerate(Bleu(4).compute_score(*theirs, verbose=0)[0], 1):
        assert found[f"{group}.bleu_{k}"] == pytest.approx(value, abs=1e-9)
    assert found[f"{group}.rouge_l"] == pytest.approx(Rouge().compute_score(*theirs)[0], abs=1e-9)
    assert found[f"{group}.cider"] == pytest.approx(Cider().compute_score(*theirs)[0], abs=1e-9)


def test_cleaning_moves_bleu_4_by_a_third(open_i):
    found = values(overlap_metrics(*open_i))
    assert found["cleaned.bleu_4"] > 4 / 3 * found["raw.bleu_4"]


@pytest.mark.parametrize(("kind", "reports"), [("cxr", CXR), ("ct", CT)])
def test_a_report_that_equals_its_reference_has_every_label_right(kind, reports):
    labels = read_labels(reports, kind)
    found = values(label_metrics(labels, labels, kind))
    assert {value for value in found.values() if value == value} == {1.0}
    assert found["labels.crg" if kind == "ct" else "labels.uncertain_positive.micro_f1_14"] == 1
    assert list(per_label(labels, labels, kind)) == list(KINDS[kind].labels)


def test_every_group_is_there():
    labels = read_labels(CXR, "cxr")
    groups = report_metrics(CXR, CXR, (labels, labels), "cxr").keys()
    policies = {f"labels.uncertain_{policy}" for policy in ("ignore", "positive", "negative", "own")}
    assert groups == {"raw", "cleaned", "google_rouge", "format", "repetition"} | policies
    ct_labels = read_labels(CT, "ct")
    assert corpus_figures(CT, (ct_labels, ct_labels), "ct")["labels.crg_floor"] == 1 / 3
    with pytest.raises(ValueError, match="'mr', expected one of cxr, ct"):
        read_labels(CXR, "mr")


def test_an_uncertain_finding_moves_f1_by_its_policy():
    predicted, true = read_labels(["Possible pneumonia."], "cxr"), read_labels(["There is pneumonia."], "cxr")
    found = values(label_metrics(predicted, true, "cxr"))
    assert found["labels.uncertain_positive.micro_recall_14"] > found["labels.uncertain_negative.micro_recall_14"]


def test_an_empty_hypothesis_scores_0_everywhere():
    found = values(overlap_metrics(["", " \n"], ["The lungs are clear. No  effusion.", "No pneumothorax."]))
    assert max(found.values()) < 1e-6


def test_random_text_never_raises():
    rng = random.Random(0)
    bits = [
        "a",
        "lungs ",
        "clear",
        ".",
        " ",
        "\n",
        "\0",
        "\u2028",
        "ß",
        "肺",
        "\ud800",
        "İ",
        "1. ",
        "{",
        '"',
        "FINDINGS:",
    ]
    texts = ["".join(rng.choices(bits, k=rng.randrange(40))) for _ in range(600)]
    metrics = overlap_metrics(texts[:300], texts[300:]) | form_metrics(texts[:300])
    for members in metrics.values():
        for member in members:
            each = member.per_report()
            assert np.nanmin(each) >= 0 and np.nanmax(each) <= 10 + 1e-9
