import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
)

from common.networks import text_encoder
from common.networks.text_encoder import CLINICAL_MODERNBERT, TextEncoder
from common.networks.weights import count_parameters

SPECIAL = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "max_position_embeddings": 256,
    "local_attention": 8,
    **SPECIAL,
}
TINY = {"model_type": "modernbert", **SIZES}


def notes(lengths=(40, 7), seed=0):
    ids = torch.randint(5, 60, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids * mask, mask.long()


def test_paper_size():
    with torch.device("meta"):
        encoder = TextEncoder(config=CLINICAL_MODERNBERT)
    assert count_parameters(encoder) == 149_014_272
    assert (encoder.features, encoder.max_tokens, encoder.pooling) == (768, 8192, "mean")


def test_padding_changes_nothing():
    encoder = TextEncoder(config=TINY, pooling="mean").eval()
    ids, mask = notes()
    both = encoder(ids, mask)
    alone = encoder(ids[1:, :7])
    torch.testing.assert_close(both[1:], alone, atol=1e-6, rtol=1e-5)
    other = ids.clone()
    other[1, 7:] = 9  # what stands in the padding does not matter
    torch.testing.assert_close(encoder(other, mask), both, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pools_as_the_models_own_classifier(tmp_path, pooling):
    model = ModernBertForSequenceClassification(ModernBertConfig(**SIZES, classifier_pooling=pooling)).eval()
    model.save_pretrained(tmp_path)
    seen = []
    model.head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    ids, mask = notes()
    model(ids, attention_mask=mask)
    encoder = TextEncoder(str(tmp_path)).eval()
    assert encoder.pooling == pooling
    torch.testing.assert_close(encoder(ids, mask), seen[0], atol=1e-6, rtol=1e-5)


def test_a_masked_language_model_loads_whole_and_in_fp32(tmp_path):
    ModernBertForMaskedLM(ModernBertConfig(**SIZES)).to(torch.bfloat16).save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    assert encoder.model.dtype == torch.float32
    ids, mask = notes()
    encoder(ids, mask).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_bert_by_its_folder(tmp_path):
    sizes = {k: SIZES[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    BertModel(BertConfig(**sizes, vocab_size=60)).save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    ids, mask = notes()
    encoder(ids, mask).sum().backward()
    assert encoder.pooling == "cls" and encoder.model.pooler is None and encoder.max_tokens == 512
    assert encoder.attention(ids, mask).shape == (2, 1, 40)


def test_a_roberta_takes_as_many_tokens_as_it_says():
    sizes = {k: SIZES[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    config = {"model_type": "roberta", **sizes, "vocab_size": 60, "max_position_embeddings": 34, "pad_token_id": 1}
    encoder = TextEncoder(config=config)
    assert encoder.max_tokens == 32
    assert encoder(torch.full((1, 32), 7)).shape == (1, 32)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_short_note_in_a_long_batch_is_finite(pooling, dtype):
    # Padding far from any token has nothing to attend to in the local layers.
    encoder = TextEncoder(config=TINY, pooling=pooling)
    ids, mask = notes((120, 1))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        vector = encoder(ids, mask)
    vector.float().square().sum().backward()
    assert vector.isfinite().all() and all(p.grad.isfinite().all() for p in encoder.parameters())


def test_attention_over_the_tokens():
    encoder = TextEncoder(config=TINY).eval()
    ids, mask = notes()
    rolled, last = encoder.attention(ids, mask), encoder.attention(ids, mask, rollout=False)
    assert rolled.shape == (2, 1, 40) and last.shape == (2, 4, 40)
    for weights in (rolled, last):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert (weights[1, :, 7:] == 0).all() and (weights[1, :, :7] > 0).all()
    # Layers 0 and 3 see the whole note; a local last layer would not.
    local = TextEncoder(config={**TINY, "num_hidden_layers": 3}).eval()
    assert (local.attention(ids, mask, rollout=False)[0, :, 20:] > 0).all()


def test_flash_attention_where_it_is_installed_and_allowed(monkeypatch):
    encoder = TextEncoder(config=TINY)
    chosen = []
    monkeypatch.setattr(encoder.model, "set_attn_implementation", chosen.append)
    monkeypatch.setattr(text_encoder, "is_flash_attn_2_available", lambda: True)
    encoder._choose_attention(torch.device("cuda"))
    assert chosen == []  # fp32
    encoder.model.to(torch.bfloat16)
    encoder._choose_attention(torch.device("cuda"))
    encoder._choose_attention(torch.device("cpu"))
    assert chosen == ["flash_attention_2"]


def test_definition_rebuilds_it():
    encoder = TextEncoder(config=TINY, pooling="mean").eval()
    again = TextEncoder(**json.loads(json.dumps(encoder.definition()))).eval()
    again.load_state_dict(encoder.state_dict())
    ids, mask = notes()
    assert torch.equal(again(ids, mask), encoder(ids, mask))
    assert encoder.definition()["config"]["vocab_size"] == 60 == encoder.vocab_size and encoder.pad_token_id == 0


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="neither model nor config"):
        TextEncoder()
    with pytest.raises(ValueError, match="'max'"):
        TextEncoder(config=TINY, pooling="max")
    with pytest.raises(ValueError, match="300 tokens, expected at most 256"):
        TextEncoder(config=TINY)(torch.ones(1, 300, dtype=torch.long))
    with pytest.raises(FileNotFoundError, match="downloading is off"):
        TextEncoder("nobody/no-such-model")
