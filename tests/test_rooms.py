"""The rooms of `common`: imports only run down, no circle, folders that can be browsed, no bundle in a general room."""

import ast
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
ORDER = (  # from the top down; rooms of one line stand side by side
    ("__main__", "cli"),
    ("apps",),
    ("evaluation",),
    ("engines",),
    ("handlers",),
    ("inferers", "metrics"),
    ("llm",),
    ("networks", "losses", "optimizers"),
    ("transforms", "visualize"),
    ("data",),
    ("text",),
    ("io",),
    ("version", ""),  # "" is `import common` itself
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MOST_FILES = 22
BELONGS_TO_A_BUNDLE = "networks"  # a network may say which bundle makes its weights
GENERAL = ("common.cli.", "common.handlers.", "common.io.", "common.data.datasets.")
OF_ONE_MODALITY = (
    "common.data.ct", "common.data.cxr", "common.data.ehr", "common.data.modalities", "common.text.ct_",
    "common.text.cxr_",
)  # fmt: skip
DEFAULT_BUNDLE = {"apps/run/demo.py": 1, "cli/verbs.py": 1}  # `python -m common demo` without --bundle


def modules(root: Path = ROOT) -> dict[str, ast.Module]:
    """Dotted name to syntax tree, for every module below `root/common`; a package has the name of its folder."""
    found = {}
    for path in sorted((root / "common").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(), str(path))
    return found


def imported(node: ast.AST, known: Collection[str]) -> Iterator[str]:
    """Modules of `common` that an import statement names: of `from a import b`, `a.b` where that is a module."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import; imports are written in full"
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in known else node.module for name in inner]
    else:
        names = []
    yield from (name for name in names if name.split(".")[0] == "common")


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: none within functions or `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from run_at_import(child)


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def imports_up(trees: dict[str, ast.Module]) -> list[str]:
    """A sentence for every import, at any depth, of a room above the importing module's own."""
    up = [
        f"{name}, line {node.lineno}: imports {other}, which is above {room(name)}/"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        for other in imported(node, trees)
        if LEVEL[room(other)] < LEVEL[room(name)]
    ]
    return list(dict.fromkeys(up))  # one line may import several names


def circle(trees: dict[str, ast.Module]) -> list[str]:
    """Modules that import each other in a circle when they are imported; empty where there is none."""
    graph = {
        name: {other for node in run_at_import(tree) for other in imported(node, trees)} - {name}
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def bundle_names(tree: ast.Module, with_docstrings: bool) -> list[str]:
    """Texts within a module that name a bundle."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if with_docstrings or id(node) not in docstrings
        if any(bundle in node.value for bundle in BUNDLES)
    ]


@pytest.fixture(scope="module")
def trees():
    return modules()


def test_every_room_is_in_the_order(trees):
    assert {room(name) for name in trees} <= LEVEL.keys()


def test_imports_only_run_down(trees):
    up = imports_up(trees)
    assert not up, "\n".join(up)


def test_no_circle_of_imports(trees):
    assert circle(trees) == []


def test_folders_can_be_browsed():
    counts = {}
    for path in (ROOT / "common").rglob("*.py"):
        if path.name != "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            counts[folder] = counts.get(folder, 0) + 1
    assert {folder: n for folder, n in counts.items() if n > MOST_FILES} == {}


def test_general_rooms_name_no_bundle(trees):
    named = {}
    for name, tree in trees.items():
        if room(name) != BELONGS_TO_A_BUNDLE:
            # A verb's docstring is its help on the command line; the examples there name bundles as a user does.
            found = bundle_names(tree, with_docstrings=room(name) not in ("cli", "apps"))
            allowed = DEFAULT_BUNDLE.get(name.removeprefix("common.").replace(".", "/") + ".py", 0)
            if len(found) > allowed:
                named[name] = found
    others = [path for path in (ROOT / "common").rglob("*") if path.suffix in (".yaml", ".j2", ".json")]
    named |= {path.name: path for path in others if any(bundle in path.read_text() for bundle in BUNDLES)}
    assert named == {}


def test_general_rooms_know_no_modality(trees):
    known = {
        f"{name} imports {other}"
        for name, tree in trees.items()
        if name.startswith(GENERAL)
        for node in ast.walk(tree)
        for other in imported(node, trees)
        if other.startswith(OF_ONE_MODALITY)
    }
    assert not known


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("from common.apps import predict", "line 1: imports common.apps.predict, which is above data/"),
        ("def f():\n    import common.cli.main", "line 2: imports common.cli.main, which is above data/"),
        ("class A:\n    def f(self):\n        from common.engines.b import g", "line 3: imports common.engines.b"),
    ],
)
def test_an_import_that_runs_up_is_seen(tmp_path, content, expected):
    for place, text in (("data/a.py", content), ("apps/predict.py", ""), ("cli/main.py", ""), ("engines/b.py", "")):
        path = tmp_path / "common" / place
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (sentence,) = imports_up(modules(tmp_path))
    assert sentence.startswith("common.data.a, ") and expected in sentence


def test_a_circle_is_seen_and_a_late_import_is_none(tmp_path):
    (tmp_path / "common" / "data").mkdir(parents=True)
    a, b = (tmp_path / "common" / "data" / f"{name}.py" for name in "ab")
    a.write_text("from common.data import b")
    b.write_text("from common.data.a import f")
    assert set(circle(modules(tmp_path))) == {"common.data.a", "common.data.b"}
    b.write_text("def g():\n    from common.data.a import f")
    assert circle(modules(tmp_path)) == []
