import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
MAX_BYTES = 1_500_000
# A path of a machine, such as /home/somebody/runs or C:\runs; not the and/or of a sentence, nor an address.
ABSOLUTE = re.compile(r"(?<![\w.:/~-])/(?:home|root|tmp|Users|work|opt|mnt|var|usr|srv|private|data)/|\b[A-Z]:\\\\")
# Few, short epochs on few patients: what is tested is that every cell runs.
SMALL = {
    "ct_slice_interpolation": {
        "n_patients": 4,
        "overrides": {
            "sampling_steps": 4,
            "stage_overrides#vae#max_epochs": 2,
            "stage_overrides#vae#warmup_epochs": 0,
            "stage_overrides#diffusion#max_epochs": 2,
            "stage_overrides#diffusion#warmup_epochs": 0,
            "stage_overrides#diffusion#val_interval": 4,
            "stage_overrides#refiner#max_epochs": 1,
            "stage_overrides#refiner#patches_per_epoch": 32,
            "stage_overrides#refiner#val_interval": 2,
        },
    },
    "radiology_text": {"n_patients": 20},
    "mdfnet_cxr": {
        "n_patients": 40,
        "overrides": {
            "stage_overrides#encoders#max_epochs": 2,
            "stage_overrides#encoders#warmup_epochs": 0,
            "stage_overrides#stage2#max_epochs": 2,
            "stage_overrides#stage2#warmup_epochs": 0,
        },
    },
    "xr2text": {"n_patients": 24, "scale": "demo+smoke"},
}
FURTHER = {"02_evaluation": {"n_unseen": 1, "n_samples": 2}, "04_search": {"n_trials": 1}}
MADE = {  # by folder, or by folder and notebook
    "ct_slice_interpolation": "models/model.pt",
    "radiology_text": "scores.json",
    "mdfnet_cxr/01_data": "patients/clinical.csv",
    "mdfnet_cxr/02_baselines_and_ablations": "models/baselines/vision_text/model.pt",
    "mdfnet_cxr/03_stage1_and_stage2": "models/model.pt",
    "mdfnet_cxr/04_search": "search/best_params.json",
    "mdfnet_cxr/05_evaluation": "comparison/index.html",
    "xr2text/01_data": "patients/manifest.csv",
    "xr2text/02_model_training": "epochs.csv",
    "xr2text/03_evaluation": "evaluation/index.html",
    "xr2text/04_ablations": "evaluation_plain/index.html",
    "xr2text/05_visualisation": "models/model.pt",
    "xr2text/06_inference": "one/reports.jsonl",
}


def texts(notebook: Any) -> str:
    """All that a reader sees as text: sources and outputs, without the pictures."""
    parts = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts += [output.get("text", ""), *(str(v) for kind, v in data.items() if not kind.startswith("image/"))]
    return "\n".join(parts)


def test_there_are_notebooks_for_training_and_evaluation() -> None:
    names = [path.relative_to(ROOT / "notebooks").as_posix() for path in NOTEBOOKS]
    assert "ct_slice_interpolation/01_data_and_training.ipynb" in names
    assert "ct_slice_interpolation/02_evaluation.ipynb" in names
    assert "radiology_text/01_reading_and_scoring.ipynb" in names
    assert {f"{name}.ipynb" for name in MADE if "/" in name} <= set(names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.get("tags") == ["parameters"]
    assert all(cell.execution_count for cell in code), "a cell was never run"
    counts = [cell.execution_count for cell in code]
    assert counts == sorted(counts), "cells were not run from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "logs belong to the run, not here"
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_names_no_folder_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    found = ABSOLUTE.search(texts(notebook))
    assert found is None, texts(notebook)[found.start() - 60 : found.end() + 60]
    assert "papermill" not in notebook.metadata, "papermill's record of its run holds the paths of that run"


def test_an_absolute_path_would_be_found() -> None:
    assert ABSOLUTE.search("written: /tmp/x/run") and ABSOLUTE.search("('/home/me/runs')")
    assert not ABSOLUTE.search("runs/tmp/x, https://host/data/file and and/or")


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_another_folder(path: Path, tmp_path: Path) -> None:
    pictures, made = execute(path, tmp_path)
    assert pictures >= 3 and made.is_file()


def test_the_evaluation_of_mdfnet_cxr_runs_in_every_test(smoke_run: Any, tmp_path: Path) -> None:
    """On a run that has been trained; where there is none the notebook trains, as `pytest -m notebook` has it do."""
    run, _ = smoke_run(ROOT / "bundles" / "mdfnet_cxr")
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("data", "evaluation"))
    trained = {"scale": "demo+smoke", "dataset_dir": str(run / "data" / "virtual"), "overrides": {}}
    pictures, made = execute(ROOT / "notebooks" / "mdfnet_cxr" / "05_evaluation.ipynb", tmp_path, trained)
    assert pictures >= 3 and made.is_file()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stages"] == json.loads((run / "summary.json").read_text())["stages"]  # none was trained again


def test_the_evaluation_of_xr2text_runs_in_every_test(smoke_run: Any, tmp_path: Path) -> None:
    """As that of mdfnet_cxr, on a run that has been trained."""
    run, _ = smoke_run(ROOT / "bundles" / "xr2text")
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("data", "evaluation"))
    trained = {"scale": "demo+smoke", "dataset_dir": str(run / "data" / "virtual"), "overrides": {}}
    pictures, made = execute(ROOT / "notebooks" / "xr2text" / "03_evaluation.ipynb", tmp_path, trained)
    assert pictures >= 3 and made.is_file()


def test_the_evaluation_of_ct_slice_interpolation_runs_in_every_test(tmp_path: Path) -> None:
    """It trains first, as notebook 01 has not run, so it goes through all of the bundle."""
    small = {"scale": "demo+smoke", "n_patients": 6, "overrides": {}}
    path = ROOT / "notebooks" / "ct_slice_interpolation" / "02_evaluation.ipynb"
    pictures, made = execute(path, tmp_path, small)
    assert pictures >= 3 and made.is_file()


def execute(path: Path, tmp_path: Path, settings: dict[str, Any] | None = None) -> tuple[int, Path]:
    """Run a notebook from another folder; gives the number of its pictures and the file that it must have made."""
    papermill = pytest.importorskip("papermill")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parameters = SMALL.get(path.parent.name, {}) | FURTHER.get(path.stem, {}) | {"output_dir": str(tmp_path / "run")}
    parameters |= settings or {}
    papermill.execute_notebook(
        str(path),
        str(tmp_path / path.name),
        parameters=parameters,
        cwd=str(elsewhere),
        kernel_name="python3",
        progress_bar=False,
    )
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    assert not any(elsewhere.iterdir()), "a notebook writes under output_dir only"
    made = MADE.get(f"{path.parent.name}/{path.stem}") or MADE[path.parent.name]
    pictures = sum("image/png" in o.get("data", {}) for c in executed.cells for o in c.get("outputs", []))
    return pictures, tmp_path / "run" / made
