import json
from pathlib import Path
from typing import Any

import pytest

from common.apps.run import demo
from common.apps.run.bundle import UsageError
from common.apps.run.demo import run_demo
from common.io.bad_input import BadInput
from tests.toy_bundle import make_toy_bundle


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the evaluation; collects what it was asked for."""
    calls: list[Any] = []

    def evaluate(bundle: Any, input: Any, output_dir: Any, ckpt_dir: Any, settings: Any) -> dict[str, Any]:
        calls.append((bundle.name, sorted(path.name for path in Path(input).iterdir()), Path(ckpt_dir), settings))
        rows = [{"mode": "linear", "psnr": 30.0}, {"mode": "refiner", "psnr": 34.5}]
        return {"cases": 2, "metrics": rows, "result": rows, "baselines": {"linear": {"psnr": 30.0}}}

    monkeypatch.setattr(demo, "evaluate", evaluate)
    return calls


def test_the_demo_trains_evaluates_and_reports(tmp_path: Path, evaluated: list[Any], capsys: Any) -> None:
    out = tmp_path / "run"
    result = run_demo(make_toy_bundle(tmp_path), out)
    # The patients of the evaluation are not those of the training, which have the seeds 0 to 3.
    images = ["virtual_001000.nii.gz", "virtual_001001.nii.gz"]
    assert evaluated == [("toy", images, out / "models", {"ratio": 3})]
    shown = capsys.readouterr().out
    assert shown.startswith("demo of toy in") and str(out / "index.html") in shown.splitlines()[-1]
    assert "refiner" in shown and "34.5" in shown
    summary = json.loads((out / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["first", "second"]
    assert list(summary["baselines"]) == ["linear"] and summary["baselines"]["linear"]["psnr"] == 30.0
    assert result["page"] == str(out / "index.html")


def test_a_bundle_without_a_demo_says_so(tmp_path: Path, evaluated: list[Any]) -> None:
    bundle = make_toy_bundle(tmp_path)
    (bundle / "configs" / "demo.json").write_text(json.dumps({"virtual": None}))
    with pytest.raises(BadInput, match=r"demo\.json: has no id 'virtual'"):
        run_demo(bundle, tmp_path / "run")
    (bundle / "configs" / "demo.json").unlink()
    with pytest.raises(UsageError, match=r"--scale is 'demo', expected one of paper"):
        run_demo(bundle, tmp_path / "run")


@pytest.mark.parametrize("commit", [None, "a" * 40, "a" * 40 + "+changes"])
def test_an_evaluation_stands_while_nothing_changes(
    tmp_path: Path, evaluated: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, commit: str | None
) -> None:
    whole = demo.run_recipe
    monkeypatch.setattr(demo, "run_recipe", lambda *args, **kwargs: whole(*args, **kwargs) | {"git_commit": commit})
    bundle, out = make_toy_bundle(tmp_path), tmp_path / "run"
    first = run_demo(bundle, out)
    (out / "evaluation" / "index.html").touch()
    again = run_demo(bundle, out)
    assert len(evaluated) == (2 if commit and len(commit) > 40 else 1)  # code that is not committed may have changed
    assert again["evaluation"] == first["evaluation"] and again["baselines"] == first["baselines"]
    (out / "evaluation" / "index.html").unlink()
    run_demo(bundle, out)
    (out / "models" / "second.pt").unlink()  # so the stage runs again
    run_demo(bundle, out)
    assert len(evaluated) == (4 if commit and len(commit) > 40 else 3)
