import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from common.handlers.classification_quality import ClassificationQuality, classification_figures, rare_labels
from common.losses.bce_focal import MaskedBCEFocalLoss

LABELS = ("Atelectasis", "Edema", "Fracture", "Pneumonia", "Pneumothorax", "Support Devices")
NAN = float("nan")


def make_cases(n=200, seed=0):
    """Logits and labels: some masked, Fracture of one class only, Pneumothorax rare."""
    random = np.random.default_rng(seed)
    rates = np.array([0.5, 0.4, 0.0, 0.2, 0.04, 0.3])
    targets = (random.random((n, 6)) < rates).astype(float)
    logits = random.normal(size=(n, 6)) + 1.2 * targets - 0.6
    targets[random.random((n, 6)) < 0.15] = NAN
    return logits, targets


def run(logits, targets, sizes, loss=None, indices=None, epochs=1):
    batches, first = [], 0
    indices = np.arange(len(logits)) if indices is None else indices
    for size in sizes:
        rows = indices[first : first + size]
        batches.append({"index": torch.as_tensor(rows), "pred": torch.as_tensor(logits[rows], dtype=torch.float32),
                        "label": torch.as_tensor(targets[rows], dtype=torch.float32)})  # fmt: skip
        first += size
    engine = Engine(lambda _, batch: {"pred": batch["pred"], "label": batch["label"]})
    ClassificationQuality(LABELS, loss).attach(engine)
    for _ in range(epochs):
        engine.run(batches)
    return engine.state.metrics


def columns(logits, targets):
    for k in range(6):
        known = ~np.isnan(targets[:, k])
        yield LABELS[k], targets[known, k], expit(logits[known, k].astype(np.float32)).astype(float)


def test_figures_are_those_of_scikit_learn():
    logits, targets = make_cases()
    found = run(logits, targets, [64, 64, 64, 8])
    auroc = {name: roc_auc_score(y, p) for name, y, p in columns(logits, targets) if 0 < y.mean() < 1}
    assert "Fracture" not in auroc and "auroc/Fracture" not in found and len(auroc) == 5
    for name, value in auroc.items():
        assert found[f"auroc/{name}"] == pytest.approx(value, abs=1e-6), name
    assert found["mean_auroc"] == pytest.approx(np.mean(list(auroc.values())), abs=1e-6)
    assert found["min_auroc"] == pytest.approx(min(auroc.values()), abs=1e-6)
    two = [y for y in columns(logits, targets)]
    precision = [average_precision_score(y, p) for name, y, p in two if name in auroc]
    assert found["mean_auprc"] == pytest.approx(np.mean(precision), abs=1e-6)
    cells = [(y, p) for name, y, p in two]
    y, p = (np.concatenate([cell[i] for cell in cells]) for i in range(2))
    assert found["pooled_auroc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    assert found["micro_f1"] == pytest.approx(f1_score(y, p >= 0.5), abs=1e-6)
    macro = [f1_score(y, p >= 0.5) for name, y, p in two if name in auroc]
    assert found["macro_f1"] == pytest.approx(np.mean(macro), abs=1e-6)
    brier = [brier_score_loss(y, p, labels=[0, 1]) for _, y, p in two]
    assert found["brier"] == pytest.approx(np.mean(brier), abs=1e-6)
    assert 0 < found["ece"] < 1 and all(math.isfinite(value) for value in found.values())


def test_neither_batches_nor_repetitions_nor_an_epoch_before_matter():
    logits, targets = make_cases(50)
    whole = run(logits, targets, [50])
    for found in (run(logits, targets, [7] * 7 + [1]), run(logits, targets, [25, 25], epochs=2)):
        assert found == pytest.approx(whole, abs=1e-7)
    # a case that a sampler of several processes repeats to fill its last batch counts once
    twice = run(logits, targets, [30, 30], indices=np.r_[np.arange(50), np.arange(10)])
    assert twice == pytest.approx(whole, abs=1e-7)


def test_the_loss_is_that_of_all_cases_together():
    logits, targets = make_cases(40)
    loss = MaskedBCEFocalLoss(class_weights=torch.rand(6) + 0.5)
    found = run(logits, targets, [32, 8], loss)
    expected = loss(torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert "loss" not in run(logits, targets, [32, 8])


def test_rare_labels_are_the_third_with_fewest_positives():
    _, targets = make_cases()
    counts = {label: int((targets[:, k] == 1).sum()) for k, label in enumerate(LABELS)}
    by_count = sorted((n, label) for label, n in counts.items() if n)
    assert rare_labels(targets, LABELS) == [label for _, label in by_count[:2]] == ["Pneumothorax", "Pneumonia"]
    logits, targets = make_cases()
    found = run(logits, targets, [200])
    assert found["rare_auroc"] == pytest.approx((found["auroc/Pneumothorax"] + found["auroc/Pneumonia"]) / 2)
    assert rare_labels(np.zeros((3, 2)), LABELS[:2]) == []
    assert rare_labels(np.array([[1, 0], [0, 1], [1, NAN]]), LABELS[:2]) == ["Edema"]


def test_figures_that_are_undefined_are_absent():
    """A one-class split must neither stop a training nor count as a score."""
    found = classification_figures(np.full((4, 2), 0.3), np.array([[0, NAN]] * 4), LABELS[:2])
    assert {"mean_auroc", "pooled_auroc", "min_auroc", "rare_auroc", "auroc/Edema"}.isdisjoint(found)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_that_diverged_is_said_so(value):
    """A bug: the sentence was about a sigmoid that had not been applied."""
    logits = torch.zeros(4, 6)
    logits[2, 3] = value
    batch = {"index": torch.arange(4), "pred": logits, "label": torch.zeros(4, 6)}
    engine = Engine(lambda _, batch: {"pred": batch["pred"], "label": batch["label"]})
    ClassificationQuality(LABELS, stage="stage2", advice="--lr_stage2").attach(engine)
    expected = rf"stage2: in the validation of epoch 1 the network says {value} for 'Pneumonia', .*\(--lr_stage2\)"
    with pytest.raises(FloatingPointError, match=expected):
        engine.run([batch])


def test_pictures_are_of_the_last_validation():
    logits, targets = make_cases()
    engine = Engine(lambda _, batch: {"pred": batch["pred"], "label": batch["label"]})
    quality = ClassificationQuality(LABELS)
    quality.attach(engine)
    assert quality.pictures() == {}
    engine.run([{"index": torch.arange(200), "pred": torch.as_tensor(logits), "label": torch.as_tensor(targets)}])
    found = quality.pictures()
    assert list(found) == ["validation/roc", "validation/calibration"]
    figure, caption = found["validation/roc"]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert f"validation {engine.state.metrics['auroc/Edema']:.3f}" in texts
    assert "0 positive,\n" in "".join(texts)  # Fracture, which never occurs
    assert "ROC curves of 200 validation cases" in caption
