import re

import pytest
import torch
from peft import LoraConfig, get_peft_model

from common.llm import lora
from common.llm.llava import image_tokens, llava_of, load_llava, mm_outputs
from common.llm.llava_conversion import convert_llava
from common.llm.load import load_language_model
from common.llm.lora import add_lora, load_trainable, merge_lora, trainable_state
from common.networks.weights import count_parameters
from tests.llm.tiny_bart import SIZES
from tests.llm.tiny_llava import PUBLISHED, TEXT, example, write_original

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    return str(convert_llava(write_original(folder / "original"), folder / "llava", image_size=28))


def trained(model, steps=1):
    """Steps of Adam on the cached tokens of two images."""
    pixels, ids, labels = example(llava_of(model).config.image_token_id)
    tokens = image_tokens(model, pixels)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    torch.manual_seed(1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels, mm_encoder_outputs=mm_outputs(model, tokens)).loss
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
    return model.eval()


def logits(model):
    pixels, ids, _ = example(llava_of(model).config.image_token_id)
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits


def test_parameters_at_the_published_sizes():
    with torch.device("meta"):
        model = load_llava(config=PUBLISHED)
        assert model.dtype == torch.bfloat16 and count_parameters(model) == 7_566_743_552
        assert count_parameters(model.model.vision_tower) == 303_507_456
        assert count_parameters(model.model.multi_modal_projector) == 20_979_712
        original = load_llava(
            config=PUBLISHED | {"text_config": PUBLISHED["text_config"] | {"vocab_size": 32000, "pad_token_id": None}}
        )
        assert count_parameters(original) == 7_566_219_264
        adapted = add_lora(model)
    state = trainable_state(adapted)
    assert sum(t.numel() for name, t in state.items() if ".lora_" in name) == 41_943_040
    assert sum(t.numel() for t in state.values()) == 62_922_752
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 62_922_752
    assert {t.dtype for t in state.values()} == {torch.float32}


def test_plain_names_are_those_of_the_vision_tower_too(monkeypatch):
    with torch.device("meta"):
        model = load_llava(config=PUBLISHED)
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules=list(PROJECTIONS)))
        assert sum(p.numel() for n, p in adapted.named_parameters() if ".lora_" in n) == 44_302_336
        monkeypatch.setattr(lora, "_TARGET", list(PROJECTIONS))
        with pytest.raises(ValueError, match="have 44,302,336 parameters, expected 41,943,040 of the language model"):
            add_lora(load_llava(config=PUBLISHED))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_changes_adapters_and_projector_alone(base, checkpointing):
    model = add_lora(load_llava(base, precision="float32", gradient_checkpointing=checkpointing), r=4, dropout=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, steps=2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {n for n in before if ".lora_" in n or "multi_modal_projector" in n}
    layers = {re.sub(r".*layers\.\d+\.(self_attn|mlp)\.(\w+)\.lora_.*", r"\2", n) for n in changed if ".lora_" in n}
    assert layers == set(PROJECTIONS)


def test_checkpointing_gives_the_same_weights(base):
    states = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = add_lora(load_llava(base, precision="float32", gradient_checkpointing=checkpointing), r=4)
        states.append(trainable_state(trained(model, steps=2)))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], msg=name)


def test_trainable_state_is_loaded_bit_by_bit(base, tmp_path):
    model = trained(add_lora(load_llava(base), r=4), steps=2)
    state = trainable_state(model)
    assert all(n.startswith("model.language_model.layers.") or n.startswith("model.multi_modal_") for n in state)
    assert not any("base_model" in name or "default" in name for name in state)
    torch.save(state, tmp_path / "model.pt")
    again = add_lora(load_llava(base), r=4).eval()
    assert not torch.equal(logits(again), logits(model))
    load_trainable(again, torch.load(tmp_path / "model.pt", weights_only=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(again).items())
    assert torch.equal(logits(again), logits(model))
    assert sum(p.requires_grad for p in again.parameters()) == len(state)


def test_a_language_model_by_itself():
    config = {"model_type": "mistral", "vocab_size": 50, **TEXT}
    model = add_lora(load_language_model(config=config), r=4)
    state = trainable_state(model)
    assert len(state) == 2 * 2 * 7 and {n.split(".lora_")[0] for n in state} == {
        n.removesuffix(".weight") for n in load_language_model(config=config).state_dict() if "_proj" in n
    }
    ids = torch.arange(12).reshape(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all((p.grad is not None) == (".lora_" in name) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match="Target modules .* not found"):
        add_lora(load_language_model(config=SIZES))


def test_other_adapters_are_refused(base):
    model = add_lora(load_llava(base), r=4)
    state = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    name = next(iter(state))
    for wrong, reason in (
        ({n: t for n, t in state.items() if n != name}, "1 tensors missing, 0 unexpected, 0 of another shape"),
        (state | {"x": torch.zeros(1)}, "0 tensors missing, 1 unexpected"),
        (state | {name: torch.zeros(2, 2)}, rf"1 of another shape \({name}\), expected exactly {len(state)}"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_trainable(model, {n: t + 1 for n, t in wrong.items()})
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(model).items())
    with pytest.raises(ValueError, match="the model has adapters already"):
        add_lora(model)


def test_merged_adapters_give_the_same_answers(base):
    model = trained(add_lora(load_llava(base, precision="float32"), r=4), steps=3)
    before = logits(model)
    merged = merge_lora(model)
    assert not any("lora" in name for name in merged.state_dict()) and not hasattr(merged, "peft_config")
    torch.testing.assert_close(logits(merged), before, atol=1e-5, rtol=0)
    half = merge_lora(trained(add_lora(load_llava(base), r=4)))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_of_a_quantised_model(base, quantization, precision):
    pytest.importorskip("bitsandbytes")
    model = add_lora(load_llava(base, precision=precision, quantization=quantization), r=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    trained(model, steps=2)
    after = model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {n for n in before if ".lora_" in n or "multi_modal_projector" in n}
    assert {t.dtype for t in trainable_state(model).values()} == {torch.float32}
    again = add_lora(load_llava(base, precision=precision, quantization=quantization), r=4).eval()
    load_trainable(again, trainable_state(model))
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(ValueError, match="the model is quantised, expected one in full precision"):
        merge_lora(model)
