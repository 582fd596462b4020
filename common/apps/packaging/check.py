"""`check`: is a bundle complete, and safe to run? Nothing in it is executed to find out."""

from __future__ import annotations

import ast
import configparser
import io
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml

from common.apps.packaging.check_code import Finding, check_configs
from common.apps.packaging.vendored import LIBRARY, imported_files, modules_of_config, texts, vendored_files
from common.apps.run.bundle import open_bundle
from common.io.bad_input import BadInput

__all__ = ["check_bundle", "refuse_unsafe"]

REQUIRED = (
    "LICENSE", "configs/metadata.json", "configs/inference.json", "configs/train.json", "docs/README.md",
    "docs/data_license.txt",
)  # fmt: skip
METADATA = {
    "schema": str, "version": str, "monai_version": str, "pytorch_version": str, "numpy_version": str,
    "required_packages_version": dict, "task": str, "description": str, "authors": str, "copyright": str,
    "network_data_format": dict, "changelog": dict,
}  # fmt: skip
"""What the schema of MONAI (meta_schema_20240725) requires, and the changelog that the Model Zoo asks for."""

_TENSOR_KEYS = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data",
                "channel_def")  # fmt: skip
_LOG_HANDLERS = ("StreamHandler", "logging.StreamHandler", "NullHandler", "logging.NullHandler")
_INCOMPLETE = ("layout", "metadata", "id", "path", "json")  # rules about what a bundle lacks, not what it would run
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin")
_CODE = (".so", ".pyd", ".pyc", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ts", ".pkl", ".pickle", ".joblib", ".pyo",
         ".whl", ".egg", ".jar", ".pth.tar", ".dill")  # fmt: skip
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|~|//|\\\\")


Files = dict[str, Path | zipfile.Path]
"""Path below the bundle -> where the file lies; read, never written."""


def check_bundle(bundle: str | os.PathLike[str], allow: Sequence[str] = (), weights: bool = True) -> list[Finding]:
    """Look for whatever would keep a bundle from being used, or make it dangerous to use.

    Args:
        bundle: folder of a bundle or a packed one, or a zip of it.
        allow: further modules that targets and imports may name; "scripts" accepts Python of the bundle's own.
        weights: whether the weights are looked at, which takes as long as reading them.

    Returns:
        Findings; none means the bundle is fine.

    Raises:
        BadInput: if it is neither a bundle folder nor a zip.
    """
    files, findings = _open(Path(bundle))
    zipped = any(isinstance(place, zipfile.Path) for place in files.values())
    findings += _check_layout(files, zipped or any(name.startswith("scripts/common/") for name in files))
    configs: dict[str, Any] = {}
    for name in sorted(files):
        if name.startswith("configs/") and name.endswith(".json") or name == "models/network.json":
            findings += _read_config(files, name, configs)
    complete = all(name in configs for name in files if re.fullmatch(r"configs/[^/]*\.json", name))
    metadata = configs.pop("configs/metadata.json", None)
    if metadata is not None:
        findings += _check_metadata(metadata)
    # Metadata are part of the parsed configuration, where an id may refer to them.
    findings += check_configs(configs | {"configs/metadata.json": metadata or {}}, allow)
    for name, config in configs.items():
        findings += _check_paths(name, config)
    findings += _check_properties(configs)
    if complete:  # else nobody knows what the bundle needs
        findings += _check_python(files, configs, "scripts" in allow)
    for name in sorted(files):
        if weights or not name.startswith("models/"):
            findings += _check_file(files, name)
    return findings


def refuse_unsafe(bundle: str | os.PathLike[str], judged: Sequence[str] = ("*",)) -> None:
    """Refuse a bundle that would run what nobody has reviewed, before anything in it is executed.

    Weights of the bundles that lie beside this library are left out, as they are this user's own.

    Args:
        bundle: folder or name.
        judged: names of the configuration files that count, "*" for all; Python and weights always do.

    Raises:
        BadInput: naming the first finding of `check_bundle` that is more than a part that is missing.
    """
    root = open_bundle(bundle).root
    ours = root.resolve().parent == (LIBRARY.parent / "bundles").resolve()
    names = {f"configs/{name}.json" for name in (*judged, "metadata")}
    found = [
        finding
        for finding in check_bundle(root, weights=not ours)
        if finding.rule not in _INCOMPLETE
        and ("*" in judged or finding.file in names or not re.fullmatch(r"configs/.*\.json", finding.file))
    ]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        what = f"would run what was not reviewed ({found[0]}{more})"
        raise BadInput(root, f"{what}; see `python -m common check {root}`, or --trust it")


# ---- files ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> tuple[Files, list[Finding]]:
    """The files of a bundle folder or zip, and what is wrong with them as such."""
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_zip(path)
    if path.is_file():
        raise BadInput(path, "is no zip, expected a bundle folder or the zip of one")
    root = open_bundle(path).root
    files: Files = {}
    problems = []
    for place in sorted(root.rglob("*")):
        name = place.relative_to(root).as_posix()
        if place.is_symlink() and not place.resolve().is_relative_to(root.resolve()):
            problems.append(Finding(name, "path", f"is a link out of the bundle, to {os.readlink(place)}"))
        elif place.is_file() and not _is_output(name):
            files[name] = place
    return files, problems


def _is_output(name: str) -> bool:
    """What runs and tools leave in a bundle folder and nobody ships."""
    parts = PurePosixPath(name).parts
    return parts[0] in ("runs", "eval", "data") or "__pycache__" in parts or parts[-1] == ".gitkeep"


def _open_zip(path: Path) -> tuple[Files, list[Finding]]:
    files: Files = {}
    problems = []
    root = zipfile.Path(path)
    entries = [entry for entry in root.root.infolist() if not entry.is_dir()]
    names = [entry.filename for entry in entries]
    tops = [name.removesuffix("configs/metadata.json") for name in names if name.endswith("configs/metadata.json")]
    prefix = min(tops, key=len, default="")
    for entry, name in zip(entries, names, strict=True):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
            problems.append(Finding(name, "path", "is an entry outside the zip's own folder"))
        elif stat.S_ISLNK(entry.external_attr >> 16):
            problems.append(Finding(name, "path", "is a link, expected files only"))
        elif not name.startswith(prefix):
            problems.append(Finding(name, "path", f"is an entry outside {prefix}"))
        elif name[len(prefix) :] in files:
            problems.append(Finding(name, "path", "stands twice in the zip"))
        else:
            files[name[len(prefix) :]] = root / name
    if (damaged := root.root.testzip()) is not None:
        raise BadInput(path, f"is damaged: entry {damaged} does not have its checksum")
    return files, problems


def _check_layout(files: Files, packed: bool) -> Iterator[Finding]:
    for name in REQUIRED:
        if name not in files:
            yield Finding(name, "layout", "is missing")
    if packed and not {"models/model.pt", "large_files.yml"} & {*files}:
        yield Finding("models/model.pt", "layout", "is missing, and there is no large_files.yml that names it")


def _read_config(files: Files, name: str, configs: dict[str, Any]) -> Iterator[Finding]:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(pairs)

    try:
        content = json.loads(files[name].read_bytes().decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        yield Finding(name, "json", f"is not JSON ({error})")
        return
    if not isinstance(content, dict):
        yield Finding(name, "json", f"holds a {type(content).__name__}, expected an object")
        return
    for key in repeated:
        yield Finding(name, "json", f"has the key {key!r} twice")
    configs[name] = content


# ---- metadata and standard ids -------------------------------------------------------------------------------------


def _check_metadata(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    def wrong(what: str) -> Finding:
        return Finding("configs/metadata.json", "metadata", what)

    for key, kind in METADATA.items():
        if not isinstance(metadata.get(key), kind):
            yield wrong(f"has {key} {metadata.get(key)!r:.60}, expected a {kind.__name__}")
    if isinstance(metadata.get("changelog"), dict) and metadata.get("version") not in metadata["changelog"]:
        yield wrong(f"has version {metadata.get('version')!r}, which its changelog does not explain")
    packages = metadata.get("required_packages_version")
    for name, value in packages.items() if isinstance(packages, dict) else ():
        if not isinstance(value, str) or not re.fullmatch(r"[\w.+!-]+", value):
            yield wrong(f"requires {name} {value!r}, expected one exact version")
    formats = metadata.get("network_data_format")
    for side, first in (("inputs", "image"), ("outputs", "pred")):
        tensors = formats.get(side) if isinstance(formats, dict) else None
        if not isinstance(tensors, dict) or first not in tensors:
            yield wrong(f"has no {side} {first!r} in network_data_format")
            continue
        for name, tensor in tensors.items():
            if isinstance(tensor, str):
                continue
            for key in [key for key in _TENSOR_KEYS if not isinstance(tensor, dict) or key not in tensor]:
                yield wrong(f"lacks {key} of {side[:-1]} {name!r}")
            shape = tensor.get("spatial_shape", []) if isinstance(tensor, dict) else []
            if not all(isinstance(n, int) or re.fullmatch(r"[*]|[\d*np+ -]+", str(n)) for n in shape):
                yield wrong(f"has spatial_shape {shape} of {side[:-1]} {name!r}, expected numbers, '*' or like '16*n'")


def _check_properties(configs: Mapping[str, Any]) -> Iterator[Finding]:
    """MONAI's own tables: required ids exist, optional parts stand at their id and are referenced from there."""
    from monai.bundle import ConfigParser
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundleProperty, BundlePropertyConfig

    for name, table in (("configs/train.json", TrainProperties), ("configs/inference.json", InferProperties)):
        if name not in configs:
            continue
        config = ConfigParser(configs[name])  # nothing of it is resolved
        handlers = config.get("train#handlers", [])
        sections = [item for item in handlers if isinstance(item, dict)] if isinstance(handlers, list) else []
        validation = next((item for item in sections if item.get("_target_") == "ValidationHandler"), {})
        for key, entry in table.items():
            place, reference = entry[BundlePropertyConfig.ID], entry.get(BundlePropertyConfig.REF_ID)
            plain = place.replace("::", "#")
            missing = config.get(place, _MISSING) is _MISSING
            if missing and entry[BundleProperty.REQUIRED]:
                yield Finding(name, "id", f"lacks {plain} ({key})")
            if missing or reference is None:
                continue
            where = validation if key in ("evaluator", "val_interval") else config
            referring = where.get(reference, None)
            fine = (None, f"@{place}", f"@{plain}")
            if referring not in fine and not (isinstance(referring, str) and referring.startswith("$")):
                yield Finding(name, "id", f"does not refer to {plain} at {reference.replace('::', '#')}")
        if sections != handlers:
            yield Finding(name, "id", "has train#handlers that are no sections with a _target_, as MONAI expects them")


_MISSING = object()


# ---- paths, Python, weights, logging ------------------------------------------------------------------------------


def _check_paths(name: str, config: Any) -> Iterator[Finding]:
    """No text may be an absolute path or lead out of the bundle."""
    for place, value in texts(config):
        if value.startswith("$"):
            for text in _leading_texts(value):
                if _leaves(text):
                    yield Finding(name, "path", f"{place} holds the path {text!r}, expected one below @bundle_root")
        elif _leaves(value.removeprefix("%")):
            yield Finding(name, "path", f"{place} is {value!r}, expected a path below @bundle_root")


def _leaves(text: str) -> bool:
    absolute = text.startswith("/") or _DRIVE.match(text) is not None or re.match(r"(?i)(file|ftp|https?):", text)
    return bool(absolute) or ".." in re.split(r"[\\/]", text)


def _leading_texts(expression: str) -> Iterator[str]:
    """Texts in an expression, those that follow a + (`@bundle_root + '/data'`) without their leading slash."""
    try:
        tree = ast.parse(re.sub(r"@[\w#:]*", "_", expression[1:].strip()), mode="eval")
    except (SyntaxError, ValueError):
        return
    following = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            following.add(id(node.right))
        elif isinstance(node, ast.JoinedStr):
            following |= {id(part) for part in node.values[1:]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.lstrip("/") if id(node) in following else node.value


def _check_python(files: Files, configs: Mapping[str, Any], own_scripts: bool) -> Iterator[Finding]:
    modules = {file for config in configs.values() for file in modules_of_config(config)}
    if own_scripts:
        own = [n for n in files if re.match(r"scripts/(?!common/).*\.py$", n) and n != "scripts/__init__.py"]
        modules |= {file for name in own for file in imported_files(files[name].read_bytes())}
    expected = vendored_files(modules)
    names_scripts = any("scripts.common" in json.dumps(config) for config in configs.values())
    for name in sorted(files):
        vendored = name.startswith("scripts/common/") or (name == "scripts/__init__.py" and not own_scripts)
        if vendored and name not in expected:
            yield Finding(name, "code", "is not part of what this version would pack")
        elif vendored and files[name].read_bytes() != expected[name]:
            yield Finding(name, "code", "differs from what this version would pack")
        elif not vendored and name.endswith(".py") and not (own_scripts and name.startswith("scripts/")):
            yield Finding(name, "code", "is code that nobody has reviewed (--allow scripts accepts that in scripts/)")
    for name in sorted(expected) if names_scripts else ():
        if name not in files:
            yield Finding(name, "code", "is missing, and the configuration needs it")


def _check_file(files: Files, name: str) -> Iterator[Finding]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _CODE:
        yield Finding(name, "code", f"is a {suffix} file, which can hold code")
    elif suffix in _WEIGHTS:
        yield from _check_weights(files, name)
    elif suffix == ".npy" or suffix == ".npz":
        yield Finding(name, "weights", "can hold pickled objects, expected weights as .pt or .safetensors")
    elif name == "configs/logging.conf":
        yield from _check_logging(files[name].read_bytes().decode(errors="replace"))
    elif name == "large_files.yml":
        yield from _check_large_files(files[name].read_bytes())
    elif name.startswith("configs/") and suffix in (".yml", ".yaml"):
        yield Finding(name, "json", "is YAML, expected JSON, which monai.bundle.load reads")


def _check_weights(files: Files, name: str) -> Iterator[Finding]:
    place = files[name]
    source = place if isinstance(place, Path) else io.BytesIO(place.read_bytes())
    try:
        content = torch.load(source, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Finding(name, "weights", f"does not load as weights without code ({reason})")
        return
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        yield Finding(name, "weights", "is not a plain state dict of tensors")


def _check_logging(text: str) -> Iterator[Finding]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        yield Finding("configs/logging.conf", "logging", f"cannot be read ({str(error).splitlines()[0]})")
        return
    for section in parser.sections():
        options = dict(parser[section])
        if section.startswith("handler_") and options.get("class") not in _LOG_HANDLERS:
            what = f"{section} has class {options.get('class')!r}, expected one of {', '.join(_LOG_HANDLERS)}"
            yield Finding("configs/logging.conf", "logging", what)
        if section.startswith("formatter_") and options.get("class", "logging.Formatter") != "logging.Formatter":
            yield Finding("configs/logging.conf", "logging", f"{section} has class {options['class']!r}")
        for key in ("args", "kwargs"):
            if not _is_literal(re.sub(r"\bsys\.std(?:out|err)\b", "None", options.get(key, "()"))):
                what = f"{section} has {key} {options[key]!r}, expected literals, sys.stdout or sys.stderr"
                yield Finding("configs/logging.conf", "logging", what)


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _check_large_files(content: bytes) -> Iterator[Finding]:
    def wrong(what: str) -> Finding:
        return Finding("large_files.yml", "weights", what)

    try:
        listed = yaml.safe_load(content)["large_files"]
        entries = [dict(entry) for entry in listed]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        yield wrong(f"cannot be read ({str(error).splitlines()[0]}), expected a list large_files")
        return
    for entry in entries:
        path = str(entry.get("path", ""))
        if not path or _leaves(path):
            yield wrong(f"has the path {path!r}, expected one below the bundle")
        if not str(entry.get("url", "")).startswith("https://"):
            yield wrong(f"has the url {entry.get('url')!r} for {path}, expected https")
        if entry.get("hash_type") not in ("sha256", "sha512") or not entry.get("hash_val"):
            yield wrong(f"has no sha256 of {path} (hash_val and hash_type)")
