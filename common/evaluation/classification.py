"""`predict` and `evaluate` of a bundle that classifies studies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common.apps.run.bundle import Bundle, resolve
from common.apps.run.remote_paths import takes_urls
from common.data.cxr.inputs import other_views
from common.data.cxr.reader import check_xray
from common.data.manifest import read_manifest
from common.data.modalities import MODALITIES
from common.evaluation.compare_models import compare_models
from common.evaluation.error_attention import StudyEncoders
from common.evaluation.error_cases import case_details
from common.handlers.study_predictions import StudyPredictions
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.io.table import read_columns
from common.networks.weights import missing_weights
from common.visualize.run_summary import build_summary

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

__all__ = ["evaluate_labels", "predict_labels"]

logger = logging.getLogger("predict")

_INPUTS = {"vision": "an X-ray", "text": "a note", "clinical": "clinical values"}


def predict_labels(
    bundle: Bundle, input: str | Path, output_dir: str | Path, ckpt_dir: str | Path | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Classify an X-ray, a folder of them, or the cases of a prepared folder.

    Args:
        bundle: with an inference.json whose `cases` lists items.
        input: as `common.data.cxr.inputs.xray_cases` takes it.
        output_dir: created; gets predictions.csv, CASE.json, CASE.png, of a note CASE_note.html, and excluded.csv.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids of inference.json and their values.

    Returns:
        `outputs` (paths), `cases` and `excluded` (path and reason of images that cannot be used or are of other views,
        and of cases that have none of the network's inputs; also in excluded.csv).

    Raises:
        BadInput: if the input is missing or holds nothing usable.
        MissingWeights: without weights.
    """
    values = {"input": str(input), "output_dir": str(output_dir)} | dict(overrides)
    config = bundle.config("inference", ckpt_dir=ckpt_dir, overrides=values)
    _check_weights(config)
    cases, modalities = resolve(config, "cases", "modalities")
    usable, excluded = [], []
    for case in tqdm(cases, desc="check", unit="case"):
        try:
            _check_inputs(case, modalities)
            usable.append(case)
        except BadInput as error:
            excluded.append({"path": str(case["image"] or case["case"]), "reason": error.reason})
            logger.warning("excluded: %s", error)
    if not usable:
        raise BadInput(input, f"holds no usable case, the first of {len(cases)}: {excluded[0]['reason']}")
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    dataset, results = resolve(config, "dataset", "results")
    good = {id(case) for case in usable}
    dataset.keep([i for i, case in enumerate(cases) if id(case) in good])
    resolve(config, "initialize", "run")
    excluded += _other_views(config)
    _write_excluded(Path(output_dir), excluded)
    return {"outputs": results.written, "cases": len(usable), "excluded": excluded}


@takes_urls(reads=["input", "ckpt_dir"], writes=["output_dir"])
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
        output_dir: created; gets the predictions, what `compare_models` writes, and excluded.csv with the images of
            other views than the network's.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids of inference.json and their values.
        draws: of the bootstrap.

    Returns:
        As `compare_models`, `excluded` (path and reason), and `metrics`: a row per model.

    Raises:
        BadInput: if the input was not prepared, has no test case, or lacks a label of the network.
        MissingWeights: without weights.
    """
    if not (Path(input) / "manifest.csv").is_file():
        raise BadInput(input, "holds no manifest.csv, expected a folder that prepare wrote")
    out = Path(output_dir)
    splits = _splits(Path(input))
    config, excluded = None, []
    for split in splits:
        values = {"input": str(input), "output_dir": str(out), "split": split} | dict(overrides or {})
        config = bundle.config("inference", ckpt_dir=ckpt_dir, overrides=values)
        _check_weights(config)
        _check_labels(Path(input) / "manifest.csv", *resolve(config, "labels"))
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
        excluded += _other_views(config)
    _write_excluded(out, excluded)
    models = ("model", *(f"model_without_{name}" for name in drop))  # other files are not of this evaluation
    (tokenizer,) = resolve(config, "tokenizer")
    total = sum(p.numel() for p in network.parameters())
    summary = build_summary(
        bundle=bundle.name, scale="evaluate", seed=config["seed"], data=str(input), stages=[], baselines={},
        parameters={"total": total, "trainable": 0},
    )  # fmt: skip
    result = compare_models(
        {name: out / "predictions" / f"{name}_{splits[-1]}.csv" for name in models},
        out / "predictions" / f"labels_{splits[-1]}.csv", out,
        thresholds_from="val" if splits == ["val", "test"] else None, draws=draws, seed=config["seed"],
        reference="model", cases=case_details(input, splits[-1]), summary=summary,
        encoders=StudyEncoders(network.vision, network.text, tokenizer),
    )  # fmt: skip
    return result | {"metrics": result["models"], "not_run": {}, "excluded": excluded}


def _check_weights(config: ConfigParser) -> None:
    """Say so before anything else is missed."""
    path = Path(config["ckpt_dir"]) / "model.pt"
    if not path.is_file():
        raise missing_weights(f"{path} does not exist", *resolve(config, "make_weights"))


def _check_inputs(case: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Refuse a case without any input of the network, which would answer all the same, and an X-ray that is none."""
    has = {"vision": case["image"], "text": (case["note"] or "").strip() or None, "clinical": case["clinical"]}
    if all(has[name] is None for name in modalities):
        expected = " or ".join(_INPUTS[name] for name in modalities)
        raise BadInput(case["case"], f"has no input of this network, expected {expected}")
    if "vision" in modalities and case["image"] is not None:
        check_xray(case["image"], deep=True)


def _check_labels(manifest: Path, labels: Sequence[str]) -> None:
    columns = read_columns(manifest)
    lacking = [name for name in labels if name not in columns]
    if lacking:
        raise BadInput(manifest, f"has no column {lacking[0]!r}, expected every label of the network")


def _other_views(config: ConfigParser) -> list[dict[str, str]]:
    found = other_views(*resolve(config, "input", "split", "views"))
    if found:
        logger.warning("%d images of other views are left out, the first %s", len(found), " ".join(found[0].values()))
    return found


def _write_excluded(folder: Path, excluded: Sequence[Mapping[str, str]]) -> None:
    if excluded:
        write_text(folder / "excluded.csv", csv_text(("path", "reason"), excluded))
    else:  # that of an earlier call would be taken for this one's
        (folder / "excluded.csv").unlink(missing_ok=True)


def _splits(folder: Path) -> list[str]:
    found = {row["split"] for row in read_manifest(folder)}
    return [split for split in ("val", "test") if split in found] or sorted(found)[:1]
