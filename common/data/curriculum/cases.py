"""The curriculum of a model that answers questions about X-rays and records, as cases of a training."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset
from torch.utils.data import Dataset as TorchDataset

from common.data.curriculum.reader import read_curriculum
from common.data.curriculum.rows import study_rows
from common.data.curriculum.steps import run_steps
from common.data.datasets.features import FeatureDataset
from common.data.ehr.mimic_iv import Study, read_contexts
from common.data.ehr.record import ehr_record
from common.data.virtual.ehr import write_virtual_ehr
from common.data.virtual.study import virtual_study
from common.data.virtual.texts import virtual_texts
from common.io.bad_input import BadInput, read_text
from common.io.output_folder import write_text
from common.text.reasoning import ehr_lines

__all__ = [
    "CurriculumStage", "answer_dataset", "curriculum_cases", "curriculum_images", "curriculum_splits",
    "text_curriculum",
]  # fmt: skip

logger = logging.getLogger("train")

SPLITS = ("train", "val", "test")


def curriculum_cases(
    folder: str | os.PathLike[str], split: str, stage: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Cases of one split.

    Args:
        folder: with `curriculum_SPLIT.jsonl`, see `common.data.curriculum.steps`.
        split: "train", "val" or "test".
        stage: "a" or "b"; None takes both.
        limit: take the first so many.

    Returns:
        Per row: case (its id), stage, lines (`common.text.reasoning.EHRLine` of the record that the question tells,
        None where it tells none), answer, impression, labels, icd, ehr, patient, study, split, image.

    Raises:
        BadInput: as `read_curriculum`.
    """
    return [_case(row) for row in read_curriculum(folder, split, stage, limit)]


def curriculum_splits(
    folder: str | os.PathLike[str], stage: str, limit: int | None = None, rehearse: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Split -> its cases of a stage, see `curriculum_cases`; with `rehearse` training has those of the other, too."""
    return {
        split: curriculum_cases(folder, split, None if rehearse and split == "train" else stage, limit)
        for split in SPLITS
    }


def curriculum_images(folder: str | os.PathLike[str]) -> dict[str, list[dict[str, str]]]:
    """Split -> its images, each once, for features of them: `case`, its path, and `image`."""
    found: dict[str, list[dict[str, str]]] = {}
    for split in SPLITS:
        images = dict.fromkeys(case["image"] for case in curriculum_cases(folder, split))
        found[split] = [{"case": image, "image": image} for image in images]
    return found


def _case(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("stage", "impression", "labels", "icd", "ehr", "patient", "study", "split", "image")
    return {name: row[name] for name in names} | {
        "case": row["id"],
        "lines": None if row["ehr"] is None else ehr_lines(row["ehr"]),
        "answer": row["conversations"][1]["value"],
    }


def answer_dataset(
    cases: Sequence[Mapping[str, Any]],
    split: str,
    transform: Callable[[dict], dict],
    feature_dir: str | None = None,
    weights: Sequence[float] | None = None,
) -> TorchDataset:
    """Cases with their "image", or with "tokens" of it that a frozen tower made, their "index" and "weight".

    Args:
        cases: see `curriculum_cases`.
        split: theirs.
        transform: from {"image": path, ...} to {"image": (3, H, W), ...}.
        feature_dir: of the stage of the features, see `common.data.datasets.features.FeatureDataset`; None reads the
            images.
        weights: of the cases in the loss; None leaves them out.

    Raises:
        BadInput: if the features lack the image of a case.
    """
    items = [case | {"index": index} for index, case in enumerate(cases)]
    if weights is not None:
        items = [item | {"weight": weight} for item, weight in zip(items, weights, strict=True)]
    if feature_dir is None:
        return Dataset(items, transform)
    return _WithTokens(items, FeatureDataset(feature_dir, split))


class _WithTokens(TorchDataset):
    """Cases with the tokens of their image, read one by one."""

    def __init__(self, items: Sequence[Mapping[str, Any]], features: FeatureDataset) -> None:
        self.items, self.features = items, features
        self.place = {image: i for i, image in enumerate(features.columns["case"])}
        lacking = [item["case"] for item in items if item["image"] not in self.place]
        if lacking:
            raise BadInput(features.path, f"has no image of case {lacking[0]}, expected those of the curriculum; run "
                           "its stage again")  # fmt: skip

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[range(len(self))[index]]
        tokens = self.features[self.place[item["image"]]]["tokens"]
        return {name: value for name, value in item.items() if name != "image"} | {"tokens": tokens}


class CurriculumStage:
    """The stage that makes the curriculum of a run, by all steps of `common.data.curriculum.steps`.

    Args:
        dataset_dir: a prepared folder, whose input is read; or that of virtual patients, which is read itself.
        curriculum_dir: where it is written; a folder outside of `output_dir` that holds one is used as it is.
        output_dir: folder of the run.
        options: of the steps.
        stage: its folder in that of the run.
    """

    def __init__(
        self, dataset_dir: str, curriculum_dir: str, output_dir: str, options: Mapping[str, Any],
        stage: str = "curriculum",
    ) -> None:  # fmt: skip
        self.dataset_dir, self.curriculum_dir = Path(dataset_dir), Path(curriculum_dir)
        self.output_dir, self.options, self.stage = Path(output_dir), dict(options), stage

    def run(self) -> None:
        """Make it, and write what there is of each stage and split into history.json.

        Raises:
            BadInput: as the steps, or if the prepared folder does not say what it was made of.
        """
        begin = time.perf_counter()
        own = self.curriculum_dir.resolve().is_relative_to(self.output_dir.resolve())
        if own or not (self.curriculum_dir / "curriculum_train.jsonl").is_file():
            run_steps(self._source(), self.curriculum_dir, "all", **self.options)
        rows = [case for split in SPLITS for case in curriculum_cases(self.curriculum_dir, split)]
        counts = Counter((case["split"], case["stage"]) for case in rows)
        metrics = {f"{split}_{stage}": counts[split, stage] for split in SPLITS for stage in ("a", "b")}
        metrics["patients"] = len({case["patient"] for case in rows})
        note = f"{self.stage}: {len(rows)} rows of {metrics['patients']} patients, " + ", ".join(
            f"{n} {split} {stage}" for (split, stage), n in sorted(counts.items())
        )
        logger.info(note)
        folder = self.output_dir / self.stage
        folder.mkdir(parents=True, exist_ok=True)
        history = {"stage": self.stage, "seconds": time.perf_counter() - begin, "iterations": [], "validations": []}
        write_text(folder / "history.json", json.dumps(history | {"metrics": metrics, "notes": [note]}) + "\n")

    def _source(self) -> Path:
        path = self.dataset_dir / "prepare.json"
        try:
            facts = json.loads(read_text(path, "what a folder was prepared from"))
            layout, source = facts["layout"], facts["input"]
        except (ValueError, LookupError, TypeError) as error:
            raise BadInput(path, "does not tell layout and input, expected what prepare writes") from error
        if layout != "mimic_cxr":
            raise BadInput(path, f"is of the layout {layout}, expected mimic_cxr")
        return self.dataset_dir if source == "virtual" else Path(source)


def text_curriculum(n: int, seed: int, n_val: int) -> dict[str, list[dict[str, Any]]]:
    """Cases of virtual people without images, for a language model that is to read before it sees.

    What an image would show is told in words, `seen`: the labels that its report has.

    Args:
        n: people of the split "train".
        seed: of the first; others than those of patients with images must be taken.
        n_val: people of the split "val".

    Returns:
        Split -> cases as `curriculum_cases` gives them, of both stages where the stay has diagnoses.
    """
    texts = list(virtual_texts(n + n_val, seed))
    studies = [virtual_study(seed + i) for i in range(n + n_val)]
    labels = {study.study_id: text["labels"] for study, text in zip(studies, texts, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        hosp, ed = Path(folder, "mimic-iv"), Path(folder, "mimic-iv-ed")
        write_virtual_ehr(hosp, ed, studies, labels)
        read = read_contexts(hosp, ed, [Study(s.subject_id, s.study_id, s.study_time) for s in studies])
    cases: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for i, (study, text) in enumerate(zip(studies, texts, strict=True)):
        record = ehr_record(read.contexts[study.study_id], read.targets.get(study.study_id))
        known = {name: value for name, value in text["labels"].items() if value is not None}
        split = "train" if i < n else "val"
        own = {"study": f"s{study.study_id}", "patient": str(study.subject_id), "split": split, "image": ""}
        own |= {"impression": text["sections"]["impression"], "labels": known, "ehr": record}
        seen = "; ".join(name for name, value in known.items() if value in (1.0, -1.0))
        # Questions about the image alone are short of one and the same form: fewer of them do.
        for row in study_rows(own)[0 if i % 3 == 0 else 1 :]:
            cases[split].append(_case(row) | {"image": None, "seen": seen})
    return cases
