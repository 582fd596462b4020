import json
import math
from types import SimpleNamespace

import pytest
import torch

from common.handlers.case_results import ReportResults, write_report_lines
from common.handlers.report_quality import ReportQuality, report_figures
from common.inferers.report_inferer import ReportInferer
from common.llm.sentence_regions import sentence_regions
from common.llm.tokens import build_tokenizer, encode_targets
from common.metrics.report.score import ReportScore
from common.visualize.figures import picture_caption
from tests.llm.test_report_model import model, tokens
from tests.llm.tiny_bart import SENTENCES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(SENTENCES, tmp_path_factory.mktemp("tokenizer"), 300)


def test_a_batch_is_written_and_real_reports_are_weighed(tokenizer):
    network = model().eval()
    labels = encode_targets(tokenizer, SENTENCES[:2])
    written = ReportInferer(tokenizer, {"max_new_tokens": 6})(tokens(), network, labels=labels)
    assert [len(texts) for texts in written.texts] == [1, 1]
    torch.testing.assert_close(written.logits, network(tokens(), labels).logits)
    torch.testing.assert_close(written.findings, network.states(tokens()).findings)
    again = ReportInferer(tokenizer, {"max_new_tokens": 6}, dtype="bfloat16")(tokens(), network, labels=labels)
    assert again.logits.dtype == again.anatomy.routing.dtype == torch.float32
    assert (again.logits - written.logits).abs().max() < 0.1
    with pytest.raises(ValueError, match="did you mean num_beams"):
        ReportInferer(tokenizer, {"beams": 3})


def test_a_context_is_read_by_every_part(tokenizer):
    network = model(context_tokens=32).eval()
    torch.manual_seed(3)
    torch.nn.init.normal_(network.context.places.weight, std=9.0)
    inferer = ReportInferer(tokenizer, {"max_new_tokens": 6, "num_beams": 2}, regions=True)
    context, labels = (encode_targets(tokenizer, SENTENCES[i : i + 2]) for i in (0, 2))
    plain, told = (inferer(tokens(), network, labels, given) for given in (None, context))
    assert not torch.equal(plain.logits, told.logits) and plain.sentences != told.sentences
    torch.testing.assert_close(told.logits, network(tokens(), labels, context).logits)
    bfloat = ReportInferer(tokenizer, {"max_new_tokens": 6}, "bfloat16")(tokens(), network, labels, context)
    torch.testing.assert_close(bfloat.logits, told.logits, atol=0.3, rtol=0.1)


def engine_with(written, **batch):
    return SimpleNamespace(state=SimpleNamespace(output={"pred": written}, batch=batch, metrics={}, epoch=1))


def test_figures_are_those_of_the_whole_and_the_loss_is_a_mean_over_tokens(tokenizer):
    network, quality = model().eval(), ReportQuality()
    engine = engine_with(None)
    quality._started(engine)
    logs = []
    for i in range(0, 4, 2):
        labels = encode_targets(tokenizer, SENTENCES[i : i + 2])
        written = ReportInferer(tokenizer, {"max_new_tokens": 6})(tokens(i), network, labels=labels)
        engine.state.output = {"pred": written}
        engine.state.batch = {"case": [f"c{i}", f"c{i + 1}"], "report": list(SENTENCES[i : i + 2]), "labels": labels}
        quality._iteration_completed(engine)
        logs.append(torch.nn.functional.cross_entropy(written.logits.flatten(0, 1), labels.flatten(), reduction="none"))
    quality._completed(engine)
    known = torch.cat([log[log > 0] for log in logs])
    assert engine.state.metrics["loss"] == pytest.approx(float(known.mean()), rel=1e-5)
    score = ReportScore()
    score.update(*zip(*[(case, *pair) for case, pair in quality.texts.items()], strict=True))
    expected = score.compute()
    for name, full in {"bleu_4": "cleaned.bleu_4", "rouge_l": "cleaned.rouge_l"}.items():
        assert engine.state.metrics[name] == pytest.approx(expected[full])
    assert engine.state.metrics["combined"] == engine.state.metrics["bleu_4"] + engine.state.metrics["rouge_l"]


def test_what_equals_the_real_reports():
    found = report_figures(SENTENCES, SENTENCES)
    assert found["rouge_l"] == 1 and found["micro_f1"] == 1 and found["distinct_reports"] == 1
    assert report_figures(["", *SENTENCES[1:]], SENTENCES)["empty_reports"] == 0.2


def test_a_training_that_has_diverged_is_named(tokenizer):
    labels = encode_targets(tokenizer, SENTENCES[:1])
    written = SimpleNamespace(texts=[["a"]], logits=torch.full((1, labels.shape[1], 300), math.nan))
    quality = ReportQuality(stage="easy")
    with pytest.raises(FloatingPointError, match=r"easy: in the validation of epoch 1 .*\(--learning_rate\)"):
        quality._iteration_completed(engine_with(written, case=["c"], report=[SENTENCES[0]], labels=labels))


def test_files_of_the_cases(tokenizer, tmp_path):
    network = model().eval()
    written = ReportInferer(tokenizer, {"max_new_tokens": 6}, regions=True)(tokens(), network)
    texts = ["No effusion. Heart is normal.", ""]
    sentences = sentence_regions(network, tokenizer, network.states(tokens()), texts)
    written = written._replace(texts=[[text] for text in texts], sentences=sentences)
    labels, regions = [f"l{i}" for i in range(14)], network.queries.regions
    results = ReportResults(
        str(tmp_path), labels, {"num_beams": 1}, regions, network.queries.global_queries, warning="W."
    )
    results._iteration_completed(engine_with(written, case=["a", "b.1"], image=torch.rand(2, 3, 24, 24)))
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["report"] == "No effusion. Heart is normal." and content["decoding"] == {"num_beams": 1}
    assert content["warning"] == "W."
    assert [sentence["text"] for sentence in content["sentences"]] == ["No effusion", "Heart is normal"]
    assert all(s["region"] in regions and 1 / 7 <= s["probability"] <= 1 for s in content["sentences"])
    assert list(content["routing"]) == list(regions) and sum(content["routing"].values()) == pytest.approx(1, abs=1e-5)
    assert picture_caption(tmp_path / "a.png").startswith("Case a")
    assert (tmp_path / "a.txt").read_text() == "No effusion. Heart is normal.\n"
    assert json.loads((tmp_path / "b.1.json").read_text())["note"] == "The model wrote nothing."
    lines = write_report_lines(str(tmp_path), results.written).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "a", "report": content["report"]},
        {"id": "b.1", "report": ""},
    ]


def test_a_sentence_is_of_the_region_that_its_tokens_read(tokenizer):
    """States of one region are made to draw all attention: every sentence is read from there."""
    network = model().eval()
    read = network.states(tokens())
    first = network.queries.global_queries + 2 * network.queries.region_queries  # of the heart
    cross = network.decoder.model.decoder.layers
    with torch.no_grad():
        for layer in cross:
            layer.encoder_attn.k_proj.weight.copy_(torch.eye(16))
            layer.encoder_attn.q_proj.weight.zero_()
            layer.encoder_attn.q_proj.bias.fill_(5.0)
    states = torch.zeros_like(read.states)
    states[:, first : first + network.queries.region_queries] = 5.0
    before = network.decoder.config._attn_implementation
    texts = ["No effusion. Heart is normal.", "Clear."]
    sentences, _ = sentence_regions(network, tokenizer, read._replace(states=states), texts)
    assert [s.region for s in sentences] == ["heart", "heart"] and sentences[0].probability > 0.99
    assert network.decoder.config._attn_implementation == before
