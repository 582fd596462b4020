import json
import sys
import types

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from common.io.bad_input import BadInput
from common.metrics.report.model_scores import (
    CHEXBERT_CONDITIONS,
    BertScore,
    CheXbert,
    radgraph_f1,
    radgraph_installed,
)
from common.text.cxr_labeller import CHEXPERT_LABELS

WORDS = "the lungs are clear no pleural effusion heart size is normal mild edema . ,".split()
SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def write_tokenizer(folder, longest=32):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=longest)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    tokenizer = write_tokenizer(tmp_path)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(tmp_path)
    return tmp_path


def bertscore_by_hand(folder, layer, hypothesis, reference):
    """Token by token, without padding or batches."""
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = [
            model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
            for text in (hypothesis, reference)
        ]
    h, r = ([v / v.norm() for v in side] for side in states)
    precision = np.mean([max(float(a @ b) for b in r) for a in h[1:-1]])
    recall = np.mean([max(float(a @ b) for b in h) for a in r[1:-1]])
    return [precision, recall, 2 * precision * recall / (precision + recall)]


@pytest.mark.parametrize("layer", [1, None])
def test_bertscore(encoder, layer):
    hypotheses = ["the lungs are clear .", "mild edema", "no pleural effusion , heart size is normal ."]
    references = ["no edema .", "mild edema , no pleural effusion", "the lungs are clear ."]
    score = BertScore(encoder, layer, batch_size=2)
    expected = [bertscore_by_hand(encoder, layer or 3, *pair) for pair in zip(hypotheses, references, strict=True)]
    metric = score(hypotheses, references)
    assert metric.per_report() == pytest.approx(np.array(expected), abs=1e-5)
    assert metric.value()["f1"] == pytest.approx(np.mean(expected, axis=0)[2], abs=1e-5)
    assert score.cut == 0


def test_bertscore_of_equal_blank_and_long_texts(encoder):
    score = BertScore(encoder)
    text = "the lungs are clear ."
    assert score([text], [text]).per_report() == pytest.approx(1, abs=1e-5)
    assert score([text, "", " "], ["", text, ""]).per_report().tolist() == [[0] * 3] * 3
    assert np.isfinite(score(["the " * 1000], ["肺"]).per_report()).all()
    assert score.cut == 1


def test_bertscore_refuses_what_is_no_whole_model(encoder, tmp_path):
    with pytest.raises(BadInput, match="asked for layer 4, expected one of its 3"):
        BertScore(encoder, 4)
    with pytest.raises(BadInput, match="is no folder"):
        BertScore(tmp_path / "none")
    (encoder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds no model that can be loaded"):
        BertScore(encoder)
    torch.save({"embeddings.word_embeddings.weight": torch.zeros(20, 16)}, encoder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="lacks weights of its model, such as "):
        BertScore(encoder)


def test_a_tokenizer_of_another_model_is_refused(encoder):
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    with pytest.raises(BadInput, match="has a token 19 for a model of 10"):
        BertScore(encoder)


@pytest.fixture
def chexbert(tmp_path):
    """A checkpoint as the authors' training writes it: DataParallel's prefix, more than the weights beside it."""
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(write_tokenizer(tmp_path)), **SHAPE)
    config.save_pretrained(tmp_path)
    weights = {f"module.bert.{name}": tensor for name, tensor in BertModel(config).state_dict().items()}
    weights["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for i in range(14):
        classes = 2 if i == 13 else 4
        weights[f"module.linear_heads.{i}.weight"] = torch.randn(classes, 16) * 3
        weights[f"module.linear_heads.{i}.bias"] = torch.zeros(classes)
    torch.save({"epoch": 7, "model_state_dict": weights, "optimizer_state_dict": {}}, tmp_path / "chexbert.pth")
    return tmp_path


def test_chexbert(chexbert):
    model = CheXbert(chexbert, batch_size=2)
    texts = ["the lungs are clear .", "mild\n edema", "", "no pleural effusion , heart size is normal ."]
    labels = model.label(texts)
    assert [set(row) for row in labels] == [set(CHEXPERT_LABELS)] * 4
    ids = BertTokenizer.from_pretrained(chexbert)("mild edema", return_tensors="pt")
    with torch.no_grad():
        states = model.bert(**ids).last_hidden_state[:, 0]
        for name, head in zip(CHEXBERT_CONDITIONS, model.linear_heads, strict=True):
            assert labels[1][name] == (None, 1.0, 0.0, -1.0)[int(head(states).argmax())]
    assert {row["No Finding"] for row in labels} <= {None, 1.0}
    assert len({value for row in labels for value in row.values()}) > 2
    assert model.label(texts[:1]) == labels[:1]


def test_chexbert_refuses_other_files(chexbert):
    checkpoint = torch.load(chexbert / "chexbert.pth")
    del checkpoint["model_state_dict"]["module.linear_heads.3.bias"]
    torch.save(checkpoint, chexbert / "chexbert.pth")
    with pytest.raises(BadInput, match="does not fit CheXbert"):
        CheXbert(chexbert)
    torch.save({"weights": {}}, chexbert / "chexbert.pth")
    with pytest.raises(BadInput, match="has no model_state_dict"):
        CheXbert(chexbert)
    torch.save({"model_state_dict": {}, "hook": types.SimpleNamespace()}, chexbert / "chexbert.pth")
    with pytest.raises(ValueError, match="cannot be read as a file of weights"):
        CheXbert(chexbert)
    (chexbert / "vocab.txt").unlink()
    with pytest.raises(BadInput, match="holds no vocab.txt"):
        CheXbert(chexbert)


def test_radgraph_is_delegated_to_its_package(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="holds no config.json"):
        radgraph_f1(tmp_path, ["a"], ["a"])
    folder = tmp_path / "radgraph-xl"
    folder.mkdir()
    for name in ("config.json", "weights.th"):
        (folder / name).touch()
    calls = []

    class F1RadGraph:
        def __init__(self, reward_level, model_type, model_cache_dir):
            calls.append((reward_level, model_type, model_cache_dir))

        def __call__(self, hyps, refs):
            rewards = [[float(h == r) for h, r in zip(hyps, refs, strict=True)]] * 3
            return tuple(map(np.mean, rewards)), rewards, [], []

    package = types.ModuleType("radgraph")
    package.F1RadGraph = F1RadGraph
    monkeypatch.setitem(sys.modules, "radgraph", package)
    metric = radgraph_f1(folder, ["edema", "", "clear"], ["edema", "x", "effusion"])
    assert calls == [("all", "radgraph-xl", str(tmp_path))]
    assert metric.per_report().tolist() == [[1] * 3, [0] * 3, [0] * 3]
    assert metric.value()["entity_relation"] == pytest.approx(1 / 3)


def test_radgraph_installed_is_asked_of_the_import_system(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not radgraph_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "radgraph" or None)
    assert radgraph_installed()
