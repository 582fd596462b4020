import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from common.io.bad_input import BadInput
from common.llm.llava_conversion import base_hash, convert_llava, is_original_layout
from common.llm.tokens import build_tokenizer, check_tokenizer
from common.networks.weights import read_checkpoint
from tests.llm.tiny_bart import SENTENCES
from tests.llm.tiny_llava import example, parts, write_original, write_shards


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    return convert_llava(original, tmp_path_factory.mktemp("base") / "llava", image_size=28)


@pytest.fixture
def broken(original, tmp_path):
    """A copy of the original, and a function that changes its tensors."""
    folder = shutil.copytree(original, tmp_path / "broken")

    def change(function):
        tensors = {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
        for file in folder.glob("model*"):
            file.unlink()
        write_shards(folder, function(tensors))

    return folder, change


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_no_tensor_is_missing_or_left_over(original, converted):
    assert is_original_layout(original) and not is_original_layout(converted)
    model, info = LlavaForConditionalGeneration.from_pretrained(converted, output_loading_info=True)
    assert not any(info.values())
    written = {name for file in converted.glob("*.safetensors") for name in load_file(file)}
    assert written == model.state_dict().keys() and len(list(converted.glob("*.safetensors"))) == 2
    config = model.config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.text_config.sliding_window is None
    assert config.text_config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert config.image_token_id == 300 and config.image_seq_length == 4 and config.text_config.vocab_size == 320


def test_logits_are_those_of_the_parts_put_together(converted):
    tower, projector, text = parts()
    pixels, ids, _ = example(300)
    with torch.no_grad():
        images = projector(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
        words = text.get_input_embeddings()(ids.where(ids != 300, 0))
        embeddings = torch.cat([words[:, :1], images, words[:, 5:]], 1)
        expected = text(inputs_embeds=embeddings).logits
        model = LlavaForConditionalGeneration.from_pretrained(converted).eval()
        actual = model(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(actual[..., :300], expected, atol=1e-5, rtol=0)
    # New rows are the mean of the others, and so are their logits.
    torch.testing.assert_close(actual[..., 300:], expected.mean(-1, keepdim=True).expand(-1, -1, 20), atol=1e-5, rtol=0)
    rows = model.get_input_embeddings().weight
    torch.testing.assert_close(rows[300:], rows[:300].mean(0).expand(20, -1))


def test_shards_of_torch_give_the_same_weights(original, converted, tmp_path):
    other = convert_llava(write_original(tmp_path / "original", safetensors=False), tmp_path / "llava", image_size=28)
    assert not list((tmp_path / "original").glob("*.safetensors"))
    assert base_hash(other) == base_hash(converted)
    assert (other / "config.json").read_bytes() == (converted / "config.json").read_bytes()


def test_one_file_without_index(original, converted, tmp_path):
    folder = shutil.copytree(original, tmp_path / "original")
    tensors = {n: t for file in folder.glob("*.safetensors") for n, t in read_checkpoint(file).items()}
    for file in folder.glob("model*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").rename(folder / "settings.json")
    assert is_original_layout(folder)  # by its tensors alone
    (folder / "settings.json").rename(folder / "config.json")
    one = LlavaForConditionalGeneration.from_pretrained(convert_llava(folder, tmp_path / "llava", image_size=28))
    two = LlavaForConditionalGeneration.from_pretrained(converted).state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.state_dict().items())


def test_precision_stays_that_of_the_files(broken, tmp_path):
    folder, change = broken
    change(lambda tensors: {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()})
    convert_llava(folder, tmp_path / "llava", image_size=28)
    written = [t for file in (tmp_path / "llava").glob("*.safetensors") for t in load_file(file).values()]
    assert {tensor.dtype for tensor in written} == {torch.bfloat16}


def test_tokenizer_begins_a_text_and_knows_the_image(original, converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [300, 1] and tokenizer.pad_token == "<pad>"
    text = "The lungs are clear. <image>\nHeart size is normal.</s>"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 0 and ids.count(0) == 1 and ids[-1] == 2 and ids.count(300) == 1
    assert tokenizer.decode(ids) == f"<s>{text}"
    plain = AutoTokenizer.from_pretrained(original)
    assert [i for i in ids if i != 300] == [0, *plain(text.replace("<image>", ""), add_special_tokens=False).input_ids]
    check_tokenizer(tokenizer, LlavaForConditionalGeneration.from_pretrained(converted))


def test_mistrals_own_tokenizer(tmp_path, monkeypatch):
    """Its bare `tokenizer.model` adds no beginning; the original cuts a text at the image and reads each part alone."""
    sentencepiece = pytest.importorskip("sentencepiece")
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("mistral-common, which holds the tokenizer, is not installed (extra dev)")
    path = Path(package.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
    original = write_original(tmp_path / "original", sentencepiece=path)
    tokenizer = AutoTokenizer.from_pretrained(convert_llava(original, tmp_path / "llava", image_size=28))
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [32000, 32001] and tokenizer.pad_token == "<pad>"
    config = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").config.text_config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id) == (32064, 32001, 1)
    own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in (*SENTENCES, 'Größe 2 × 3 cm,\n\n  {"impression": "no 😀 finding"}', ""):
        before, after = f"[INST] {text} ", f"\n{text} [/INST] {text}"
        ids = tokenizer(f"{before}<image>{after}</s>")["input_ids"]
        assert ids == [1, *own.encode(before), 32000, *own.encode(after), 2]
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    (original / "tokenizer.model").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="tokenizer.model: cannot be read as a tokenizer"):
        convert_llava(original, tmp_path / "other", image_size=28)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="tokenizer.model: needs sentencepiece, expected it to be installed"):
        convert_llava(original, tmp_path / "other", image_size=28)


def test_padding_that_the_tokenizer_lacks_gets_a_row(broken, tmp_path):
    folder, _ = broken
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["added_tokens"] = [t for t in settings["added_tokens"] if t["content"] != "<pad>"]
    settings["model"]["vocab"]["unused"] = settings["model"]["vocab"].pop("<pad>")
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    of = json.loads((folder / "tokenizer_config.json").read_text()) | {"pad_token": "<unk>"}  # as LLaVA states it
    (folder / "tokenizer_config.json").write_text(json.dumps(of))
    tokenizer = AutoTokenizer.from_pretrained(convert_llava(folder, tmp_path / "llava", image_size=28))
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [300, 301] and tokenizer.pad_token_id == 301
    config = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava").config
    assert config.text_config.pad_token_id == 301


def test_source_is_only_read_and_an_earlier_conversion_is_replaced(original, tmp_path):
    before = files_of(original)
    for _ in range(2):
        out = convert_llava(original, tmp_path / "llava", image_size=28)
    assert files_of(original) == before and [path.name for path in tmp_path.iterdir()] == ["llava"]
    for wrong in (original, original / "inner", original.parent):
        with pytest.raises(BadInput, match="expected a folder apart from what is converted"):
            convert_llava(original, wrong, image_size=28)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(BadInput, match="holds something else than a converted model"):
        convert_llava(original, tmp_path / "mine", image_size=28)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep" and out.is_dir()


def test_nothing_is_left_of_a_conversion_that_fails(broken, tmp_path):
    folder, _ = broken
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    assert not (tmp_path / "llava").exists() and [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_hash_is_that_of_the_weights(converted, tmp_path):
    other = shutil.copytree(converted, tmp_path / "other")
    (other / "config.json").write_text("{}")
    assert len(base_hash(other)) == 64 and base_hash(other) == base_hash(converted)
    file = next(other.glob("*.safetensors"))
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert base_hash(other) != base_hash(converted)
    with pytest.raises(FileNotFoundError, match="has no .safetensors file"):
        base_hash(tmp_path)


HEAD, PROJECTOR = "lm_head.weight", "model.mm_projector.0.weight"
TENSORS = {
    "has no model.vision_tower.vision_tower.*, expected the vision tower": lambda t: {
        n: x for n, x in t.items() if "vision_tower" not in n
    },
    f"1 tensors missing, 0 left over, 0 of another shape ({HEAD})": lambda t: {n: x for n, x in t.items() if n != HEAD},
    "0 tensors missing, 1 left over, 0 of another shape (model.mm_projector.4.weight)": lambda t: (
        t | {"model.mm_projector.4.weight": torch.zeros(2)}
    ),
    f"0 tensors missing, 0 left over, 1 of another shape ({PROJECTOR})": lambda t: t | {PROJECTOR: torch.zeros(2, 2)},
    "0 left over, 1 of another shape (model.embed_tokens.weight)": lambda t: (
        t | {"model.embed_tokens.weight": torch.zeros(310, 32)}
    ),
    "has a vision tower of 10 positions of 14 pixels, expected those of 28 pixels": lambda t: (
        t | {f"{TOWER}.embeddings.position_embedding.weight": torch.zeros(10, 32)}
    ),
    "has no model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight of 4 dimensions": lambda t: {
        n: x for n, x in t.items() if "patch_embedding" not in n
    },
}
TOWER = "model.vision_tower.vision_tower.vision_model"


@pytest.mark.parametrize("reason", TENSORS)
def test_other_tensors_are_refused(broken, tmp_path, reason):
    folder, change = broken
    change(TENSORS[reason])
    with pytest.raises(BadInput) as error:
        convert_llava(folder, tmp_path / "llava", image_size=28)
    assert reason in str(error.value) and str(folder) in str(error.value)
    assert not (tmp_path / "llava").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "llava_llama"}, "has model_type 'llava_llama', expected 'llava_mistral'"),
        ({"model_type": None}, "has model_type None, expected 'llava_mistral'"),
        ({"mm_projector_type": "linear"}, "has mm_projector_type 'linear', expected 'mlp2x_gelu'"),
        ({"mm_vision_select_feature": "cls_patch"}, "has mm_vision_select_feature 'cls_patch', expected 'patch'"),
        ({"image_aspect_ratio": "square"}, "has image_aspect_ratio 'square', expected 'pad'"),
        ({"mm_vision_select_layer": -1}, "has mm_vision_select_layer -1, expected the select_layer -2"),
        ({"mm_vision_select_layer": None}, "has mm_vision_select_layer None, expected the select_layer -2"),
        ({"vocab_size": 310}, "has a tokenizer of 300 tokens, expected the model's own with 310"),
        ({"eos_token_id": 3}, "has a tokenizer with eos_token_id 2, expected 3"),
        ({"num_hidden_layers": 3}, "9 tensors missing, 0 left over"),
    ],
)
def test_another_model_is_refused(broken, tmp_path, change, reason):
    folder, _ = broken
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput) as error:
        convert_llava(folder, tmp_path / "llava", image_size=28)
    assert reason in str(error.value)


def test_what_is_no_model(broken, converted, tmp_path):
    folder, _ = broken
    path = folder / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"mm_vision_select_layer": -9}))
    with pytest.raises(BadInput, match="has mm_vision_select_layer -9, expected one from -1 to -3"):
        convert_llava(folder, tmp_path / "llava", select_layer=-9, image_size=28)
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "rope_theta"}))
    with pytest.raises(BadInput, match="has no rope_theta, expected the sizes of a Mistral"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    path.write_text("{")
    with pytest.raises(BadInput, match="is no JSON"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    path.write_text(json.dumps(whole))
    build_tokenizer(["Another one."], folder, 280)
    with pytest.raises(BadInput, match="has a tokenizer of 2.. tokens, expected the model's own with 300"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="tokenizer.json: cannot be read as a tokenizer"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="has no tokenizer, expected tokenizer.json or tokenizer.model"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(BadInput, match=f"{shard.name}: does not exist, expected the shard"):
        convert_llava(folder, tmp_path / "llava", image_size=28)
    with pytest.raises(BadInput, match="has model_type 'llava', expected 'llava_mistral'"):
        convert_llava(converted, tmp_path / "llava", image_size=28)
    with pytest.raises(FileNotFoundError, match="is no folder, nor in the Hugging Face cache"):
        convert_llava(tmp_path / "nothing", tmp_path / "llava")
    assert not is_original_layout(tmp_path / "nothing")
