"""The table of a classification run: every model that its stages trained, side by side."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.apps.run.recipe import PREDICTIONS
from common.data.prediction_table import find_predictions
from common.evaluation.compare_models import compare_models
from common.evaluation.error_attention import StudyEncoders, saved_encoders
from common.evaluation.error_cases import case_details
from common.networks.weights import MissingWeights

__all__ = ["compare_run"]

logger = logging.getLogger("train")

SUMMARY = "results_summary.csv"
_REFERENCES = ("all", "all_stage1")


def compare_run(
    run: Path, dataset_dir: Path, stages: Mapping[str, str | None] | None = None, seed: int = 0, draws: int = 1000
) -> dict[str, Any]:
    """Compare the models whose predictions lie in `RUN/predictions` on the test cases, else on validation cases.

    The weights in `RUN/models` show where the encoders looked in the worst cases.

    Args:
        run: the run folder; gets `comparison/` with a page, and `results_summary.csv`.
        dataset_dir: the prepared data, for images, notes and subgroups.
        stages: in their order, each with the name of the model that it trains; the model of a stage that is older than
            one before it is left out, as the next run makes it anew. None compares all.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        As `compare_models`; empty if no model is up to date.

    Raises:
        BadInput: as `compare_models`.
    """
    folder = run / PREDICTIONS
    split = "test" if (folder / "labels_test.csv").is_file() else "val"
    models = find_predictions(folder, split)
    stale = _stale(run, stages or {})
    models = {name: path for name, path in models.items() if name.partition("_without_")[0] not in stale}
    whole = [name for name in models if "_without_" not in name]
    if not whole:
        return {}
    reference = next((name for name in _REFERENCES if name in models), whole[-1])
    result = compare_models(
        models,
        folder / f"labels_{split}.csv",
        run / "comparison",
        thresholds_from="val" if split == "test" and (folder / "labels_val.csv").is_file() else None,
        draws=draws,
        seed=seed,
        reference=reference,
        cases=case_details(dataset_dir, split),
        encoders=_encoders(run, reference),
    )
    shutil.copyfile(run / "comparison" / SUMMARY, run / SUMMARY)
    return result


def _encoders(run: Path, model: str) -> StudyEncoders | None:
    """Those of a model, None with a warning where it was not saved."""
    folder = run / "models"
    try:
        return saved_encoders(folder if model in _REFERENCES else folder / "baselines" / model)
    except MissingWeights as error:
        logger.warning("where the encoders looked is not shown: %s", error)
        return None


def _stale(run: Path, stages: Mapping[str, str | None]) -> set[str]:
    """Models whose stage ended before a stage that comes before it."""
    latest, found = "", set()  # times as ISO text, which sorts
    for stage, model in stages.items():
        path = run / stage / "finished.json"
        finished = json.loads(path.read_text(encoding="utf-8"))["finished_at"] if path.is_file() else None
        if finished is None or finished < latest:
            found.add(model or stage)
        else:
            latest = finished
    return found
