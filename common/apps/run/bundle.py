"""What the verbs that take a bundle share: find it, read its configuration, check and apply `--key value` overrides.

Paths, names and texts of the user are data. Whatever MONAI would take for configuration in them goes through `literal`,
here and nowhere else: `Bundle.config` and `read_overrides` do it for the ids of `TEXTS` and those that a bundle lists
as "text_ids".
"""

from __future__ import annotations

import difflib
import inspect
import os
import pydoc
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.apps.packaging.active_bundle import activate
from common.io.bad_input import BadInput, first_error
from common.io.inputs import reading, refuse_output_folder

if TYPE_CHECKING:  # monai takes seconds to import, and the help of the command line needs none of it
    from monai.bundle import ConfigParser

    from common.apps.run.bundle_config import BundleConfig

_COMPONENT_KEYS = ("_disabled_", "_requires_", "_mode_", "_desc_")  # MONAI's own, valid in every `_target_` section
JOINED = "+"  # between the overlays of a scale
TEXTS = ("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "cache_dir", "input")
"""Ids whose value from the user is a path, whatever it looks like; a bundle's id "text_ids" lists further ones."""
_MEANS_SOMETHING = re.compile(r"^[$@%]|#|[@%]::|[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_MISSING = object()


class UsageError(ValueError):
    """The command was called wrongly: an unknown verb, key, stage or scale, or an argument that is missing."""


class UnknownKey(UsageError):
    """An override names an id that no configuration has.

    Attributes:
        key: the id as it was given.
        known: ids that exist.
        where: whose ids they are.
    """

    def __init__(self, key: str, known: Iterable[str], where: str) -> None:
        self.key, self.known, self.where = key, list(known), where
        super().__init__(f"--{key} is neither an option nor a configuration id of {where}{hint(key, self.known, '--')}")


class CommandLineText(str):
    """An override's value as it was typed, to be read once the value that it replaces is known."""


@dataclass(frozen=True)
class Bundle:
    """A bundle folder.

    Attributes:
        root: the folder, as the user named it.
    """

    root: Path

    @property
    def name(self) -> str:
        """Name of the folder, which is the bundle's name."""
        return self.root.resolve().name

    @property
    def configs(self) -> Path:
        """The folder with the bundle's configuration files."""
        return self.root / "configs"

    def find_scripts(self) -> None:
        """Make the package `scripts` that of this bundle, if it brings Python of its own, as MONAI does to run it."""
        if (self.root / "scripts").is_dir():
            path = str(self.root.resolve())
            sys.path[:] = [path, *(entry for entry in sys.path if entry != path)]
            activate()

    def stay_out(self, output_dir: str | os.PathLike[str]) -> None:
        """Refuse an output folder that is an input, or in which the bundle's own files or weights lie.

        Raises:
            BadInput: naming it.
        """
        with reading(self.configs, self.root / "models", self.root / "scripts"):
            refuse_output_folder(output_dir)

    def config_file(self, name: str) -> Path:
        """Path of `configs/NAME.json`; the ending may be left out.

        Raises:
            BadInput: if there is none.
        """
        file = self.configs / (name if name.endswith(".json") else f"{name}.json")
        if not file.is_file():
            raise missing(file, "a configuration file of the bundle")
        return file

    def config(
        self,
        *names: str,
        ckpt_dir: str | os.PathLike[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        places: Mapping[str, str] | None = None,
    ) -> BundleConfig:
        """Read configuration files into one parser, as `python -m monai.bundle run` would.

        `CKPT_DIR/network.json`, which holds the sizes of the networks in the checkpoint and nothing else, is merged
        over the files.

        Args:
            names: configuration files, or several joined by "+", later ones over earlier ones.
            ckpt_dir: folder of the checkpoint; default the bundle's `models`.
            overrides: id -> value, over everything else.
            changes: an overlay over the files, below the overrides.
            places: id -> path, which is what it says and no expression whatever it looks like.

        Returns:
            A parser whose `bundle_root` and `ckpt_dir` are set.

        Raises:
            BadInput: if a file or the checkpoint folder does not exist, a file is not JSON, or network.json holds more
                than sizes.
            UnknownKey: if an override's id is in none of the files.
        """
        files = [self.config_file(part) for name in names for part in name.split(JOINED)]
        if ckpt_dir is not None and not Path(ckpt_dir).is_dir():
            raise missing(ckpt_dir, "a folder with model.pt (--ckpt_dir)")
        asked = ckpt_dir is not None
        ckpt_dir = self.root / "models" if ckpt_dir is None else Path(ckpt_dir)
        if (ckpt_dir / "network.json").is_file():
            from common.networks.definitions import read_definitions

            read_definitions(ckpt_dir / "network.json")
            files.append(ckpt_dir / "network.json")
        parser = merged_config(files)
        self.find_scripts()
        if asked and "ckpt_dir" not in parser:
            raise UsageError(f"--ckpt_dir is nothing that {self.name} has use for (no id ckpt_dir in {files[0].name})")
        parser.update(dict(changes or {}))
        where = " + ".join(file.name for file in files)
        parser.update(read_overrides(overrides or {}, [parser.config], where))
        for key in places or ():
            read_overrides({key: None}, [parser.config], where)  # refuses an unknown one
        parser.provide(bundle_root=str(self.root), ckpt_dir=str(ckpt_dir), **(places or {}))
        if (self.configs / "metadata.json").is_file():
            parser.read_meta(str(self.configs / "metadata.json"))
        return parser


def open_bundle(bundle: str | os.PathLike[str] | Bundle) -> Bundle:
    """Find a bundle by its folder, or by its name alone if it lies in `bundles/`.

    Raises:
        BadInput: if there is none; the sentence names the nearest one.
    """
    if isinstance(bundle, Bundle):
        return bundle
    path = Path(bundle)
    homes = [Path("bundles"), Path(__file__).parents[3] / "bundles"]
    candidates = [path, *(home / path for home in homes if path.name == str(path))]
    for candidate in candidates:
        if (candidate / "configs").is_dir():
            return Bundle(candidate)
    folders = [configs.parent for home in (path.parent, *homes) for configs in _configs_in(home)]
    by_name = {folder.name: folder for folder in reversed(folders)}
    near = nearest(path.name, by_name)
    state = "is not a bundle" if path.exists() else "does not exist"
    text = f"{state}, expected a folder with configs/"
    raise BadInput(path, text if near is None else f"{text}; the nearest is {by_name[near]}")


def _configs_in(home: Path) -> list[Path]:
    return sorted(home.glob("*/configs")) if home.is_dir() else []


def hint(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; the nearest is KNOWN`, or nothing if no known word resembles this one."""
    best = nearest(word, known)
    return "" if best is None else f"; the nearest is {prefix}{best}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word or configuration id that resembles this one most, None if none does."""
    known = list(dict.fromkeys(known))
    word = word.replace("::", "#")
    close = difflib.get_close_matches(word, known, 1, 0.7)
    if close:
        return close[0]
    # `--max_epochs` for `--train#trainer#max_epochs`
    by_end: dict[str, str] = {}
    for name in known:
        by_end.setdefault(name.rpartition("#")[2], name)
    close = difflib.get_close_matches(word.rpartition("#")[2], by_end, 1, 0.75)
    if close:
        return by_end[close[0]]
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return close[0] if close else None


def missing(path: str | os.PathLike[str], expected: str) -> BadInput:
    """The refusal of a path that does not exist, with the nearest one that does; or is a file instead of a folder."""
    path = Path(path)
    if path.exists() or path.parent.is_file():
        return BadInput(path if path.exists() else path.parent, f"is a file, expected {expected}")
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent  # the first part that is wrong is the one to compare
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")] if parent.is_dir() else []
    near = nearest(path.name, names)
    text = f"does not exist, expected {expected}"
    return BadInput(path, text if near is None else f"{text}; the nearest is {parent / near}")


def resolve(config: ConfigParser, *ids: str) -> list[Any]:
    """Parsed content of some ids; what fails inside the configuration is raised as it was, not as MONAI wraps it."""
    try:
        return [config.get_parsed_content(name) for name in ids]
    except RuntimeError as error:
        raise first_error(error) from error


# ---- configuration -----------------------------------------------------------------------------------------------


def merged_config(files: Sequence[str | os.PathLike[str]]) -> BundleConfig:
    """A parser over configuration files, later ones over earlier ones.

    Raises:
        BadInput: if a file is not JSON or changes a section that the files before it lack.
    """
    from common.apps.run.bundle_config import BundleConfig

    parser = BundleConfig()
    try:
        parser.read_config([str(file) for file in files])
    except (ValueError, KeyError) as error:  # JSONDecodeError is a ValueError
        for file in files:
            try:
                BundleConfig.load_config_file(str(file))
            except ValueError as cause:
                raise BadInput(file, f"is not a JSON configuration ({cause})") from cause
        names = ", ".join(Path(file).name for file in files)
        raise BadInput(files[-1], f"cannot be merged: one of {names} changes an unknown id ({error})") from error
    return parser


def config_ids(config: Any, prefix: str = "") -> Iterator[str]:
    """Every id in a configuration, in MONAI's spelling (`train#trainer#max_epochs`)."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key != "_meta_":
            yield f"{prefix}{key}"
            yield from config_ids(value, f"{prefix}{key}#")


def literal(value: Any) -> Any:
    """What to write into a configuration so that MONAI reads this text, and those in a list or section, as it is.

    MONAI evaluates `$...`, looks up `@...` and `%...` and changes `#`; a text with any of these, or that is more than a
    line, becomes an expression that holds it. It is the same in this process, in a file and in a command.
    """
    if isinstance(value, str):
        return quoted(value) if _MEANS_SOMETHING.search(value) else str(value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list | tuple) else value


def quoted(text: str) -> str:
    """The expression whose value is this text."""
    return "$" + re.sub("[@%#]", lambda sign: f"\\x{ord(sign[0]):x}", repr(str(text)))


def read_overrides(
    overrides: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], where: str, of_bundle: bool = False
) -> dict[str, Any]:
    """Check that each id is in one of the configurations, and read what was typed on the command line.

    An id may also add an argument that a `_target_` section leaves out, if the target takes it. What the user gives for
    an id that is a path or a text, and a typed word that names something that exists, is `literal`.

    Args:
        overrides: id -> value; a `CommandLineText` is read by `parse_value`, other values stay.
        configs: merged configurations.
        where: names them in the error.
        of_bundle: whether the bundle's own files say so, and not the user.

    Returns:
        id (with `#`) -> value.

    Raises:
        UnknownKey: for an id that is in none.
    """
    result = {}
    for key, value in overrides.items():
        key = key.replace("::", "#")
        present = [found for found in (_current(config, key) for config in configs) if found is not _MISSING]
        if not present:
            raise UnknownKey(key, [name for config in configs for name in config_ids(config)], where)
        typed = isinstance(value, CommandLineText)
        if not of_bundle and _is_text(key, configs):
            result[key] = None if typed and value.lower() in ("null", "none") else literal(value)
        elif typed and value.startswith(("$", "@", "%")) and os.path.lexists(value):
            result[key] = literal(value)
        else:
            result[key] = parse_value(value, present[0]) if typed else value
        if key == "device":
            _check_device(result[key])
    return result


def _is_text(key: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    return any(key == name.replace("::", "#") for config in configs for name in (*TEXTS, *config.get("text_ids", ())))


def _check_device(device: Any) -> None:
    """Refuse a device by name that PyTorch does not know, or that this machine does not have."""
    if not isinstance(device, str) or device.startswith(("$", "@", "%")):
        return
    import torch

    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"--device is {device!r}, expected a device of PyTorch, such as --device cpu") from error
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        what = f"which this machine does not have ({why})"
        raise UsageError(f"--device is {device!r}, {what}, expected one that it has, such as --device cpu") from error


def has_id(config: Mapping[str, Any], key: str) -> bool:
    """Whether an override of this id means something in the configuration."""
    return _current(config, key) is not _MISSING


def parse_value(text: str, current: Any) -> Any:
    """Read a value as `python -m monai.bundle run` does: a Python literal if it is one, else text.

    Beyond that, JSON's `true`, `false` and `null` are understood; what replaces a plain string stays a string
    (`000123`, `7`), and so does a list of words without brackets (`a,b`).

    Args:
        text: as typed.
        current: the value that is replaced; None if it is new.
    """
    from fire.parser import DefaultParseValue

    words = {"true": True, "false": False, "null": None, "none": None}
    is_plain_text = isinstance(current, str) and not current.startswith(("$", "@", "%"))
    if text.lower() in words and not (is_plain_text and text.lower() in ("true", "false")):
        return words[text.lower()]
    if is_plain_text:
        return str(text)
    value = DefaultParseValue(str(text))
    bare = isinstance(value, tuple) and not text.lstrip().startswith("(")
    if bare and not all(isinstance(item, (int, float)) for item in value):
        return str(text)
    return list(value) if bare and isinstance(current, list) else value


def _current(config: Mapping[str, Any], key: str) -> Any:
    """The value of an id, None for an argument that its `_target_` would take, else `_MISSING`."""
    *parents, last = key.split("#")
    node: Any = config
    for name in parents:
        node = _child(node, name)
    value = _child(node, last)
    if value is _MISSING and isinstance(node, dict) and "_target_" in node and _takes(node, last):
        return None
    return value


def _child(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return node.get(name, _MISSING)
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    return _MISSING


def _takes(section: Mapping[str, Any], argument: str) -> bool:
    from monai.bundle import ComponentLocator, ConfigComponent

    if argument in _COMPONENT_KEYS:
        return True
    target = ConfigComponent(config=dict(section), locator=ComponentLocator()).resolve_module_name()
    made = pydoc.locate(target) if isinstance(target, str) else target
    try:
        # Only named parameters: behind **kwargs any misspelling would pass.
        return made is not None and argument in inspect.signature(made).parameters
    except ValueError:  # a builtin that does not tell its parameters
        return False


def cpu_count() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group (containers)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()[:2]
        if limit != "max":
            allowed = min(allowed, max(1, round(int(limit) / int(period))))
    return allowed
