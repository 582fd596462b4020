import pytest
import torch

from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer

NOTES = ["Chest pain and fever since two days.", "Shortness of breath, SpO2 88.", "Cough. No fever."]


def test_pads_to_the_longest_of_the_batch(tmp_path):
    tokenizer = build_note_tokenizer(NOTES, tmp_path, vocab_size=200)
    batch = tokenizer(["fever", "chest pain and fever", None])
    assert batch["input_ids"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [3, 6, 2] and batch["input_ids"].shape == (3, 6)
    assert tokenizer.tokens(batch["input_ids"][0]) == ["[CLS]", "fever", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    assert tokenizer.tokens(batch["input_ids"][2])[:2] == ["[CLS]", "[SEP]"]
    assert tokenizer(["fever"])["input_ids"].shape == (1, 3)


def test_case_does_not_matter_and_unknown_letters_are_said(tmp_path):
    tokenizer = build_note_tokenizer(NOTES, tmp_path)
    assert tokenizer.encode("FEVER") == tokenizer.encode("fever")
    assert "[UNK]" in tokenizer.tokens(tokenizer.encode("\u0416"))


def test_cuts_long_notes_and_counts_them(tmp_path):
    tokenizer = build_note_tokenizer(NOTES, tmp_path, max_tokens=5)
    batch = tokenizer(["fever", "chest pain and fever and pain"])
    assert batch["input_ids"].shape == (2, 5)
    assert tokenizer.tokens(batch["input_ids"][1]) == ["[CLS]", "chest", "pain", "and", "[SEP]"]
    assert (tokenizer.truncated, tokenizer.seen) == (1, 2)


def test_the_same_notes_give_the_same_folder(tmp_path):
    first, second = (build_note_tokenizer(iter(NOTES), tmp_path / name, vocab_size=60) for name in "ab")
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab() and len(first) == 60
    assert first.tokens(first.encode("fevers"))[1:-1] == ["fever", "##s"]
    again = NoteTokenizer(tmp_path / "a", pad_to_multiple_of=8)
    assert again(["fever"])["input_ids"].shape == (1, 8)
    assert again.encode(NOTES[0]) == first.encode(NOTES[0])


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder with a tokenizer"):
        NoteTokenizer(tmp_path)
    with pytest.raises(ValueError, match="none of 2 texts holds a word"):
        build_note_tokenizer(["", " "], tmp_path)
    with pytest.raises(ValueError, match="vocab_size is 30, expected"):
        build_note_tokenizer(NOTES, tmp_path, vocab_size=30)
    tokenizer = build_note_tokenizer(NOTES, tmp_path / "t")
    with pytest.raises(ValueError, match="no note"):
        tokenizer([])
    tokenizer.check_vocabulary(len(tokenizer), 0)
    tokenizer.check_vocabulary(len(tokenizer) + 5, None)
    for wrong in ((len(tokenizer) - 1, 0), (50368, 50283)):
        with pytest.raises(ValueError, match="expected the encoder's own tokenizer"):
            tokenizer.check_vocabulary(*wrong)
    with pytest.raises(FileNotFoundError, match="not a folder with a tokenizer"):
        NoteTokenizer(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(ValueError, match="max_tokens is 2"):
        NoteTokenizer(tmp_path / "t", max_tokens=2)
