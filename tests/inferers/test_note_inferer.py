import pytest
import torch

from common.inferers.note_inferer import NoteInferer


def tokenizer(notes):
    ids = torch.tensor([[len(note), 1] for note in notes])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Network:
    def __call__(self, image, **given):
        self.given = given
        return image.mean((1, 2, 3))[:, None]


def given(inferer, *args, **kwargs):
    network = Network()
    inferer(torch.zeros(2, 3, 4, 4), network, *args, **kwargs)
    return network.given


def test_a_note_of_the_configuration_goes_to_every_image():
    note = given(NoteInferer(tokenizer, "cough"))["note"]
    assert note["input_ids"].tolist() == [[5, 1], [5, 1]] and note["attention_mask"].shape == (2, 2)


def test_no_note_is_passed_where_there_is_none():
    assert given(NoteInferer(tokenizer)) == {} == given(NoteInferer(tokenizer, "  "))


def test_what_the_caller_gives_comes_first():
    inferer = NoteInferer(tokenizer, "cough")
    assert given(inferer, note="fever!")["note"]["input_ids"].tolist() == [[6, 1], [6, 1]]
    assert given(inferer, note=None, clinical=1) == {"note": None, "clinical": 1}
    tokens = tokenizer(["a", "b"])
    assert given(inferer, note=tokens)["note"] is tokens


def test_autocast_gives_float32():
    network = torch.nn.Linear(4, 2)
    assert NoteInferer(tokenizer, dtype="bfloat16")(torch.zeros(2, 4), network).dtype == torch.float32


def test_a_network_without_text_refuses_a_note():
    assert given(NoteInferer(None), note=None, present=1) == {"note": None, "present": 1}
    with pytest.raises(ValueError, match="reads none"):
        given(NoteInferer(None, "cough"))
