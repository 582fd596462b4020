"""`pack`: a self-contained copy of a bundle that plain MONAI runs where `common` is not installed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.apps.packaging.vendored import (
    installed_version,
    modules_of_config,
    packages_of,
    vendored_files,
    with_vendored_targets,
)
from common.apps.run.bundle import Bundle, has_id, merged_config, missing, open_bundle
from common.apps.run.remote_paths import takes_urls
from common.io.bad_input import BadInput
from common.io.output_folder import content_hash, named_if_disk_fails
from common.networks.definitions import read_definitions
from common.networks.weights import read_checkpoint
from common.version import __version__

if TYPE_CHECKING:  # monai takes seconds to import, and the help of the command line needs none of it
    from monai.bundle import ConfigParser

__all__ = ["pack_bundle", "write_zip"]

ALWAYS_NEEDED = ("fire",)  # by the command line of monai.bundle itself
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same content is the same file
_BESIDE = (".json", ".safetensors", "tokenizer.model")  # tokenizers, scalings, the base that an adapter belongs to
_BASE = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


@takes_urls(reads=["ckpt_dir"], writes=["out"])
def pack_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    out: str | os.PathLike[str],
    ckpt_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write a self-contained copy of a bundle, and its zip, for programs that know MONAI but not this library.

    The part of the library that the configurations, and Python of the bundle's own in scripts/, use is put into the
    copy as scripts/common, and they name it so; the sizes of the networks in the checkpoint (network.json) stand beside
    it and are merged into the configurations that hold them; versions and the checksum of the weights are in the
    metadata. Packed twice, the zip has the same bytes.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        out: DIR created; gets BUNDLE/, in place of a copy that was packed there before, and BUNDLE_v<version>.zip
        ckpt_dir: DIR folder with model.pt, and model_final.pt if there is one (default: models of the bundle); a
            bundle with large_files.yml needs none

    Returns:
        `folder`, `zip`, `sha256` of the zip, `files` (their number) and `modules` (files of `common`).

    Raises:
        BadInput: if there are no weights, the metadata lacks the changelog entry of its version, or something else
            stands where the copy goes.

    Examples:
        python -m common pack bundles/ct_slice_interpolation --out packed --ckpt_dir runs/demo/models
    """
    bundle, out = open_bundle(bundle), Path(out)
    weights = _weights(bundle, None if ckpt_dir is None else Path(ckpt_dir))
    bundle.stay_out(out)
    configs = _with_activation(_configs(bundle, weights))
    own = {path.relative_to(bundle.root).as_posix(): path for path in (bundle.root / "scripts").rglob("*.py")}
    code = vendored_files({file for config in configs.values() for file in modules_of_config(config)}, own)
    metadata = _metadata(bundle, code, weights)
    target = out / bundle.name
    if target.exists() and not (target / "scripts" / "common").is_dir():
        raise BadInput(target, "stands where the copy goes and is no packed bundle, expected another --out")

    out.mkdir(parents=True, exist_ok=True)
    with named_if_disk_fails(target), tempfile.TemporaryDirectory(dir=out, prefix=f".{bundle.name}.") as scratch:
        copy = Path(scratch) / bundle.name
        _copy_documents(bundle, copy)
        for path, content in code.items():
            _write(copy / path, content)
        for name, config in configs.items():
            _write(copy / "configs" / name, _json(with_vendored_targets(config)))
        _write(copy / "configs" / "metadata.json", _json(metadata))
        for name, source in weights.items():
            (copy / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy / name)
        sizes = _sizes(weights)
        if sizes:
            _write(copy / "models" / "network.json", _json(with_vendored_targets(sizes)))
        archive = Path(scratch) / f"{bundle.name}_v{metadata['version']}.zip"
        write_zip(copy, archive)
        if target.exists():
            shutil.rmtree(target)
        os.replace(copy, target)
        os.replace(archive, out / archive.name)
    written = [path for path in target.rglob("*") if path.is_file()]
    return {
        "folder": str(target),
        "zip": str(out / archive.name),
        "sha256": content_hash(out / archive.name),
        "files": len(written),
        "modules": [path.removeprefix("scripts/common/") for path in code if path.endswith(".py")],
    }


def write_zip(folder: Path, archive: Path) -> None:
    """Zip a folder, names below its parent; the same content gives the same bytes."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), _ZIP_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, file.open(entry, "w", force_zip64=path.stat().st_size > 2**31) as packed:
                shutil.copyfileobj(source, packed)


def _weights(bundle: Bundle, ckpt_dir: Path | None) -> dict[str, Path]:
    """Files of weights: path in the packed bundle to where they lie."""
    remote = bundle.root / "large_files.yml"
    if ckpt_dir is None and remote.is_file():
        return {"large_files.yml": remote}
    folder = bundle.root / "models" if ckpt_dir is None else ckpt_dir
    if not (folder / "model.pt").is_file():
        raise missing(
            folder / "model.pt",
            f"weights to pack; `python -m common run {bundle.root} --scale demo` trains some, which --ckpt_dir names",
        )
    # Beside the weights to use, those at the end of training, which MONAI's federated client may be asked for.
    models = [path for path in (folder / "model.pt", folder / "model_final.pt") if path.is_file()]
    for path in models:
        try:
            read_checkpoint(path)
        except ValueError as error:
            raise BadInput(path, str(error).removeprefix(f"{path} ")) from error
    # What belongs to the weights and is none: a tokenizer, the scaling of variables. `_sizes` reads network.json.
    beside = [path for path in sorted(folder.rglob("*")) if path.name.endswith(_BESIDE) and path.name != "network.json"]
    others = [path.parent for path in folder.rglob("model.pt") if path.parent != folder]
    beside = [path for path in beside if not path.with_suffix(".pt").is_file() and not {*path.parents} & {*others}]
    return {f"models/{path.relative_to(folder).as_posix()}": path for path in (*models, *beside)}


def _sizes(weights: Mapping[str, Path]) -> dict[str, Any]:
    """What the weights' `network.json` holds: ids and values of the networks' sizes; nothing without it."""
    model = weights.get("models/model.pt")
    path = None if model is None else model.with_name("network.json")
    return read_definitions(path) if path is not None and path.is_file() else {}


def _configs(bundle: Bundle, weights: Mapping[str, Path]) -> dict[str, Any]:
    """The configuration files but metadata.json, with the sizes of the networks that the weights belong to."""
    files = sorted(path for path in bundle.configs.glob("*.json") if path.name != "metadata.json")
    configs = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
    overlay = _sizes(weights)
    names = ("train.json", "inference.json") if overlay else ()
    parsers = {name: merged_config([bundle.config_file(name)]) for name in names}
    for key in overlay:
        if not any(has_id(parser.config, key) for parser in parsers.values()):
            where = weights["models/model.pt"].with_name("network.json")
            raise BadInput(where, f"sets {key}, expected ids of train.json or inference.json")
    for name, parser in parsers.items():
        own = {key: value for key, value in overlay.items() if key.split("#")[0] in parser.config}
        parser.update({key: value for key, value in own.items() if not isinstance(value, dict)})
        for key, value in own.items():
            *parents, last = key.split("#")
            section = configs[name]
            for parent in parents:
                section = section[parent]
            section[last] = _with_references(parser, key, value)
    return configs


def _with_references(parser: ConfigParser, key: str, value: Any) -> Any:
    """A section for a configuration, in which a reference stays that means the value: an overlay may change it."""
    if not isinstance(value, dict):
        return value
    now = parser[key] if key in parser else None
    same = {
        name
        for name, text in (now.items() if isinstance(now, dict) else ())
        if name in value and isinstance(text, str) and text.startswith(("@", "$")) and not name.startswith("_")
        if parser.get_parsed_content(f"{key}#{name}") == value[name]
    }
    return {name: now[name] if name in same else new for name, new in value.items()}


def _with_activation(configs: dict[str, Any]) -> dict[str, Any]:
    """Configurations that find their own modules where another packed bundle has run before."""
    for name, config in configs.items():
        if name in ("train.json", "inference.json"):
            config["activate"] = {"_target_": "common.apps.packaging.active_bundle.activate", "_mode_": "callable"}
        if isinstance(config.get("run"), list) and name != "recipe.json":
            config["run"] = ["$@activate()", *config["run"]]
    return configs


def _metadata(bundle: Bundle, code: Mapping[str, bytes], weights: Mapping[str, Path]) -> dict[str, Any]:
    path = bundle.config_file("metadata.json")
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if metadata.get("version") not in metadata.get("changelog", {}):
        raise BadInput(path, f"has version {metadata.get('version')!r}, expected one that its changelog explains")
    # What the authors name is needed too: MONAI and torch import some packages only when a feature asks for them.
    named = (*ALWAYS_NEEDED, *metadata.get("required_packages_version", {}))
    packages = packages_of(code) | {name: installed_version(name) for name in named}
    metadata |= {key: packages.pop(name, None) or installed_version(name) for name, key in _BASE.items()}
    metadata["required_packages_version"] = dict(sorted(packages.items()))
    metadata["library_version"] = __version__
    metadata["checksum"] = {name: f"sha256:{content_hash(source)}" for name, source in weights.items()}
    return metadata


def _copy_documents(bundle: Bundle, copy: Path) -> None:
    """LICENSE, docs/ and logging.conf as they are."""
    for path in [bundle.root / "LICENSE", bundle.configs / "logging.conf", *sorted((bundle.root / "docs").rglob("*"))]:
        if path.is_file():
            place = copy / path.relative_to(bundle.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=4, ensure_ascii=False) + "\n").encode()
