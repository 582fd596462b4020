"""The stage that compares the models of a run: every model whose predictions its stages left, side by side."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.prediction_table import find_predictions
from common.evaluation.compare_models import SHOWN, compare_models
from common.evaluation.error_attention import StudyEncoders, saved_encoders
from common.evaluation.error_cases import case_details
from common.io.output_folder import atomic_path
from common.networks.weights import MissingWeights
from common.visualize.tables import format_table

__all__ = ["RunComparison"]

logger = logging.getLogger("train")

SUMMARY = "results_summary.csv"


class RunComparison:
    """Compares the models of `RUN/predictions` on the test cases, else on validation cases.

    The weights in `RUN/models` show where the encoders looked in the worst cases. The model of a stage that is older
    than one before it is left out, as the next run makes it anew.

    Args:
        output_dir: the run folder; gets `comparison/` with a page, and `results_summary.csv`.
        dataset_dir: the prepared data, for images, notes and subgroups.
        references: the first of these that is there is the model the others are compared with, else the last; its
            weights lie in `RUN/models`, those of others in `RUN/models/baselines/MODEL`.
        seed: of the bootstrap.
        draws: of the bootstrap.
        document: published figures, as of `common.evaluation.comparison_tables.Comparison`.
    """

    def __init__(
        self,
        output_dir: str | Path,
        dataset_dir: str | Path,
        references: Sequence[str] = (),
        seed: int = 0,
        draws: int = 1000,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.dataset_dir, self.references = Path(output_dir), Path(dataset_dir), tuple(references)
        self.seed, self.draws, self.document = seed, draws, document

    def run(self) -> dict[str, Any]:
        """Compare, and print the table.

        Returns:
            As `compare_models`; empty if no model is up to date.

        Raises:
            BadInput: as `compare_models`.
        """
        predictions, out = self.folder / "predictions", self.folder / "comparison"
        split = "test" if (predictions / "labels_test.csv").is_file() else "val"
        stale = _stale(self.folder, out.name)
        models = find_predictions(predictions, split) if predictions.is_dir() else {}
        models = {name: path for name, path in models.items() if name.partition("_without_")[0] not in stale}
        whole = [name for name in models if "_without_" not in name]
        if not whole:
            print("no model to compare yet", flush=True)
            return {}
        reference = next((name for name in self.references if name in models), whole[-1])
        result = compare_models(
            models,
            predictions / f"labels_{split}.csv",
            out,
            thresholds_from="val" if split == "test" and (predictions / "labels_val.csv").is_file() else None,
            draws=self.draws,
            seed=self.seed,
            reference=reference,
            cases=case_details(self.dataset_dir, split),
            encoders=self._encoders(reference),
            document=self.document,
        )
        with atomic_path(self.folder / SUMMARY) as part:
            shutil.copyfile(out / SUMMARY, part)
        print(f"\n{format_table(result['models'], SHOWN)}\n\n{result['page']}", flush=True)
        return result

    def _encoders(self, model: str) -> StudyEncoders | None:
        """Those of a model, None with a warning where it was not saved."""
        folder = self.folder / "models"
        try:
            return saved_encoders(folder if model in self.references else folder / "baselines" / model)
        except MissingWeights as error:
            logger.warning("where the encoders looked is not shown: %s", error)
            return None


def _stale(run: Path, comparison: str) -> set[str]:
    """Models whose stage has not finished, or finished before a stage that comes before it."""
    stages = {path.parent.name: _read(path).get("model_name") for path in run.glob("*/config.json")}
    stages.pop(comparison, None)  # makes no model
    finished = {name: _read(run / name / "finished.json") for name in stages}
    times = {name: facts.get("finished_at", "") for name, facts in finished.items()}  # ISO text, which sorts
    stale = set()
    for name, model in stages.items():
        before = [times.get(other, "") for other in finished[name].get("after", ())]
        if model is not None and (not times[name] or any(time > times[name] for time in before)):
            stale.add(model)
    return stale


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
