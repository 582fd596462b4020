import pytest
import torch

from common.data.note_tokenizer import build_note_tokenizer
from common.inferers.note_attention import note_attention
from common.networks.text_encoder import TextEncoder
from tests.data.cxr.tiny_study import NOTES
from tests.networks.tiny_mdfnet import TEXT


@pytest.fixture
def tokenizer(tmp_path):
    return build_note_tokenizer([note or "" for note in NOTES], tmp_path / "t", 90)


def test_every_token_has_its_weight_and_its_place(tokenizer):
    torch.manual_seed(0)
    encoder = TextEncoder(config=TEXT).eval()
    text, spans, weights = note_attention(encoder, tokenizer, NOTES[0])
    assert text == NOTES[0] and len(spans) == len(weights) == len(tokenizer.encode(NOTES[0]))
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    direct = encoder.attention(**tokenizer([NOTES[0]]))[0, 0]
    torch.testing.assert_close(torch.tensor(weights), direct)
    padded = encoder.attention(**tokenizer([NOTES[0], f"{NOTES[0]} {NOTES[0]}"]))[0, 0]  # padding has no weight
    torch.testing.assert_close(padded, torch.cat([direct, torch.zeros(len(padded) - len(direct))]))


def test_the_weights_follow_the_network(tokenizer):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(note_attention(TextEncoder(config=TEXT).eval(), tokenizer, NOTES[0]).weights)
    assert found[0] != pytest.approx(found[1], abs=1e-6)
