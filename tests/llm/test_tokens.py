import subprocess
import sys

import pytest
import torch

from common.io.bad_input import BadInput
from common.llm.load import load_language_model
from common.llm.tokens import (
    IGNORED,
    build_tokenizer,
    check_tokenizer,
    encode_targets,
    fitted_tokenizer,
    load_tokenizer,
    mean_target_length,
    saved_tokenizer,
    vocabulary_checksum,
)
from tests.llm.tiny_bart import SENTENCES, SIZES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(SENTENCES, tmp_path_factory.mktemp("tokenizer"), 300)


@pytest.mark.parametrize("text", [*SENTENCES, "Größe 2 × 3 cm, no 😀 finding.", "  two  spaces\nand a line "])
def test_decoding_gives_the_text_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_same_texts_same_bytes_in_any_order_and_process(tokenizer, tmp_path):
    build_tokenizer(SENTENCES[::-1], tmp_path / "a", 300)
    code = (
        f"from common.llm.tokens import build_tokenizer; build_tokenizer({SENTENCES!r}, {str(tmp_path / 'b')!r}, 300)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_frequent_words_become_one_token(tmp_path):
    tokenizer = build_tokenizer(SENTENCES * 20, tmp_path, 400)
    assert len(tokenizer) <= 400 and len(tokenizer("The lungs are clear.")["input_ids"]) < 10


def test_targets_are_whole_and_padding_is_ignored(tokenizer):
    batch = encode_targets(tokenizer, SENTENCES[:2])
    for row, text in zip(batch, SENTENCES, strict=False):
        ids = tokenizer(text)["input_ids"]
        assert row[: len(ids)].tolist() == ids and (row[len(ids) :] == IGNORED).all()
    assert batch.dtype == torch.int64


def test_what_is_too_long_is_named_and_counted(tokenizer):
    cases = [{"case": name, "report": text} for name, text in zip("abcde", SENTENCES, strict=True)]
    lengths = [len(tokenizer(text)["input_ids"]) for text in SENTENCES]
    decoder = load_language_model(config=SIZES)
    assert mean_target_length(tokenizer, cases, decoder) == sum(lengths) / 5
    most = sorted(lengths)[-3]
    short = load_language_model(config=SIZES | {"max_position_embeddings": most})
    with pytest.raises(
        BadInput, match=rf"^d: has a report of {max(lengths)} tokens, as 2 of 5 cases have more than {most}"
    ):
        mean_target_length(tokenizer, cases, short)
    with pytest.raises(BadInput, match="^d: has a report of"):
        mean_target_length(tokenizer, cases[:1], short, cases[1:])
    assert mean_target_length(tokenizer, cases[:1], decoder, cases[1:]) == lengths[0]


def test_the_tokenizer_beside_the_weights(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer does not exist; make it with this"):
        saved_tokenizer(str(tmp_path), "this")
    fitted_tokenizer(str(tmp_path), SENTENCES, vocab_size=300)
    assert saved_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    assert saved_tokenizer(str(tmp_path), vocabulary=vocabulary_checksum(tokenizer)) is not None
    with pytest.raises(BadInput, match="has another vocabulary than the weights beside it"):
        saved_tokenizer(str(tmp_path), vocabulary=vocabulary_checksum(tokenizer) + 1)
    fitted_tokenizer(str(tmp_path / "b"), ["other texts"], model=str(tmp_path / "tokenizer"))
    assert saved_tokenizer(str(tmp_path / "b")).get_vocab() == tokenizer.get_vocab()


def test_another_models_tokenizer_is_refused(tokenizer):
    check_tokenizer(tokenizer, load_language_model(config=SIZES))
    with pytest.raises(ValueError, match=rf"has {len(tokenizer)} tokens, expected at most the 200 of the decoder"):
        check_tokenizer(tokenizer, load_language_model(config=SIZES | {"vocab_size": 200}))
    with pytest.raises(ValueError, match=r"has pad_token_id 1, expected the decoder's 5"):
        check_tokenizer(tokenizer, load_language_model(config=SIZES | {"pad_token_id": 5}))


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder with a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="none of 2 texts holds a word"):
        build_tokenizer(["", " "], tmp_path)
    with pytest.raises(ValueError, match="vocab_size is 100, expected 260 or more"):
        build_tokenizer(SENTENCES, tmp_path, 100)
