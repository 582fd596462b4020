"""Chest X-rays of a prepared folder with the reports that belong to them, one image for each study."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset

from common.data.case_list import CaseList
from common.data.case_names import unique_texts
from common.data.cxr.cases import FRONTAL, read_cxr_cases
from common.data.cxr.report_context import PreparedReports, context_text
from common.data.datasets.case_loader import write_excluded
from common.data.datasets.features import FeatureDataset
from common.data.virtual.texts import virtual_texts
from common.io.bad_input import BadInput
from common.text.cxr_labeller import CHEXPERT_LABELS
from common.text.difficulty import REGIONS, finding_regions, report_difficulty

__all__ = ["TARGETS", "read_report_cases", "read_report_splits", "report_dataset", "text_cases"]

logger = logging.getLogger("train")

TARGETS = {"findings": ("findings",), "impression": ("impression",), "both": ("findings", "impression")}
"""What a model is to write -> the sections that a report must have for it."""


def read_report_splits(
    dataset_dir: str | os.PathLike[str],
    labels: Sequence[str] = CHEXPERT_LABELS,
    views: Sequence[str] | None = FRONTAL,
    policy: str = "ignore",
    target: str = "findings",
    limit: int | None = None,
    excluded_dir: str | None = None,
    context: Sequence[str] = (),
) -> dict[str, CaseList]:
    """Split ("train", "val", "test") -> its cases, see `read_report_cases`; the policy is for training cases alone.

    What is left out is counted in the log, and with `excluded_dir` listed in its excluded.csv.
    """
    splits = {
        split: read_report_cases(
            dataset_dir, split, labels, views, policy if split == "train" else "ignore", target, limit, context
        )
        for split in ("train", "val", "test")
    }
    excluded = [row for cases in splits.values() for row in cases.excluded]
    if excluded:
        where = "" if excluded_dir is None else f", with reasons in {write_excluded(Path(excluded_dir), excluded)}"
        logger.warning(
            f"{len(excluded)} of {len(excluded) + sum(map(len, splits.values()))} studies are left out{where}"
        )
    return splits


def report_dataset(
    cases: Sequence[Mapping[str, Any]],
    split: str,
    transform: Callable[[dict], dict],
    feature_dir: str | None = None,
) -> Dataset:
    """Cases with their images, or with tokens of them that a frozen encoder made, and their "index".

    Args:
        cases: see `read_report_cases`.
        split: theirs.
        transform: from {"image": path, ...} to {"image": (3, H, W), ...}.
        feature_dir: of the stage of the features, see `common.data.datasets.features.FeatureDataset`; None reads the
            images.

    Raises:
        BadInput: if the features are missing, or of other cases, reports or labels.
    """
    if feature_dir is not None:
        data = FeatureDataset(feature_dir, split)
        names = [name for name in ("case", "report", "context") if name in cases[0]]
        known = [data.columns.get(name) == [case[name] for case in cases] for name in names]
        label = torch.from_numpy(np.stack([case["label"] for case in cases]))
        if not all(known) or not torch.equal(data.vectors["label"].nan_to_num(-9), label.nan_to_num(-9)):
            raise BadInput(
                data.path, "is of other cases, reports or labels, expected those of the data; run its stage again"
            )
        return data
    return Dataset([case | {"index": index} for index, case in enumerate(cases)], transform)


def text_cases(
    n: int, seed: int, labels: Sequence[str], target: str = "findings", context: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Reports of virtual patients without images: `case`, `report`, `label`, `context` as of `read_report_cases`.

    What is not mentioned is 0 and what is uncertain 0.5, as a finding head would say of an image.
    """
    value = {1.0: 1.0, 0.0: 0.0, -1.0: 0.5, None: 0.0}
    return [
        {
            "case": text["case"],
            "report": " ".join(text["sections"][name] for name in TARGETS[target]),
            "label": np.array([value[text["labels"][name]] for name in labels], np.float32),
        }
        | ({"context": context_text(context, text["sections"]["indication"], text["prior"])} if context else {})
        for text in virtual_texts(n, seed)
    ]


def read_report_cases(
    dataset_dir: str | os.PathLike[str],
    split: str | Sequence[str] | None,
    labels: Sequence[str] = CHEXPERT_LABELS,
    views: Sequence[str] | None = FRONTAL,
    policy: str = "ignore",
    target: str = "findings",
    limit: int | None = None,
    context: Sequence[str] = (),
) -> CaseList:
    """The studies of one split that have a report with the section that is asked for, in the order of the manifest.

    Args:
        dataset_dir: a folder that `prepare mimic_cxr|open_i|r2gen` wrote, or its manifest.
        split: see `common.data.cxr.cases.read_cxr_cases`, as are labels, views and policy.
        labels: see there.
        views: see there; of several images of a study the first is taken.
        policy: see there.
        target: one of `TARGETS`.
        limit: take the first so many.
        context: what was known before that a model is given, of `common.data.cxr.report_context.SOURCES`.

    Returns:
        Per study: case, patient, study, split, image, label ((n_labels,) float32, NaN masked), report (the text of the
        sections, with single blanks), regions ((7,) float32, 1 where a finding that it states is seen, see
        `common.text.difficulty`), difficulty (its score), and context if one is asked for. `excluded` lists what is
        left out.

    Raises:
        BadInput: if the manifest names no reports, a file of them is missing, or no case is left.
        ValueError: for an unknown target or policy.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(TARGETS)}")
    path = Path(dataset_dir)
    manifest = path / "manifest.csv" if path.is_dir() else path
    excluded: list[dict[str, str]] = []
    cases = read_cxr_cases(manifest, split, labels, views, policy, excluded=excluded)
    reports = PreparedReports(manifest, context)
    rows = reports.rows
    seen = {case["study"] for case in cases} | {rows[e["path"]]["study"] for e in excluded if e["path"] in rows}
    wanted = [split] if isinstance(split, str) else split
    for row in rows.values():
        if row["study"] not in seen and (wanted is None or row["split"] in wanted):
            seen.add(row["study"])
            excluded.append({"path": row["case"], "reason": f"is of a study without a view {' or '.join(views or ())}"})
    kept, studies = [], set()
    for case in cases:
        if case["study"] in studies:
            continue
        studies.add(case["study"])
        try:
            row = rows[case["case"]]
            text = _target(row["report"], reports.sections(row), target)
        except BadInput as problem:
            excluded.append({"path": case["case"], "reason": problem.reason})
            continue
        found = {region for regions in finding_regions(text).values() for region in regions}
        kept.append(
            {name: case[name] for name in ("case", "patient", "study", "split", "image", "label")}
            | {"report": text, "difficulty": report_difficulty(text).score()}
            | {"regions": np.array([region in found for region in REGIONS], np.float32)}
            | ({"context": reports.context(row)} if context else {})
        )
        if len(kept) == limit:
            break
    if not kept:
        first = f"; the first: {excluded[0]['path']} {excluded[0]['reason']}" if excluded else ""
        raise BadInput(manifest, f"has no report with {target} for split {split}, expected one at least{first}")
    named = zip(kept, unique_texts([case["case"] for case in kept]), strict=True)
    return CaseList([case | {"case": name} for case, name in named], excluded)


def _target(path: str, sections: Mapping[str, str], target: str) -> str:
    """The text that a model is to write of a study whose report has these sections."""
    lacking = [name for name in TARGETS[target] if not sections.get(name, "").strip()]
    if lacking:
        raise BadInput(path, f"has a report without {' and '.join(lacking)}")
    return " ".join(sections[name] for name in TARGETS[target])
