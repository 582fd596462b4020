"""LLaVA-Med in the names of its own code (`model_type: llava_mistral`), converted once to those of Hugging Face.

Transformers does not know the original's layout: it would load such a folder as if every tensor were missing. The
vision tower is the checkpoint's own, which was trained on; CLIP's from the hub is another one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from common.io.bad_input import BadInput
from common.io.output_folder import atomic_path, write_text
from common.networks.weights import read_checkpoint

__all__ = ["IMAGE_TOKEN", "PAD_TOKEN", "base_hash", "convert_llava", "is_original_layout"]

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"

_TOWER = "model.vision_tower.vision_tower."
_PROJECTOR = "model.mm_projector."
# The first that fits counts; what is left of "model." is the language model.
_PARTS = {
    f"{_TOWER}vision_model.": "model.vision_tower.",
    _TOWER: "model.vision_tower.",
    f"{_PROJECTOR}0.": "model.multi_modal_projector.linear_1.",
    f"{_PROJECTOR}2.": "model.multi_modal_projector.linear_2.",
    "model.": "model.language_model.",
}
_COMPUTED = (".inv_freq", ".position_ids")  # tables that the layers make themselves
_EMBEDDINGS, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
_MULTIPLE = 64  # of the vocabulary: matrix products are faster so
# What the classes of Hugging Face compute; the original's code has others beside it.
_EXPECTED = {
    "model_type": "llava_mistral",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "pad",
}
_TEXT_SETTINGS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "max_position_embeddings", "rms_norm_eps", "sliding_window", "bos_token_id", "eos_token_id",
)  # fmt: skip
_BLANK = "\u2581"  # sentencepiece's sign of a blank
_PROBE = ' The  heart is\n\n   {"enlarged": 1.5} \u00df \U0001f600 '
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


def is_original_layout(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a model in the names of LLaVA's own code; False for one without weights."""
    folder = Path(folder)
    if _read_json(folder / "config.json").get("model_type") == "llava_mistral":
        return True
    for index in _INDICES:
        if (folder / index).is_file():
            return any(name.startswith(_PROJECTOR) for name in _read_json(folder / index).get("weight_map", {}))
    return any(
        name.startswith(_PROJECTOR)
        for file in _SINGLE
        if (folder / file).is_file()
        for name, _ in _shapes(folder / file)
    )


def convert_llava(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    select_layer: int = -2,
    image_size: int = 336,
    allow_download: bool = False,
) -> Path:
    """Write a model in the original's layout as one of `transformers.LlavaForConditionalGeneration`.

    One shard is in memory at a time. The vocabulary gets rows for `<image>` and, where the tokenizer has none, `<pad>`,
    and is filled up to a multiple of 64; a new row is the mean of the others. The precision stays that of the files.

    Args:
        source: folder, or hub name, with `config.json`, weights (`.safetensors` or `.bin`, in one file or in shards
            with their index) and a tokenizer (`tokenizer.json` or sentencepiece's `tokenizer.model`); only read.
        output_dir: the folder to be, whole or not there; one that an earlier conversion wrote is replaced.
        select_layer: of the vision tower, whose patch tokens the projector reads; the one the model was trained with.
        image_size: pixels along each side that the tower was trained with. Its heads are width / 64, as in all of
            CLIP's towers: no file tells their number.
        allow_download: fetch a hub model that is not in the local cache.

    Returns:
        `output_dir`.

    Raises:
        FileNotFoundError: if there is no such model.
        BadInput: if it has no vision tower, a tensor is missing, left over or of another shape, it is of another
            architecture or was trained with another layer of the tower, or its tokenizer is not its own.
    """
    folder = _local(source, allow_download)
    output = Path(output_dir)
    _check_output(folder, output)
    settings = _settings(folder, select_layer)
    files = _weight_files(folder)
    found = _tensors(folder, files)
    tokenizer = _tokenizer(folder, settings)
    config = _config(folder, settings, found, tokenizer, select_layer, image_size)
    _check_tensors(folder, found, settings["vocab_size"], config)
    rows = config.text_config.vocab_size
    with atomic_path(output) as part:
        part.mkdir()
        placed, size = {}, 0
        for number, file in enumerate(files, 1):
            shard = {
                new: _with_rows(tensor, rows) if new in (_EMBEDDINGS, _HEAD) else tensor.contiguous()
                for name, tensor in read_checkpoint(file).items()
                if (new := _renamed(name)) is not None
            }
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            save_file(shard, part / name, metadata={"format": "pt"})
            placed |= dict.fromkeys(shard, name)
            size += sum(tensor.nbytes for tensor in shard.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        write_text(part / _INDICES[0], json.dumps(index, indent=2) + "\n")
        config.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return output


def base_hash(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over a folder's `.safetensors` files, which hold names, shapes and bytes of the weights.

    Raises:
        FileNotFoundError: if it has none.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{os.fspath(folder)} has no .safetensors file, expected the weights of a model")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


# ---- what is read ----------------------------------------------------------------------------------------------------


def _local(source: str | os.PathLike[str], allow_download: bool) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        patterns = ["*.json", "*.safetensors", "tokenizer.model"]
        return Path(snapshot_download(os.fspath(source), local_files_only=not allow_download, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{os.fspath(source)} is no folder, nor in the Hugging Face cache: {reason}") from error


def _check_output(source: Path, output: Path) -> None:
    here, there = source.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise BadInput(output, f"lies within {source} or around it, expected a folder apart from what is converted")
    is_empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not is_empty and _read_json(output / "config.json").get("model_type") != "llava":
        raise BadInput(output, "holds something else than a converted model, expected a new folder")


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty if there is none.

    Raises:
        BadInput: if it holds no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput(path, f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise BadInput(path, f"holds a {type(content).__name__}, expected a JSON object")
    return content


def _settings(source: Path, select_layer: int) -> dict[str, Any]:
    """The original's `config.json`, once it says what Hugging Face's classes compute."""
    path = source / "config.json"
    settings = _read_json(path)
    for name, expected in _EXPECTED.items():
        value = settings.get(name, None if name == "model_type" else expected)
        if value != expected:
            raise BadInput(path, f"has {name} {value!r}, expected {expected!r}, as LLaVA-Med 1.5 has it")
    if settings.get("mm_vision_select_layer") != select_layer:
        layer = settings.get("mm_vision_select_layer")
        raise BadInput(path, f"has mm_vision_select_layer {layer}, expected the select_layer {select_layer}")
    missing = [name for name in (*_TEXT_SETTINGS, "vocab_size", "rope_theta") if name not in settings]
    if missing:
        raise BadInput(path, f"has no {', '.join(missing)}, expected the sizes of a Mistral")
    return settings


def _weight_files(source: Path) -> list[Path]:
    for index in _INDICES:
        if (source / index).is_file():
            files = [source / name for name in sorted(set(_read_json(source / index).get("weight_map", {}).values()))]
            break
    else:
        files = [source / name for name in _SINGLE if (source / name).is_file()][:1]
    if not files:
        raise BadInput(source, f"holds no weights, expected {' or '.join(_SINGLE)}, or shards with their index")
    for file in files:
        if not file.is_file():
            raise BadInput(file, f"does not exist, expected the shard that the index of {source} names")
    return files


def _shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a file's tensors."""
    if path.suffix != ".safetensors":
        yield from ((name, tuple(tensor.shape)) for name, tensor in read_checkpoint(path).items())
        return
    try:
        with safe_open(path, "pt") as file:
            yield from ((name, tuple(file.get_slice(name).get_shape())) for name in file.keys())
    except SafetensorError as error:
        raise BadInput(path, f"cannot be read as safetensors: {error}") from error


def _tensors(source: Path, files: list[Path]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """New name to the original's and the shape, of all files."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        for name, shape in _shapes(file):
            new = _renamed(name)
            if new in found:
                raise BadInput(file, f"holds {name}, which another shard of {source} holds as well, expected it once")
            if new is not None:
                found[new] = (name, shape)
    if not any(new.startswith("model.vision_tower.") for new in found):
        raise BadInput(source, f"has no {_TOWER}*, expected the vision tower that the model was trained with in it")
    return found


def _renamed(name: str) -> str | None:
    """Hugging Face's name of a tensor; None for one that is computed there, the same for one that nobody knows."""
    if name.endswith(_COMPUTED):
        return None
    for old, new in _PARTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


# ---- what is written -------------------------------------------------------------------------------------------------


def _tokenizer(source: Path, settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The model's tokenizer with `<image>`, `<pad>` and a text's beginning."""
    path = next((p for p in (source / "tokenizer.json", source / "tokenizer.model") if p.is_file()), None)
    if path is None:
        raise BadInput(source, "has no tokenizer, expected tokenizer.json or tokenizer.model")
    try:
        is_json = path.suffix == ".json"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source) if is_json else _from_sentencepiece(path)
    except BadInput:
        raise
    except Exception as error:  # neither library has errors of its own
        raise BadInput(path, f"cannot be read as a tokenizer ({str(error).splitlines()[0]})") from error
    known = settings["vocab_size"]
    if len(tokenizer) != known:
        raise BadInput(source, f"has a tokenizer of {len(tokenizer)} tokens, expected the model's own with {known}")
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) != settings[name]:
            raise BadInput(source, f"has a tokenizer with {name} {getattr(tokenizer, name)}, expected {settings[name]}")
    if tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True) != 1:
        raise BadInput(source, f"has a tokenizer that knows {IMAGE_TOKEN} already, expected one of texts")
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return tokenizer


def _from_sentencepiece(path: Path) -> PreTrainedTokenizerBase:
    """Sentencepiece's byte pairs as a tokenizer of Hugging Face that gives the same tokens.

    `LlamaTokenizer` of transformers 5 does not: it orders the pairs by their number where sentencepiece has scores, and
    leaves out the blank before a text that begins with one.
    """
    if importlib.util.find_spec("sentencepiece") is None:
        raise BadInput(path, "needs sentencepiece, expected it to be installed: pip install 'thorax-bundles[llm]'")
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=os.fspath(path))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    vocabulary = {name: i for i, name in enumerate(names)}
    pairs = [
        (-pieces.get_score(i), -cut, (name[:cut], name[cut:]))
        for i, name in enumerate(names)
        for cut in range(1, len(name))
        if name[:cut] in vocabulary and name[cut:] in vocabulary
    ]
    unknown = pieces.id_to_piece(pieces.unk_id())
    model = models.BPE(
        vocabulary, [pair for *_, pair in sorted(pairs)], unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    backend = Tokenizer(model)
    # A blank before every part of a text that special tokens cut, as the original reads each part alone.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=pieces.id_to_piece(pieces.bos_id()),
        eos_token=pieces.id_to_piece(pieces.eos_id()),
        unk_token=unknown,
    )
    if tokenizer(_PROBE, add_special_tokens=False)["input_ids"] != pieces.encode(_PROBE):
        raise BadInput(path, "gives other tokens as byte pairs, expected Mistral's sentencepiece model")
    return tokenizer


def _config(
    source: Path,
    settings: Mapping[str, Any],
    found: Mapping[str, tuple[str, tuple[int, ...]]],
    tokenizer: PreTrainedTokenizerBase,
    select_layer: int,
    image_size: int,
) -> LlavaConfig:
    vision = _vision_config(source, found, image_size)
    if not -vision.num_hidden_layers <= select_layer < 0:
        raise BadInput(
            source / "config.json",
            f"has mm_vision_select_layer {select_layer}, expected one from -1 to {-vision.num_hidden_layers}",
        )
    pad = tokenizer.pad_token_id
    text = MistralConfig(
        **{name: settings[name] for name in _TEXT_SETTINGS},
        head_dim=settings.get("head_dim"),
        vocab_size=-(-len(tokenizer) // _MULTIPLE) * _MULTIPLE,
        rope_parameters={"rope_type": "default", "rope_theta": float(settings["rope_theta"])},
        pad_token_id=pad,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(image_size // vision.patch_size) ** 2,
        vision_feature_layer=select_layer,
        vision_feature_select_strategy="default",
        architectures=["LlavaForConditionalGeneration"],
    )


def _vision_config(source: Path, found: Mapping[str, tuple[str, tuple[int, ...]]], image_size: int) -> CLIPVisionConfig:
    """Sizes of the tower, read from the shapes."""
    shapes = {new.removeprefix("model.vision_tower."): shape for new, (_, shape) in found.items()}
    needed = {
        "embeddings.patch_embedding.weight": 4,
        "embeddings.position_embedding.weight": 2,
        "encoder.layers.0.mlp.fc1.weight": 2,
    }
    for name, dimensions in needed.items():
        if len(shapes.get(name, ())) != dimensions:
            raise BadInput(source, f"has no {_TOWER}vision_model.{name} of {dimensions} dimensions, expected CLIP's")
    width, channels, patch, _ = shapes["embeddings.patch_embedding.weight"]
    positions = shapes["embeddings.position_embedding.weight"][0]
    if positions != (image_size // patch) ** 2 + 1:
        raise BadInput(
            source,
            f"has a vision tower of {positions} positions of {patch} pixels, expected those of {image_size} pixels",
        )
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // 64),
        num_channels=channels,
        image_size=image_size,
        patch_size=patch,
    )


def _check_tensors(
    source: Path, found: Mapping[str, tuple[str, tuple[int, ...]]], vocab_size: int, config: LlavaConfig
) -> None:
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in LlavaForConditionalGeneration(config).state_dict().items()}
    for name in (_EMBEDDINGS, _HEAD):
        expected[name] = (vocab_size, expected[name][1])
    missing = sorted(expected.keys() - found.keys())
    left = sorted(original for new, (original, _) in found.items() if new not in expected)
    other = sorted(original for new, (original, shape) in found.items() if expected.get(new, shape) != shape)
    if missing or left or other:
        raise BadInput(
            source,
            f"does not fit its config.json: {len(missing)} tensors missing, {len(left)} left over, {len(other)} of "
            f"another shape ({', '.join((missing + left + other)[:3])}), expected exactly {len(expected)}",
        )


def _with_rows(tensor: Tensor, rows: int) -> Tensor:
    """(V, H) with rows added, each the mean of the others."""
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - len(tensor), -1)])
