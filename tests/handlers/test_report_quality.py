from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch.nn import functional as F  # noqa: N812

from common.handlers.report_quality import AnswerQuality, answer_figures
from common.inferers.answer_inferer import WrittenAnswers
from common.text.report_answers import answer_a, answer_b

REAL_A = [answer_a("Edema.", {"Edema": 1.0}), answer_a("Normal chest.", {"No Finding": 1.0, "Edema": 0.0})]
REAL_B = [answer_b(["x"], "Edema.", ["heart_failure"]), answer_b(["y"], "Normal chest.", [])]


def test_what_equals_the_real_answers_and_what_does_not_parse():
    figures = answer_figures(REAL_A, REAL_A, "a")
    assert figures["valid"] == figures["micro_f1"] == figures["rouge_l"] == 1 and figures["combined"] == 2
    broken = answer_figures(["Edema.", REAL_A[1]], REAL_A, "a")
    assert broken["valid"] == 0.5 and broken["micro_f1"] == pytest.approx(2 / 3)
    assert answer_figures(REAL_A, REAL_B, "b")["valid"] == 0, "an answer of the other form is none"


def test_diagnoses_by_hand():
    said = [answer_b(["x"], "Edema.", ["heart_failure", "pneumonia"]), answer_b(["y"], "Normal.", ["pneumonia"])]
    assert answer_figures(said, REAL_B, "b")["micro_f1"] == pytest.approx(2 / 4)


def test_the_loss_is_a_mean_over_the_tokens_of_all_batches():
    draw = torch.Generator().manual_seed(0)
    logits, said = torch.randn(7, 5, generator=draw), torch.randint(0, 5, (7,), generator=draw)
    quality, engine = AnswerQuality("a"), Engine(lambda *_: None)
    engine.state.metrics = {}
    quality._started(engine)
    places = [torch.tensor([1, 2, 11, 12]), torch.tensor([3, 4, 5])]  # batches of two and one, ten tokens wide
    for i, cases in enumerate((["one", "two"], ["three"])):
        part = slice(0, 4) if i == 0 else slice(4, 7)
        batch = {"case": cases, "answer": (REAL_A * 2)[:2][: len(cases)], "said": said[part], "places": places[i]}
        batch["ids"] = torch.zeros(len(cases), 11)
        output = {"pred": WrittenAnswers((REAL_A * 2)[: len(cases)], logits[part])}
        quality._iteration_completed(SimpleNamespace(state=SimpleNamespace(output=output, batch=batch, epoch=1)))
    quality._completed(engine)
    assert engine.state.metrics["loss"] == pytest.approx(float(F.cross_entropy(logits, said)), rel=1e-5)
    assert engine.state.metrics["valid"] == 1


def test_a_training_that_has_diverged_is_named():
    output = {"pred": WrittenAnswers(None, torch.full((1, 5), float("nan")))}
    engine = SimpleNamespace(state=SimpleNamespace(output=output, batch={"case": ["one"]}, epoch=3))
    with pytest.raises(FloatingPointError, match="stage_a: in the validation of epoch 3 .* lower the learning rate"):
        AnswerQuality("a", "stage_a")._iteration_completed(engine)
