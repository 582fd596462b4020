import importlib.util
from pathlib import Path

import pytest
import torch

from common.io.bad_input import BadInput
from common.llm.answer_batch import IMAGE, AnswerCollate, all_texts, chat_text, encode_answer, mean_answer_length
from common.llm.llava_conversion import convert_llava
from common.llm.tokens import IGNORED, load_tokenizer
from common.text.report_answers import instruction
from tests.llm.answer_cases import CASES, cases, small_tokenizer
from tests.llm.tiny_llava import write_original


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def said(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_text_of_a_question():
    assert chat_text("<image>\nRead.", "<image><image>") == "[INST] <image><image>\nRead. [/INST]"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_answer_and_the_end_are_learned_and_nothing_else(tokenizer, case):
    question = instruction(case["stage"], None if case["lines"] is None else [line.text for line in case["lines"]])
    ids, labels = encode_answer(tokenizer, question, case["answer"], IMAGE * 4)
    learned = labels != IGNORED
    assert said(tokenizer, ids[learned]) == f" {case['answer']}</s>" and torch.equal(ids[learned], labels[learned])
    assert said(tokenizer, ids[~learned]) == f"<s>{chat_text(question, IMAGE * 4)}"
    assert (ids == tokenizer.convert_tokens_to_ids(IMAGE)).sum() == 4 and int(ids[-1]) == tokenizer.eos_token_id


@pytest.mark.skipif(importlib.util.find_spec("mistral_common") is None, reason="package mistral-common is not there")
def test_mistrals_own_tokenizer_learns_the_answer_byte_for_byte(tmp_path):
    import mistral_common

    model = next((Path(mistral_common.__file__).parent / "data").glob("tokenizer.model.v1"))
    own = load_tokenizer(
        convert_llava(write_original(tmp_path / "in", sentencepiece=model), tmp_path / "out", image_size=28)
    )
    texts = [case["answer"] for case in CASES] + [
        '{"impression":"50 % \\u00b5 [INST] caf\u00e9 \U0001fac1","chexpert":{}}'
    ]
    for text in texts:
        ids, labels = encode_answer(own, instruction("a"), text, IMAGE * 4)
        learned = ids[labels != IGNORED]
        assert int(learned[-1]) == own.eos_token_id
        assert own.decode(learned[:-1], skip_special_tokens=False).removeprefix(" ") == text


def test_a_batch(tokenizer):
    batch = AnswerCollate(tokenizer, 4, prompts=True)(cases())
    for i, case in enumerate(CASES):
        ids, labels = encode_answer(tokenizer, _question(case), case["answer"], IMAGE * 4)
        assert torch.equal(batch["ids"][i][batch["mask"][i] == 1], ids)
        width = batch["ids"].shape[1] - 1
        own = (batch["places"] // width) == i
        assert torch.equal(batch["said"][own], labels[labels != IGNORED])
        # What comes after each place is what is to be said.
        assert torch.equal(batch["ids"][i][1 + batch["places"][own] % width], batch["said"][own])
        asked = batch["prompt"][i][batch["prompt_mask"][i] == 1]
        assert said(tokenizer, asked) == f"<s>{chat_text(_question(case), IMAGE * 4)}"
        assert batch["prompt_mask"][i, -1] == 1, "questions are padded on the left"
    assert batch["tokens"].shape == (3, 4, 32) and batch["case"] == [case["case"] for case in CASES]
    without = AnswerCollate(tokenizer, 4)([{k: v for k, v in case.items() if k != "answer"} for case in cases()])
    assert "ids" not in without and torch.equal(without["prompt"], batch["prompt"])


def _question(case):
    return instruction(case["stage"], None if case["lines"] is None else [line.text for line in case["lines"]])


def test_the_oldest_laboratory_values_go_first_and_are_counted(tokenizer):
    case = CASES[1]
    whole = len(encode_answer(tokenizer, _question(case), case["answer"], IMAGE * 4)[0])
    collate = AnswerCollate(tokenizer, 4, max_length=whole - 1)
    text = said(tokenizer, collate([case])["ids"][0])
    assert "Sodium" not in text and "WBC" in text and collate.dropped == {"two_b": 1}
    with pytest.raises(
        BadInput, match="two_b: has .* tokens without any laboratory value, expected at most max_length"
    ):
        AnswerCollate(tokenizer, 4, max_length=whole - 100)([case])
    assert AnswerCollate(tokenizer, 4, max_length=whole)([case])["ids"].shape[1] == whole


@pytest.mark.parametrize("mark", ["</s>", "<image>", "<pad>"])
def test_marks_of_the_tokenizer_are_no_text(tokenizer, mark):
    with pytest.raises(BadInput, match=f"one_a: has '{mark}' in its text"):
        AnswerCollate(tokenizer, 4)([CASES[0] | {"answer": f"Edema.{mark}"}])


def test_words_may_stand_for_an_image(tokenizer):
    case = CASES[0] | {"seen": "Pneumonia"}
    assert "[INST] Pneumonia\n" in said(tokenizer, AnswerCollate(tokenizer, 4)([case])["ids"][0])
    assert all_texts([case])[0].startswith("[INST] Pneumonia\n")


def test_the_mean_length(tokenizer):
    lengths = [len(tokenizer(case["answer"])["input_ids"]) for case in CASES]
    assert mean_answer_length(tokenizer, CASES) == pytest.approx(sum(lengths) / 3)
    with pytest.raises(BadInput, match="holds no case to train with"):
        mean_answer_length(tokenizer, [])
    with pytest.raises(BadInput, match="one_a: has no answer"):
        mean_answer_length(tokenizer, [CASES[0] | {"answer": " "}])
