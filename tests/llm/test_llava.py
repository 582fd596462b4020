import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.llm.llava import image_tokens, load_llava, mm_outputs
from common.llm.llava_conversion import convert_llava
from common.llm.load import load_language_model
from common.llm.lora import add_lora
from tests.llm.tiny_bart import SIZES
from tests.llm.tiny_llava import example, parts, write_original


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def base(original, tmp_path_factory):
    return convert_llava(original, tmp_path_factory.mktemp("base") / "llava", image_size=28)


@pytest.fixture(scope="module", params=["plain", "adapters", "bfloat16"])
def model(request, base):
    model = load_llava(str(base), precision="bfloat16" if request.param == "bfloat16" else "float32")
    if request.param == "plain":
        return model.eval()
    adapted = add_lora(model, r=4)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)  # zeros would make the adapters do nothing
    return adapted.eval()


def padded(model):
    """Pixels, and texts of two lengths, filled up on the left."""
    pixels, ids, _ = example(model.config.image_token_id)
    ids = torch.cat([ids[:, :-1], torch.full((2, 1), 45)], 1)
    ids[1] = torch.cat([torch.full((2,), model.config.text_config.pad_token_id), ids[1, :-2]])
    return pixels, {"input_ids": ids, "attention_mask": (ids != model.config.text_config.pad_token_id).long()}


def test_image_tokens_are_those_of_the_selected_layer(base):
    tower, _, _ = parts()
    pixels, _, _ = example(0)
    outputs = []  # of the last layer but one, without the class token
    tower.encoder.layers[-2].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        tower(pixels)
    expected = outputs[0][:, 1:]
    model = load_llava(str(base), precision="float32")
    tokens = image_tokens(model, pixels)
    assert tokens.shape == (2, 4, 32) and not tokens.requires_grad
    torch.testing.assert_close(tokens, expected)
    assert image_tokens(load_llava(str(base)), pixels).dtype == torch.bfloat16


def test_forward_with_cached_tokens_equals_pixels(model):
    pixels, texts = padded(model)
    tokens = image_tokens(model, pixels)
    with torch.no_grad():
        expected = model(pixel_values=pixels.to(model.dtype), **texts).logits
        actual = model(mm_encoder_outputs=mm_outputs(model, tokens), **texts).logits
        other = model(mm_encoder_outputs=mm_outputs(model, tokens.flip(0)), **texts).logits
    assert torch.equal(actual, expected) and not torch.allclose(other, expected, atol=1e-2)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"do_sample": True, "num_return_sequences": 4},
    ],
    ids=["greedy", "beams", "all beams", "samples"],
)
def test_generate_with_cached_tokens_equals_pixels(model, how):
    pixels, texts = padded(model)
    tokens = image_tokens(model, pixels)
    answers = []
    for images in ({"pixel_values": pixels.to(model.dtype)}, {"mm_encoder_outputs": mm_outputs(model, tokens)}):
        torch.manual_seed(0)
        answers.append(model.generate(**images, **texts, max_new_tokens=12, min_new_tokens=12, **how))
    assert torch.equal(*answers)
    assert len(answers[0]) == 2 * how.get("num_return_sequences", 1)


def test_left_padding_changes_no_answer(base):
    model = load_llava(str(base), precision="float32").eval()
    pixels, texts = padded(model)
    tokens = image_tokens(model, pixels)
    length = {"max_new_tokens": 8, "min_new_tokens": 8}
    together = model.generate(mm_encoder_outputs=mm_outputs(model, tokens), **texts, **length)
    for i, skipped in enumerate((0, 2)):
        alone = {name: value[i : i + 1, skipped:] for name, value in texts.items()}
        answer = model.generate(mm_encoder_outputs=mm_outputs(model, tokens[i : i + 1]), **alone, **length)
        assert torch.equal(answer[0, -8:], together[i, -8:])


def test_what_stands_for_no_text_is_never_written(base):
    model = load_llava(str(base), precision="float32").eval()
    image, pad, vocab_size = (
        model.config.image_token_id, model.config.text_config.pad_token_id, model.config.text_config.vocab_size,
    )  # fmt: skip
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, pad)
    assert model.generation_config.suppress_tokens == [pad, *range(image, vocab_size)]
    with torch.no_grad():
        model.lm_head.weight[[pad, *range(image, vocab_size)]] *= 100
    pixels, texts = padded(model)
    texts = {name: value[:1] for name, value in texts.items()}
    with torch.no_grad():
        best = model(pixel_values=pixels[:1], **texts).logits[0, -1].argmax()
    assert best == pad or best >= image
    for how in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 8}):
        new = model.generate(pixel_values=pixels[:1], **texts, max_new_tokens=10, min_new_tokens=10, **how)[:, 9:]
        assert new.max() < image and (new != pad).all()


def test_only_the_language_model_is_quantised(base):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for quantization, kind in (("4bit", bitsandbytes.nn.Linear4bit), ("8bit", bitsandbytes.nn.Linear8bitLt)):
        model = load_llava(str(base), quantization=quantization)
        linear = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        quantised = {name for name, of in linear.items() if of is kind}
        assert quantised == {name for name in linear if name.startswith("model.language_model.")}
        assert all(linear[name] is nn.Linear for name in linear.keys() - quantised)
        whole = load_llava(str(base)).state_dict()
        for name, tensor in model.model.multi_modal_projector.state_dict().items():
            assert torch.equal(tensor, whole[f"model.multi_modal_projector.{name}"])


def test_short_names_would_quantise_the_projector(base, monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("common.llm.llava._WHOLE", ("multi_modal_projector", "vision_tower", "lm_head"))
    model = load_llava(str(base), quantization="4bit")
    assert isinstance(model.model.multi_modal_projector.linear_1, bitsandbytes.nn.Linear4bit)


def test_evaluation_leaves_quantised_weights_as_they_are(base):
    pytest.importorskip("bitsandbytes")
    model = load_llava(str(base), quantization="4bit").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels, texts = padded(model)
    with torch.no_grad():
        model(pixel_values=pixels.to(model.dtype), **texts)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_layers_over_the_devices_that_are_there(base):
    pixels, texts = padded(load_llava(str(base)))
    with torch.no_grad():
        answers = [
            load_llava(str(base), precision="float32", device_map=how)(pixel_values=pixels, **texts).logits
            for how in (None, "auto")
        ]
    torch.testing.assert_close(*[answer.cpu() for answer in answers])


def test_untrained_sizes(base):
    config = json.loads((base / "config.json").read_text())
    model = load_llava(config=config, precision="float32")
    assert model.dtype == torch.float32 and model.config.vision_feature_layer == -2
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in load_llava(str(base)).state_dict().items()
    }


def test_what_is_refused(original, base, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="layout of LLaVA's own code.*convert_llava has written"):
        load_llava(str(original))
    renamed = shutil.copytree(original, tmp_path / "renamed")
    (renamed / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(ValueError, match="layout of LLaVA's own code"):
        load_llava(str(renamed))
    load_language_model(config=SIZES).save_pretrained(tmp_path / "bart")
    with pytest.raises(ValueError, match="bart has model_type bart, expected llava"):
        load_llava(str(tmp_path / "bart"))
    with pytest.raises(FileNotFoundError, match="nothing cannot be read, expected a folder with config.json"):
        load_llava(str(tmp_path / "nothing"))
    blind = shutil.copytree(base, tmp_path / "blind")
    for file in blind.glob("*.safetensors"):
        tensors = {name: tensor for name, tensor in load_file(file).items() if "vision_tower" not in name}
        save_file(tensors, file, metadata={"format": "pt"})
    (blind / "model.safetensors.index.json").unlink()
    index = {"metadata": {}, "weight_map": {n: f.name for f in blind.glob("*.safetensors") for n in load_file(f)}}
    (blind / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"has no weights for 55 of 80 tensors .*model.vision_tower"):
        load_llava(str(blind))
    with pytest.raises(ValueError, match="got both or none of model and config"):
        load_llava()
    with pytest.raises(ValueError, match="config has model_type None, expected llava"):
        load_llava(config={})
    with pytest.raises(ValueError, match="precision is 'float16', expected one of bfloat16, float32"):
        load_llava(str(base), precision="float16")
    with pytest.raises(ValueError, match="quantization is '2bit', expected 4bit, 8bit or None"):
        load_llava(str(base), quantization="2bit")
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match="4bit needs bitsandbytes, expected it to be installed: pip install"):
            load_llava(str(base), quantization="4bit")
    with pytest.raises(ValueError, match="'4bit' of an untrained model, expected weights"):
        load_llava(config={"model_type": "llava"}, quantization="4bit")
