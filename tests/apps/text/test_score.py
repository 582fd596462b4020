import json
import math

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from common.apps.run.bundle import UsageError
from common.apps.text.score import read_reports, score_reports
from common.io.bad_input import BadInput
from common.metrics.report.bleu import bleu
from common.metrics.report.text import clean_report

REFERENCES = {
    "000123": "The heart is mildly enlarged. No pleural effusion.",
    "b": "The lungs are clear. No pneumothorax.",
    "c": "Small left pleural effusion.",
    "d": "Left lower lobe pneumonia is possible.",
    "e": "No acute cardiopulmonary process.",
}
GOOD = REFERENCES | {"c": "Small left effusion.", "d": "Possible pneumonia in the left lower lobe."}
POOR = dict.fromkeys(REFERENCES, "No acute cardiopulmonary process.") | {"b": ""}


@pytest.fixture
def write(tmp_path):
    def writer(name, reports):
        lines = [json.dumps({"id": key, "report": text}) for key, text in reports.items()]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return writer


@pytest.fixture
def files(write):
    shuffled = dict(reversed(REFERENCES.items()))
    return write("p.jsonl", GOOD), write("r.jsonl", shuffled), write("q.jsonl", POOR)


def test_one_system(files, tmp_path):
    pred, ref, _ = files
    result = score_reports(pred, ref, out=tmp_path / "deep" / "s.json", draws=50)
    ids = sorted(REFERENCES)
    texts = [GOOD[key] for key in ids], [REFERENCES[key] for key in ids]
    assert result["raw"] == result["raw"] | bleu(*texts).value()
    assert result["cleaned"] == result["cleaned"] | bleu(*([clean_report(t) for t in side] for side in texts)).value()
    assert result["reports"] == 5
    low, high = result["intervals"]["cleaned"]["bleu_4"]
    assert low <= result["cleaned"]["bleu_4"] <= high
    assert result["labels"]["uncertain_positive"]["micro_recall_14"] == 1
    assert result["per_label"]["Pleural Effusion"]["positives"] == 1
    assert result["per_label"]["Fracture"]["f1"] is None
    assert set(result["not_run"]) == {"bertscore", "chexbert", "radgraph"}
    assert all(reason.startswith("not run: give --") for reason in result["not_run"].values())
    assert json.loads((tmp_path / "deep" / "s.json").read_text()) == result
    json.dumps(result, allow_nan=False)


def test_two_systems(files):
    pred, ref, pred2 = files
    result = score_reports(pred, ref, pred2, draws=100)
    compared = result["comparison"]["cleaned"]["rouge_l"]
    assert compared["difference"] == pytest.approx(result["cleaned"]["rouge_l"] - result["pred2"]["cleaned"]["rouge_l"])
    assert 1 / 101 <= compared["p"] < 1
    assert result["pred2"]["blank_predictions"] == 1
    assert result["notes"] == ["Blank reports in pred2, which score 0: 1."]
    back = score_reports(pred2, ref, pred, draws=100)["comparison"]["cleaned"]["rouge_l"]
    assert back["difference"] == pytest.approx(-compared["difference"])
    assert back["p"] == compared["p"]
    same = score_reports(pred, ref, pred, draws=20)["comparison"]["cleaned"]
    assert {(metric["difference"], metric["p"]) for metric in same.values()} == {(0, 1)}


def test_the_result_depends_on_the_seed_alone(files):
    pred, ref, pred2 = files
    once, again = (score_reports(pred, ref, pred2, draws=30, seed=3) for _ in range(2))
    assert once == again
    assert once["intervals"] != score_reports(pred, ref, draws=30, seed=4)["intervals"]


def test_ct(write):
    references = {"1": "Pleural effusion is observed.", "2": "Emphysema is seen.", "3": "Hiatal hernia is seen."}
    pred, ref = write("p.jsonl", references | {"3": "Emphysema is seen."}), write("r.jsonl", references)
    result = score_reports(pred, ref, draws=20, kind="ct")
    assert 1 / 3 < result["labels"]["crg"] < 1
    assert result["labels"]["crg_floor"] == pytest.approx(1 / 3)
    assert result["labels"]["crg_best_constant"] > 1 / 3
    assert result["labels"]["micro_f1_18"] == pytest.approx(2 * 2 / 6)
    assert "uncertain_positive" not in result["labels"]


def test_without_any_finding_crg_is_said_to_be_undefined(write):
    pred, ref = write("p.jsonl", {"1": "Pleural effusion is observed."}), write("r.jsonl", {"1": "Normal."})
    result = score_reports(pred, ref, draws=20, kind="ct")
    assert result["labels"]["crg"] is None
    assert "labels.crg" in result["undefined"]
    assert result["notes"][0].startswith("CIDEr of a single pair is 0")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"b": None}, "lacks 1 of 5 ids, such as 'b'"),
        ({"z": "x", "y": "x"}, "adds 2 of 7 ids, such as 'y'"),
        ({"b": None, "z": "x"}, "lacks 1 of 5 ids, such as 'b' and adds 1 of 5 ids, such as 'z'"),
    ],
)
def test_other_ids_are_refused(files, write, changed, sentence):
    other = {key: text for key, text in (GOOD | changed).items() if text is not None}
    with pytest.raises(BadInput, match=sentence):
        score_reports(write("o.jsonl", other), files[1])
    with pytest.raises(BadInput, match="o.jsonl: .*" + sentence):
        score_reports(files[0], files[1], write("o.jsonl", other))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"id": "x", "report": "a"', "line 2 is no JSON"),
        (b"", "line 2 is no JSON"),
        (b"[" * 100_000, "line 2 is no JSON .nested too deeply"),
        (b'["x", "a"]', "line 2 is a JSON list, expected an object"),
        (b'{"report": "a"}', "line 2 has no 'id'"),
        (b'{"id": "x"}', "line 2 has no 'report'"),
        (b'{"id": "x", "report": null}', "line 2 has a report of type NoneType, expected a string"),
        (b'{"id": 1.5, "report": "a"}', "line 2 has the id 1.5, expected a string"),
        (b'{"id": true, "report": "a"}', "line 2 has the id True, expected a string"),
        (b'{"id": "first", "report": "a"}', "line 2 has the id 'first' again"),
        (b'{"id": "x", "report": "\xff"}', "is not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, sentence):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"id": "first", "report": "a"}\n' + line + b'\n{"id": "last", "report": "a"}\n')
    with pytest.raises(BadInput, match=f"p.jsonl: .*{sentence}"):
        read_reports(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_nothing_is_no_report(tmp_path, content):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(BadInput, match="holds no report"):
        read_reports(tmp_path / "p.jsonl")
    with pytest.raises(BadInput, match="cannot be read"):
        read_reports(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="cannot be read"):
        read_reports(tmp_path)


def test_ids_stay_strings_and_reports_whole(tmp_path):
    text = "one\u2028two\x85three\rfour"
    lines = [{"id": "000123", "report": text, "more": [1]}, {"id": 7, "report": ""}, {"id": "a,b", "report": "\ud800"}]
    content = "\r\n".join(json.dumps(line, ensure_ascii=number == 2) for number, line in enumerate(lines))
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\r\n\n")
    assert read_reports(tmp_path / "p.jsonl") == {"000123": text, "7": "", "a,b": "\ud800"}


def test_wrong_usage(files):
    pred, ref, _ = files
    with pytest.raises(UsageError, match="--out is .*r.jsonl, which is an input"):
        score_reports(pred, ref, out=ref)
    with pytest.raises(UsageError, match="--kind 'cr' is unknown, expected cxr or ct"):
        score_reports(pred, ref, kind="cr")
    with pytest.raises(UsageError, match="--draws is 0"):
        score_reports(pred, ref, draws=0)
    with pytest.raises(UsageError, match="--chexbert reads chest X-ray reports"):
        score_reports(pred, ref, kind="ct", chexbert=".")


@pytest.fixture
def models(tmp_path):
    """A tiny encoder, which is a CheXbert, too."""
    folder = tmp_path / "models"
    folder.mkdir()
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the lungs are clear no effusion small left pneumonia possible .".split()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=8).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(words), **shape))
    model.save_pretrained(folder)
    weights = {f"module.bert.{name}": tensor for name, tensor in model.state_dict().items()}
    for i in range(14):
        classes = 2 if i == 13 else 4
        weights |= {
            f"module.linear_heads.{i}.weight": torch.randn(classes, 16),
            f"module.linear_heads.{i}.bias": torch.zeros(classes),
        }
    torch.save({"model_state_dict": weights}, folder / "chexbert.pth")
    return folder


def test_model_scores_run_when_weights_are_given(files, models):
    pred, ref, pred2 = files
    result = score_reports(pred, ref, pred2, draws=20, bertscore=models, bertscore_layer=1, chexbert=models)
    assert set(result["not_run"]) == {"radgraph"}
    assert -1 <= result["pred2"]["bertscore"]["f1"] < result["bertscore"]["f1"] <= 1
    assert "micro_f1_14" in result["chexbert"]["uncertain_own"]
    assert {"difference", "p"} == set(result["comparison"]["bertscore"]["f1"])
    assert any(note.startswith("Texts longer than bertscore reads") for note in result["notes"])


def test_a_radgraph_without_its_package_is_not_run(files, tmp_path, monkeypatch):
    monkeypatch.setattr("common.metrics.report.model_scores.radgraph_installed", lambda: False)
    result = score_reports(*files[:2], draws=5, radgraph=tmp_path)
    assert result["not_run"]["radgraph"] == "not run: install the package radgraph"
    assert "radgraph" not in result
    assert not math.isnan(result["raw"]["cider"])
