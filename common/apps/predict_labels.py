"""`predict` and `evaluate` of a bundle that classifies studies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.apps.bundle import Bundle, resolve
from common.apps.compare_models import compare_models
from common.apps.error_cases import case_details
from common.data.bad_input import BadInput
from common.data.manifest import read_manifest
from common.data.modalities import MODALITIES
from common.data.output_folder import csv_text, write_text
from common.data.xray_reader import check_xray
from common.handlers.study_predictions import StudyPredictions
from common.networks.mdfnet import MAKE_WEIGHTS
from common.networks.slice_interpolator import MissingWeights
from common.visualize.run_summary import build_summary

__all__ = ["evaluate_labels", "predict_labels"]

logger = logging.getLogger("predict")


def predict_labels(
    bundle: Bundle, input: str | Path, output_dir: str | Path, ckpt_dir: str | Path | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Classify an X-ray, a folder of them, or the cases of a prepared folder.

    Args:
        bundle: with an inference.json whose `cases` lists items.
        input: as `common.data.cxr_inputs.xray_cases` takes it.
        output_dir: created; gets predictions.csv, CASE.json and CASE.png.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids of inference.json and their values.

    Returns:
        `outputs` (paths), `cases` and `excluded` (path and reason of images that cannot be used, also in excluded.csv).

    Raises:
        BadInput: if the input is missing or holds nothing usable.
        MissingWeights: without weights.
    """
    values = {"input": str(input), "output_dir": str(output_dir)} | dict(overrides)
    config = bundle.config("inference", ckpt_dir=ckpt_dir, overrides=values)
    _check_weights(config["ckpt_dir"])
    (cases,) = resolve(config, "cases")
    usable, excluded = [], []
    for case in tqdm(cases, desc="check", unit="case"):
        try:
            if case["image"] is not None:
                check_xray(case["image"], deep=True)
            elif not (case["note"] or "").strip() and case["clinical"] is None:
                raise BadInput(case["case"], "has neither an X-ray nor a note nor a value, expected one of them")
            usable.append(case)
        except BadInput as error:
            excluded.append({"path": str(case["image"] or case["case"]), "reason": error.reason})
            logger.warning("excluded: %s", error)
    if not usable:
        raise BadInput(input, f"holds no usable X-ray, the first of {len(cases)}: {excluded[0]['reason']}")
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    dataset, results = resolve(config, "dataset", "results")
    good = {id(case) for case in usable}
    dataset.keep([i for i, case in enumerate(cases) if id(case) in good])
    resolve(config, "initialize", "run")
    if excluded:
        write_text(Path(output_dir) / "excluded.csv", csv_text(("path", "reason"), excluded))
    return {"outputs": results.written, "cases": len(usable), "excluded": excluded}


def evaluate_labels(
    bundle: Bundle,
    input: str | Path,
    output_dir: str | Path,
    ckpt_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    draws: int = 1000,
) -> dict[str, Any]:
    """Score a trained network on the test split of prepared data, and without each modality in turn.

    Thresholds are chosen on the validation split where there is one.

    Args:
        bundle: with an inference.json.
        input: a folder that `prepare mimic_cxr|covid|nih` wrote.
        output_dir: created; gets the predictions and what `compare_models` writes.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids of inference.json and their values.
        draws: of the bootstrap.

    Returns:
        As `compare_models`, and `metrics`: a row per model.

    Raises:
        BadInput: if the input was not prepared, or has no test case.
        MissingWeights: without weights.
    """
    if not (Path(input) / "manifest.csv").is_file():
        raise BadInput(input, "holds no manifest.csv, expected a folder that prepare wrote")
    out = Path(output_dir)
    splits = _splits(Path(input))
    config = None
    for split in splits:
        values = {"input": str(input), "output_dir": str(out), "split": split} | dict(overrides or {})
        config = bundle.config("inference", ckpt_dir=ckpt_dir, overrides=values)
        _check_weights(config["ckpt_dir"])
        network, loader, prepare, inferer, labels, device, modalities = resolve(
            config, "network", "dataloader", "evaluator#prepare_batch", "inferer", "labels", "device", "modalities"
        )
        drop = modalities if len(modalities) > 1 else []
        StudyPredictions(
            str(out / "predictions"),
            "model",
            labels,
            network,
            {split: loader},
            prepare,
            inferer,
            device,
            MODALITIES,
            drop,
        )()
    total = sum(p.numel() for p in network.parameters())
    summary = build_summary(
        bundle=bundle.name, scale="evaluate", seed=config["seed"], data=str(input), stages=[], baselines={},
        parameters={"total": total, "trainable": 0},
    )  # fmt: skip
    result = compare_models(
        out / "predictions", out / "predictions" / f"labels_{splits[-1]}.csv", out,
        thresholds_from="val" if splits == ["val", "test"] else None, draws=draws, seed=config["seed"],
        reference="model", cases=case_details(input, splits[-1]), summary=summary,
    )  # fmt: skip
    return result | {"metrics": result["models"], "not_run": {}}


def _check_weights(ckpt_dir: str) -> None:
    """Say so before anything else is missed."""
    if not (Path(ckpt_dir) / "model.pt").is_file():
        raise MissingWeights(
            f"{Path(ckpt_dir) / 'model.pt'} does not exist; make it with {MAKE_WEIGHTS}, then --ckpt_dir RUN/models"
        )


def _splits(folder: Path) -> list[str]:
    found = {row["split"] for row in read_manifest(folder)}
    return [split for split in ("val", "test") if split in found] or sorted(found)[:1]
