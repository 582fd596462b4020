"""The part of `common` that a bundle uses, and what it looks like as `scripts/common` inside a packed bundle."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "defines",
    "imported_files",
    "installed_version",
    "modules_of_config",
    "packages_of",
    "texts",
    "vendored_files",
    "with_vendored_targets",
]

LIBRARY = Path(__file__).parents[2]
ROOMS = (
    "data",
    "engines",
    "evaluation",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "optimizers",
    "text",
    "transforms",
    "visualize",
    "llm",
)
"""Folders of `common` that a configuration may name; not its commands and `io`, which read and write anywhere."""

ACTIVE_BUNDLE = "apps/packaging/active_bundle.py"
NAME, PACKED = "common", "scripts.common"
_MENTION = re.compile(r"(?<![\w.])(?:scripts\.)?common((?:\.\w+)+)")
_IMPORT = re.compile(r"^(\s*(?:from|import)\s+)common(?=[.\s])", re.MULTILINE)
_SCRIPTS = '"""The part of the library that this bundle uses; written by `python -m common pack`."""\n'


def texts(config: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration with its id (`train#trainer#max_epochs`), which begins with `place`."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        inner = f"{place}#{key}" if place else str(key)
        if isinstance(value, str):
            yield inner, value
        else:
            yield from texts(value, inner)


def modules_of_config(config: Any) -> set[str]:
    """Files of `common`, such as `data/manifest.py`, that targets and imports of a configuration name.

    Only those of `ROOMS`: the library's commands are no part of a bundle.

    Args:
        config: content of a configuration file, of a bundle or of a packed one.
    """
    found = set()
    for _, text in texts(config):
        plain = re.sub(r"from\s+((?:scripts\.)?common[\w.]*)\s+import\s+(\w+)", r"\1.\2", text)
        for match in _MENTION.finditer(plain):
            file = _file_of(match[1].split(".")[1:])
            if file is not None and (file == ACTIVE_BUNDLE or file.split("/")[0] in ROOMS):
                found.add(file)
    return found


def defines(name: str) -> bool:
    """Whether `common.room.module.thing` (or `scripts.common....`) is a class or function that the library defines.

    Judged by the source, without importing it: what a module merely imports is not its own.
    """
    parts = name.removeprefix("scripts.").split(".")[1:]
    file = _file_of(parts[:-1])
    if file is None or Path(*parts[:-1]).with_suffix(".py").as_posix() != file:
        return False
    return parts[-1] in _definitions(LIBRARY / file)


@cache
def _definitions(path: Path) -> set[str]:
    tree = ast.parse(path.read_bytes())
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def vendored_files(modules: Iterable[str], own: Mapping[str, Path] | None = None) -> dict[str, bytes]:
    """All that these modules need of `common`, as it stands under `scripts/`.

    Args:
        modules: files below `common`, see `modules_of_config`.
        own: the bundle's own Python, path below the bundle (`scripts/readers.py`) to file.

    Returns:
        path below the bundle (`scripts/common/data/manifest.py`) to content; `__init__.py` files included, and the
        data files that a module names (page templates, lexicons).
    """
    own = dict(own or {})
    needed, todo = set(), [*modules, "version.py", *(file for path in own.values() for file in _imports_of(path))]
    while todo:
        file = todo.pop()
        if file not in needed:
            needed.add(file)
            todo += _imports_of(LIBRARY / file)
    content = {"scripts/__init__.py": _SCRIPTS.encode()}
    for file in needed:
        for folder in Path(file).parents:
            init = folder / "__init__.py"
            content[f"scripts/common/{init.as_posix()}"] = _rewritten(LIBRARY / init)
        for data in _data_files_of(LIBRARY / file):
            content[f"scripts/common/{data.relative_to(LIBRARY).as_posix()}"] = data.read_bytes()
        content[f"scripts/common/{file}"] = _rewritten(LIBRARY / file)
    content |= {name: _rewritten(path) for name, path in own.items()}
    return dict(sorted(content.items()))


def with_vendored_targets(config: Any) -> Any:
    """A configuration whose targets and imports of `common` name `scripts.common`."""
    if isinstance(config, dict):
        return {key: with_vendored_targets(value) for key, value in config.items()}
    if isinstance(config, list):
        return [with_vendored_targets(value) for value in config]
    if isinstance(config, str):
        return re.sub(r"(?<![\w.])common(?=\.\w)", PACKED, config)
    return config


def packages_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Distributions that vendored Python imports, with the versions installed here.

    Args:
        files: see `vendored_files`.
    """
    by_import = importlib.metadata.packages_distributions()
    imported = {
        name
        for path, content in files.items()
        if path.endswith(".py")
        for name in _top_level_imports(ast.parse(content))
    }
    found = {}
    for name in sorted(imported - {*sys.stdlib_module_names, NAME, "scripts"}):
        for distribution in by_import.get(name, ()):
            found[distribution] = installed_version(distribution)
    return found


def installed_version(distribution: str) -> str:
    """Version of an installed distribution, without the label of a local build (`2.13.0+cpu`)."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _file_of(parts: list[str]) -> str | None:
    """The module in a dotted name below `common`, whatever follows it (a class, a function)."""
    for end in range(len(parts), 0, -1):
        file = Path(*parts[:end]).with_suffix(".py")
        if (LIBRARY / file).is_file():
            return file.as_posix()
    return None


@cache
def _imports_of(path: Path) -> list[str]:
    """Files of `common` that a module imports."""
    return imported_files(path.read_bytes())


def imported_files(source: bytes) -> list[str]:
    """Files of `common` (`data/manifest.py`) that a Python source imports, by its own name or as `scripts.common`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        module = (isinstance(node, ast.ImportFrom) and node.module) or ""
        if module.removeprefix("scripts.").split(".")[0] == NAME:
            parts = module.removeprefix("scripts.").split(".")[1:]
            files = [_file_of([*parts, alias.name]) for alias in node.names]
            found += [file for file in files if file is not None]
    return found


def _data_files_of(path: Path) -> list[Path]:
    """Files beside a module, other than Python, that its source names."""
    source = path.read_text(encoding="utf-8")
    beside = (file for file in path.parent.iterdir() if file.suffix != ".py" and file.is_file())
    return sorted(file for file in beside if f'"{file.name}"' in source)


def _top_level_imports(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@cache
def _rewritten(path: Path) -> bytes:
    """A file of `common` whose imports of `common` say `scripts.common`; an `__init__.py` that is missing is empty."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return _IMPORT.sub(rf"\g<1>{PACKED}", text).encode()
