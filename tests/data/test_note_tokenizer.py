import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from common.data.note_tokenizer import NoteTokenizer, build_note_tokenizer
from common.text.notes.bm25 import with_background
from common.text.redaction import find_leaks, split_background

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


def test_cuts_long_notes(tmp_path):
    tokenizer = build_note_tokenizer(NOTES, tmp_path, max_tokens=5)
    batch = tokenizer(["fever", "chest pain and fever and pain"])
    assert batch["input_ids"].shape == (2, 5)
    assert tokenizer.tokens(batch["input_ids"][1]) == ["[CLS]", "chest", "pain", "and", "[SEP]"]


def test_background_passages_stand_behind_the_note(tmp_path):
    plain = build_note_tokenizer(NOTES, tmp_path)
    labels = ["Pneumonia", "Consolidation"]
    tokenizer = NoteTokenizer(tmp_path, background_passages=2, labels=labels)
    text = tokenizer.text(NOTES[0])
    own, background = split_background(text)
    assert own == NOTES[0] and background.count("- ") == 2 and find_leaks(background, labels) == []
    assert text == with_background(NOTES[0], 2, labels)
    assert tokenizer.encode(NOTES[0]) == plain.encode(text) == tokenizer(NOTES[:1])["input_ids"][0].tolist()
    for empty in (None, "", "xyzzy"):
        assert tokenizer.encode(empty) == plain.encode(empty)
    short = NoteTokenizer(tmp_path, max_tokens=12, background_passages=2)  # what is cut is the background first
    assert short.encode(NOTES[0])[:-1] == [*plain.encode(NOTES[0])[:-1], *short.encode(NOTES[0])[9:-1]]
    assert plain.text(NOTES[0]) == NOTES[0] and plain.text(None) == ""


def test_spans_say_where_the_tokens_stand(tmp_path):
    tokenizer = build_note_tokenizer(NOTES, tmp_path, vocab_size=60)
    for note in (*NOTES, "Grüße, FEVERS\n\t38.5 °C 🙂!", ""):
        spans, ids = tokenizer.spans(note), tokenizer.encode(note)
        assert len(spans) == len(ids) and spans[0] == (0, 0) and spans[-1][0] == spans[-1][1]
        placed = [(start, stop) for start, stop in spans if stop > start]
        assert all(a[1] <= b[0] for a, b in zip(placed, placed[1:], strict=False))
        covered = "".join(note[start:stop] for start, stop in placed)
        assert covered == "".join(note.split())
    assert [NOTES[0][a:b] for a, b in tokenizer.spans(NOTES[0])][1] == NOTES[0].split()[0]
    cut = NoteTokenizer(tmp_path, max_tokens=4)
    assert cut.spans(NOTES[0])[:3] == tokenizer.spans(NOTES[0])[:3] and len(cut.spans(NOTES[0])) == 4


def test_a_letter_of_several_tokens_stands_once(tmp_path):
    """Tokenizers of bytes, ModernBERT's among them, give all bytes of a letter the place of the letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=bytes_, pad_token="a").save_pretrained(tmp_path)
    spans = NoteTokenizer(tmp_path).spans("x 🙂y")
    assert len(spans) == 7 and [span for span in spans if span[1] > span[0]] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_the_same_notes_give_the_same_folder(tmp_path):
    first, second = (build_note_tokenizer(iter(NOTES), tmp_path / name, vocab_size=60) for name in "ab")
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab() and len(first) == 60
    assert first.tokens(first.encode("fevers"))[1:-1] == ["fever", "##s"]
    again = NoteTokenizer(tmp_path / "a")
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
    with pytest.raises(FileNotFoundError, match="not a folder with a tokenizer"):
        NoteTokenizer(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(ValueError, match="max_tokens is 2"):
        NoteTokenizer(tmp_path / "t", max_tokens=2)
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match=f"background_passages is {wrong}, expected a whole number"):
            NoteTokenizer(tmp_path / "t", background_passages=wrong)
    with pytest.raises(ValueError, match="label 'Gout' has no known terms"):
        NoteTokenizer(tmp_path / "t", background_passages=1, labels=["Gout"])
    NoteTokenizer(tmp_path / "t", labels=["Gout"])
