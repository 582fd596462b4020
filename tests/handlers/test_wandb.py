import sys
import types

import pytest

from common.handlers.wandb import WandbHandler
from tests.handlers.small_engines import Fail, make_trainer


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package, which is not installed; notes what it is told."""
    module = types.ModuleType("wandb")
    module.said = []
    module.init = lambda **options: module.said.append(options)
    module.finish = lambda exit_code=0: module.said.append(exit_code)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_offline(wandb, tmp_path):
    make_trainer([WandbHandler(str(tmp_path), "refiner")]).run()
    options, code = wandb.said
    assert (options["mode"], options["name"], options["sync_tensorboard"], code) == ("offline", "refiner", True, 0)


def test_a_run_that_fails_is_closed_too(wandb, tmp_path):
    with pytest.raises(ValueError, match="stop"):
        make_trainer([WandbHandler(str(tmp_path), "refiner"), Fail(ValueError("stop"))]).run()
    assert wandb.said[1] == 1


def test_without_the_package_the_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="wandb"):
        make_trainer([WandbHandler(str(tmp_path), "refiner")]).run()
