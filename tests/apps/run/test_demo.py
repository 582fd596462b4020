import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.apps.run.demo import run_demo
from common.io.bad_input import BadInput
from tests.toy_bundle import make_toy_bundle


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the evaluation; collects what it was asked for."""
    calls: list[Any] = []

    def evaluate(bundle: Any, input: Any, output_dir: Any, ckpt_dir: Any, ratio: int) -> dict[str, Any]:
        calls.append((bundle.name, sorted(path.name for path in Path(input).iterdir()), Path(ckpt_dir), ratio))
        row = {"window": "wide", "ssim": 0.9, "hist_distance": 3.0, "consistency_hu": 0.0}
        return {
            "cases": 2,
            "metrics": [row | {"mode": "linear", "psnr": 30.0}, row | {"mode": "refiner", "psnr": 34.5}],
        }

    module = ModuleType("common.evaluation.slice_interpolation")
    module.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "common.evaluation.slice_interpolation", module)
    return calls


def test_the_demo_trains_evaluates_and_reports(tmp_path: Path, evaluated: list[Any], capsys: Any) -> None:
    out = tmp_path / "run"
    result = run_demo(make_toy_bundle(tmp_path), out)
    # The patients of the evaluation are not those of the training, which have the seeds 0 to 3.
    assert evaluated == [("toy", ["virtual_001000.nii.gz", "virtual_001001.nii.gz"], out / "models", 3)]
    shown = capsys.readouterr().out
    assert shown.startswith("demo of toy in") and str(out / "index.html") in shown.splitlines()[-1]
    assert "refiner" in shown and "4.500" in shown
    summary = json.loads((out / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["first", "second"]
    assert list(summary["baselines"]) == ["linear"] and summary["baselines"]["linear"]["psnr"] == 30.0
    assert result["page"] == str(out / "index.html")


def test_a_bundle_without_a_demo_says_so(tmp_path: Path, evaluated: list[Any]) -> None:
    bundle = make_toy_bundle(tmp_path)
    (bundle / "configs" / "demo.json").write_text(json.dumps({"virtual": {}}))
    with pytest.raises(BadInput, match=r"demo\.json: has no id 'held_out'"):
        run_demo(bundle, tmp_path / "run")
    (bundle / "configs" / "demo.json").unlink()
    with pytest.raises(BadInput, match=r"demo\.json: does not exist"):
        run_demo(bundle, tmp_path / "run")
