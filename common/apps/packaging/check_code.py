"""What the configuration of a bundle would run: its targets and `$` expressions, judged without running any of it."""

from __future__ import annotations

import ast
import builtins
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from common.apps.packaging.vendored import ROOMS, defines, texts

__all__ = ["ALLOWED_MODULES", "Finding", "check_configs"]

ALLOWED_MODULES = (
    *(f"{package}.{room}" for package in ("common", "scripts.common") for room in ROOMS),
    "scripts.common.apps.packaging.active_bundle.activate",
    "ignite.distributed",
    "ignite.engine",
    "ignite.handlers",
    "ignite.metrics",
    "monai.data",
    "monai.engines",
    "monai.handlers",
    "monai.inferers",
    "monai.losses",
    "monai.metrics",
    "monai.networks",
    "monai.optimizers",
    "monai.transforms",
    "monai.utils.enums",
    "monai.utils.misc.set_determinism",
    "torch.cuda",
    "torch.distributed",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
)
"""Modules whose classes and functions a configuration may name; with all that is below them."""

_FORBIDDEN_MODULES = tuple(
    f"torch.distributed.{name}" for name in ("checkpoint", "elastic", "launch", "launcher", "rpc", "run")
)
_BUILTINS = {
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "filter", "float", "frozenset", "int", "isinstance",
    "len", "list", "map", "max", "min", "next", "pow", "print", "range", "repr", "reversed", "round", "set", "slice",
    "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip
_IMPORTABLE = ("json", "math", "random")  # besides the allowed modules and the packages that hold them
_FORBIDDEN_ATTRIBUTES = {
    # ways out of the sandbox, to files and to other programs; only names that no innocent expression needs
    "chmod", "cr_frame", "f_back", "f_builtins", "f_globals", "f_locals", "func_globals", "gi_code", "gi_frame",
    "hardlink_to", "hub", "mro", "popen", "rename", "rmdir", "rmtree", "run_path", "symlink_to", "system", "tb_frame",
    "tofile", "unlink", "write_bytes", "write_text",
}  # fmt: skip
_FORBIDDEN_ENDS = {
    "load",
    "load_url",
    "save",
    "compile",
    "exec",
    "eval",
    "from_file",
    "open",
    "import_module",
    "script",
}
_REFERENCE = re.compile(r"@\w*(?:(?:#|::)\w+)*")
_REFUSED = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: path below the bundle.
        rule: short name of the rule, such as "target".
        what: one sentence.
    """

    file: str
    rule: str
    what: str

    def __str__(self) -> str:
        """Return the line that `check` prints."""
        return f"{self.file}: {self.rule}: {self.what}"


def check_configs(configs: Mapping[str, Any], allow: Sequence[str] = ()) -> list[Finding]:
    """Judge the targets and expressions of a bundle's configurations.

    Args:
        configs: file to its content; they may refer to the imports of each other, as overlays do.
        allow: further modules that may be named.

    Returns:
        Findings in the order of the files.
    """
    allowed = (*ALLOWED_MODULES, *allow)
    findings: list[Finding] = []
    imported: dict[str, str] = {}
    for file, config in configs.items():
        for place, text in texts(config):
            if text.startswith("$") and _import_in(text):
                findings += _check_import(file, place, text, allowed, imported)
    for file, config in configs.items():
        for place, section in _sections(config):
            findings += _check_section(file, place, section, allowed)
        for place, text in texts(config):
            if text.startswith("$") and not _import_in(text):
                findings += (Finding(file, rule, f"{place} {what}") for rule, what in _judge(text, imported, allowed))
    return findings


# ---- targets -----------------------------------------------------------------------------------------------------


def _check_section(file: str, place: str, section: Mapping[str, Any], allowed: Sequence[str]) -> Iterator[Finding]:
    target = section["_target_"]
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_][\w.]*", target):
        yield Finding(file, "target", f"{place} is computed ({target!r}), expected a dotted name")
        return
    full = target if "." in target else _in_monai(target)
    if full is None:
        yield Finding(file, "target", f"{place} names {target!r}, which MONAI does not have")
    elif "__" in full or not _is_allowed(full, allowed):
        yield Finding(file, "target", f"{place} names {full}, which is not in an allowed module (--allow adds one)")
    elif what := _problem(full, allowed):
        yield Finding(file, "target", f"{place} {what}")
    if section.get("_mode_", "default") not in ("default", "callable"):
        yield Finding(file, "target", f"{place} has _mode_ {section['_mode_']!r}, expected default or callable")


@lru_cache(maxsize=1)
def _locator() -> Any:
    from monai.bundle import ComponentLocator

    return ComponentLocator(excludes=["metatensor"])


def _in_monai(name: str) -> str | None:
    """Full name of a component that a configuration names as MONAI lets it, by the last part only."""
    module = _locator().get_component_module_name(name)
    if isinstance(module, list):
        module = module[0]
    return None if module is None else f"{module}.{name}"


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in ("common", "scripts")


def _problem(name: str, allowed: Sequence[str]) -> str | None:
    """Why an object in an allowed module is not one to use."""
    if not _is_ours(name):
        return _object_problem(name, allowed)
    if defines(name) or (_is_below(name, "scripts") and "scripts" in allowed):
        return None
    return f"names {name}, which this library does not define (what a module imports is not its own)"


def _is_allowed(name: str, allowed: Sequence[str]) -> bool:
    if any(_is_below(name, module) for module in _FORBIDDEN_MODULES):
        return False
    return any(_is_below(name, module) for module in allowed)


def _is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _object_problem(name: str, allowed: Sequence[str]) -> str | None:
    """Why an object of MONAI, ignite or torch is not one to use; importing those runs nothing of the bundle."""
    parts, node = name.split("."), None
    for end in range(len(parts) - 1, 0, -1):
        try:
            node = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        break
    if node is None:
        return f"names {name}, which does not exist here"
    for part in parts[end:]:
        if not hasattr(node, part):
            return f"names {name}, which does not exist here"
        node = getattr(node, part)
        if isinstance(node, ModuleType) and not _is_allowed(node.__name__, allowed):
            return f"reaches the module {node.__name__} through {name}"
    if isinstance(node, ModuleType):
        return f"names the module {name}, expected a class or function"
    if parts[-1] in _FORBIDDEN_ENDS:
        return f"names {name}, which reads, writes or runs what it is given"
    home = getattr(node, "__module__", None)
    plain = isinstance(home, str) and (home in ("torch", "builtins", "typing") or home.startswith("torch._C"))
    if isinstance(home, str) and not plain and not _is_allowed(f"{home}.{parts[-1]}", allowed):
        return f"reaches {home}.{getattr(node, '__name__', parts[-1])} through {name}"
    if home == "builtins" and isinstance(node, type(len)) and getattr(builtins, parts[-1], None) is node:
        return f"reaches the builtin {parts[-1]} through {name}"
    return None


# ---- imports -----------------------------------------------------------------------------------------------------


def _import_in(text: str) -> list[Any]:
    """The statements of a text that begins with an import; none for an expression."""
    try:
        body = ast.parse(text[1:].strip()).body
    except SyntaxError:
        return []
    return body if body and isinstance(body[0], ast.Import | ast.ImportFrom) else []


def _check_import(
    file: str, place: str, text: str, allowed: Sequence[str], imported: dict[str, str]
) -> Iterator[Finding]:
    """Judge an import, and note the name that it makes."""
    node, *others = _import_in(text)
    if others or len(node.names) > 1:
        yield Finding(file, "import", f"{place} holds more than one import ({text!r})")
    alias = node.names[0]
    if isinstance(node, ast.Import):
        full, name = alias.name, alias.asname or alias.name
        package = any(_is_below(module, full) for module in allowed)  # `import torch` is how torch.nn is reached
        fine = package or _is_allowed(full, allowed) or full in _IMPORTABLE
    else:
        full, name = f"{node.module}.{alias.name}", alias.asname or alias.name
        fine = node.level == 0 and (_is_allowed(full, allowed) or node.module in _IMPORTABLE)
        if fine and node.module not in _IMPORTABLE:
            what = _problem(full, allowed)
            fine = what is None or what.startswith("names the module")
    if not fine or "__" in full:
        yield Finding(file, "import", f"{place} imports {full}, which is not in an allowed module (--allow adds one)")
        full = _REFUSED  # its uses are not reported as well, and it is not looked up
    imported[name] = full


# ---- expressions -------------------------------------------------------------------------------------------------


def _judge(text: str, imported: Mapping[str, str], allowed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Rule and sentence for whatever is wrong with one expression."""
    source = _REFERENCE.sub("_reference_", text[1:].strip())
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        yield "expression", f"is no Python expression ({error}): {text!r}"
        return
    judge = _Judge(imported, allowed, text)
    judge.visit(tree)
    yield from judge.problems


class _Judge(ast.NodeVisitor):
    """Collects what is wrong with one expression."""

    def __init__(self, imported: Mapping[str, str], allowed: Sequence[str], text: str) -> None:
        self.imported, self.allowed, self.text = imported, allowed, text
        self.bound: set[str] = {"_reference_"}
        self.problems: list[tuple[str, str]] = []

    def visit_Expression(self, node: ast.Expression) -> None:
        for inner in ast.walk(node):  # lambda arguments and loop variables
            if isinstance(inner, ast.arg):
                self.bound.add(inner.arg)
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self.bound.add(inner.id)
        for name in self.bound & {*self.imported, *dir(builtins)}:
            self._add("name", f"gives the name {name} another meaning")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.bound:
            return
        if node.id in self.imported:
            full = self.imported[node.id]
            # A module handed on could be asked for anything.
            if full and (not defines(full) if _is_ours(full) else isinstance(_imported_object(full), ModuleType)):
                self._add("name", f"uses the module {full} as a value")
        elif node.id not in _BUILTINS:
            self._add("name", f"uses the name {node.id!r}, which no import of the configuration makes")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        for name in chain:
            if name.startswith("__") or name.endswith("__") or name in _FORBIDDEN_ATTRIBUTES:
                self._add("attribute", f"uses the attribute {name!r}")
        dotted = ast.unparse(root) if isinstance(root, ast.Name) else ""
        if dotted in self.imported and dotted not in self.bound:
            self._judge_chain(self.imported[dotted], chain)
        else:
            longest = next((n for n in self.imported if "." in n and _is_below(ast.unparse(node), n)), None)
            if longest is not None:  # `import torch.nn` makes the name torch.nn
                self._judge_chain(longest, ast.unparse(node)[len(longest) + 1 :].split("."))
            else:
                self.visit(root)

    def _judge_chain(self, full: str, chain: list[str]) -> None:
        """Attributes of something imported, as far as they are modules."""
        if full == _REFUSED:
            return
        if _is_ours(full):
            # Attributes of what the library defines are its own; those of its modules may be what they import.
            name = full if defines(full) else f"{full}.{chain[0]}"
            if what := _problem(name, self.allowed):
                self._add("attribute", what)
            return
        if full.split(".")[0] in _IMPORTABLE:
            if chain[-1] not in ("dumps", "loads") and full == "json":
                self._add("attribute", f"uses json.{chain[-1]}")
            return
        node: Any = _imported_object(full)
        name = full
        for part in chain:
            if node is None or not hasattr(node, part):
                self._add("attribute", f"uses {name}.{part}, which does not exist here")
                return
            node, name = getattr(node, part), f"{name}.{part}"
            if isinstance(node, ModuleType):
                known = any(_is_below(module, node.__name__) for module in self.allowed)
                if not known and not _is_allowed(node.__name__, self.allowed):
                    self._add("attribute", f"reaches the module {node.__name__} through {name}")
                    return
            else:
                break  # what follows are attributes of a class or function
        if isinstance(node, ModuleType):
            self._add("name", f"uses the module {name} as a value")
        elif name.rpartition(".")[2] in _FORBIDDEN_ENDS:
            self._add("attribute", f"uses {name}, which reads, writes or runs what it is given")
        elif not self._is_plain(name, node):
            self._add("attribute", f"uses {name}, which is not in an allowed module (--allow adds one)")

    def _is_plain(self, name: str, node: Any) -> bool:
        """Whether a function, class or constant is fine: below an allowed module, or torch's own tensor functions."""
        if _is_allowed(name, self.allowed):
            return _object_problem(name, self.allowed) is None
        module, _, last = name.rpartition(".")
        if module == "monai.utils":
            return _is_allowed(f"{getattr(node, '__module__', '')}.{last}", self.allowed)
        if module != "torch":
            return False
        import torch

        kinds = (torch.dtype, torch.layout, torch.memory_format, type(torch.add))
        return isinstance(node, kinds) or node in (torch.device, torch.Generator, torch.Size, torch.Tensor)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and "__" in node.value:
            self._add("expression", f"holds the text {node.value!r}, which could reach hidden attributes")

    def visit_Await(self, node: ast.AST) -> None:
        self._add("expression", "waits or yields")

    visit_Yield = visit_YieldFrom = visit_Await

    def _add(self, rule: str, what: str) -> None:
        self.problems.append((rule, f"{what} in {self.text!r}"))


def _imported_object(full: str) -> Any:
    try:
        return pkgutil.resolve_name(full)
    except (ImportError, AttributeError, ValueError):
        return None


# ---- walking -----------------------------------------------------------------------------------------------------


def _sections(config: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part of a configuration that has a `_target_`, and every id of an overlay that sets one."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield place or "_target_", config
        for key, value in config.items():
            last = re.split("#|::", str(key))[-1]
            if not place and key != last == "_target_":
                yield key, {"_target_": value}
            if not place and key != last == "_mode_":
                yield key, {"_target_": "torch.nn.Identity", "_mode_": value}
            yield from _sections(value, f"{place}#{key}" if place else str(key))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from _sections(value, f"{place}#{i}" if place else str(i))
