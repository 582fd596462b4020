import importlib
import sys

import pytest

from common.apps.packaging.active_bundle import activate


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """Two bundles whose module `scripts.common.thing` differs; nothing of them stays loaded."""
    for name in ("a", "b"):
        folder = tmp_path / name / "scripts" / "common"
        folder.mkdir(parents=True)
        (tmp_path / name / "configs").mkdir()
        (tmp_path / name / "configs" / "metadata.json").touch()
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder / "thing.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("scripts", "packed_bundles_modules")]:
        del sys.modules[name]


def use(root):
    sys.path.insert(1, str(root))  # as MONAI does
    activate()
    return importlib.import_module("scripts.common.thing")


def test_each_bundle_finds_its_own_modules_and_the_same_again(bundles):
    first, second, third = use(bundles / "a"), use(bundles / "b"), use(bundles / "a")
    assert (first.NAME, second.NAME) == ("a", "b") and third is first
    assert sys.modules["scripts.common.thing"] is first


def test_without_a_packed_bundle_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    activate()
    assert dict(sys.modules) == before
