"""How well a network answers questions about an image and a record, beside what is said without one of them."""

from __future__ import annotations

import math
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.data.ehr.icd import ICD_GROUPS
from common.evaluation.answer_page import answer_page
from common.evaluation.evaluation import Evaluation, Measured
from common.io.bad_input import BadInput
from common.metrics.report.bleu import bleu
from common.metrics.report.corpus_metric import CorpusMetric
from common.metrics.report.finding_f1 import CHEXPERT_5, finding_f1, icd_f1
from common.metrics.report.rouge import rouge_l
from common.metrics.report.text import clean_report
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr
from common.text.reasoning import evidence
from common.text.report_answers import Answer, parse_answer

__all__ = ["AnswerEvaluation"]

_MODEL, _NO_RECORD, _OTHER_RECORD = "model", "model, no EHR", "model, EHR of another patient"
_SHUFFLED = "model, image of another patient"
_FEWEST = 20  # patients from which on an interval is told
_EXAMPLES = 8


class AnswerEvaluation(Evaluation):
    """Scores what a network answers of the test split, and what simple methods do.

    Of each form of answers that the cases have ("a": findings of an image; "b": reasoning and diagnoses from an image
    and a record): the model as it is, without the record, with that of another patient, and with the image of another
    one; the most frequent answer of the training split; the answer of the training image whose tokens are nearest; and
    for findings and diagnoses a logistic regression on the image's tokens and the values of the record.

    An answer that does not parse counts as nothing said, and is counted.

    Args:
        input: the folder of the curriculum, for the name of the data.
        cases: of all splits, see `common.data.curriculum.cases.curriculum_cases`.
        dataset: of these cases, with "image" or "tokens".
        collate_fn: makes a batch with the questions alone.
        batch_size: of it.
        network: a `common.llm.answer_model.AnswerModel`.
        prepare_batch: as of an evaluator.
        inferer: `common.inferers.answer_inferer.AnswerInferer`.
        device: where it runs.
        draws: of the bootstrap over patients.
        seed: of the bootstrap and of what is random.
        goals: rows of others' figures or goals, each with "system", "made" (how) and some of the columns.
    """

    def __init__(
        self,
        input: str | os.PathLike[str],
        cases: Sequence[Mapping[str, Any]],
        dataset: Dataset,
        collate_fn: Callable,
        batch_size: int,
        network: nn.Module,
        prepare_batch: Callable,
        inferer: Callable,
        device: torch.device | str,
        draws: int = 1000,
        seed: int = 0,
        goals: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.input, self.cases, self.dataset = Path(input), list(cases), dataset
        self.collate_fn, self.batch_size = collate_fn, batch_size
        self.network, self.prepare_batch, self.inferer, self.device = network.eval(), prepare_batch, inferer, device
        self.draws, self.seed, self.goals = draws, seed, list(goals)

    def run(self, output_dir: Path) -> Measured:
        """Answer the cases of the test split, or of validation where there is none."""
        splits = {case["split"] for case in self.cases}
        split = next((name for name in ("test", "val", "train") if name in splits), None)
        if split is None:
            raise BadInput(self.input, "holds no case")
        rows: list[dict[str, Any]] = []
        each: list[dict[str, Any]] = []
        for form in ("a", "b"):
            chosen = self._of(split, form)
            if not chosen:
                continue
            systems = self._systems(chosen, form)
            scores = {name: _Scores(said, self._cases(chosen), form) for name, said in systems.items()}
            for name, score in scores.items():
                rows.append({"answers": form, "system": name, "split": split, "cases": len(chosen)} | score.figures())
                rows[-1] |= self._differences(scores[_MODEL], score) if name != _MODEL else {}
            each += scores[_MODEL].rows()
        images = [(row, self._image(row["case"])) for row in _worst(each)[:_EXAMPLES]]
        return Measured(
            {
                "metrics": each,
                "metrics_mean": rows + [{"system": g["system"], "split": "goal"} | g for g in self.goals],
            },
            result=[{k: v for k, v in row.items() if k not in ("split", *_HIDDEN)} for row in rows],
            cases=len({row["case"] for row in each}),
            data=str(self.input),
            parameters={
                "total": sum(p.numel() for p in self.network.parameters()),
                "trainable": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            },
            baselines={f"{r['answers']}: {r['system']}": r["micro_f1"] for r in rows if r["system"] != _MODEL},
            page=answer_page(rows, self.goals, images),
            number_format=".4f",
        )

    def _of(self, split: str, form: str) -> list[int]:
        return [i for i, case in enumerate(self.cases) if case["split"] == split and case["stage"] == form]

    def _cases(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        return [self.cases[i] for i in indices]

    def _systems(self, chosen: list[int], form: str) -> dict[str, list[str | Answer]]:
        """Name of a method -> what it says of each case."""
        cases, other = self._cases(chosen), _other_patients(self._cases(chosen), self.seed)
        systems: dict[str, list[str | Answer]] = {_MODEL: self._answers(chosen)}
        if form == "b":
            systems[_NO_RECORD] = self._answers(chosen, lines=[None] * len(chosen))
            systems[_OTHER_RECORD] = self._answers(chosen, lines=[cases[j]["lines"] for j in other])
        systems[_SHUFFLED] = self._answers(chosen, images=[chosen[j] for j in other])
        train = self._of("train", form)
        if not train:
            return systems
        known = [self.cases[i]["answer"] for i in train]
        systems["most frequent answer"] = [Counter(known).most_common(1)[0][0]] * len(chosen)
        features, of_train = self._features(chosen), self._features(train)
        nearest = (features @ of_train.T).argmax(1).tolist()
        systems["nearest training image"] = [known[i] for i in nearest]
        systems["logistic regression"] = _regression(
            of_train.numpy(), self._cases(train), features.numpy(), cases, form, self.seed
        )
        return systems

    def _answers(
        self, chosen: Sequence[int], lines: Sequence[Any] | None = None, images: Sequence[int] | None = None
    ) -> list[str]:
        """What the model answers, with other records or the images of other cases if some are given."""
        said: list[str] = []
        for start in range(0, len(chosen), self.batch_size):
            places = range(start, min(start + self.batch_size, len(chosen)))
            items = []
            for k in places:
                seen = self.dataset[chosen[k] if images is None else images[k]]
                item = {name: seen[name] for name in ("image", "tokens") if name in seen}
                case = self.cases[chosen[k]]
                item |= {"case": case["case"], "stage": case["stage"]}
                items.append(item | {"lines": case["lines"] if lines is None else lines[k]})
            inputs, _, _, given = self.prepare_batch(self.collate_fn(items), self.device)
            said += self.inferer(inputs, self.network, **given).texts
        return said

    @torch.no_grad()
    def _features(self, chosen: Sequence[int]) -> Tensor:
        """(N, d) unit vectors of images: the mean of their tokens."""
        found = []
        for start in range(0, len(chosen), self.batch_size):
            items = [self.dataset[i] for i in chosen[start : start + self.batch_size]]
            if "tokens" in items[0]:
                tokens = torch.stack([item["tokens"] for item in items])
            else:
                images = torch.stack([torch.as_tensor(item["image"]).as_subclass(Tensor) for item in items])
                tokens = self.network.tokens(images.to(self.device))[1]
            found.append(tokens.float().mean(1).cpu())
        return nn.functional.normalize(torch.cat(found), dim=1)

    def _differences(self, model: _Scores, other: _Scores) -> dict[str, float]:
        """The model's micro-F1 above that of another method, with its interval over patients."""
        patients = [case["patient"] for case in model.cases]
        a, b = model.micro, other.micro
        width = a.columns.shape[1]
        both = CorpusMetric(
            ("difference",),
            np.hstack([a.columns, b.columns]),
            lambda sums: (a.score(sums[..., :width]) - b.score(sums[..., width:]))[..., :1],
        )
        row = {"model_minus": both.value()["difference"]}
        if len(set(patients)) < _FEWEST or math.isnan(row["model_minus"]):
            return row
        between = both.intervals(self.draws, seed=self.seed, groups=patients)["difference"]
        return row | {"model_minus_low": between.low, "model_minus_high": between.high}

    def _image(self, name: str) -> np.ndarray | None:
        """The image of a case as the network gets it, for a picture; None where only tokens of it are there."""
        item = self.dataset[next(i for i, case in enumerate(self.cases) if case["case"] == name)]
        return np.asarray(torch.as_tensor(item["image"]).as_subclass(Tensor))[0] if "image" in item else None


_HIDDEN = ("bleu_4", "macro_f1", "micro_f1_5", "agreement", "impression_micro_f1")
"""Columns that only the table on the page has."""


class _Scores:
    """Answers of a method scored against the truth of their cases."""

    def __init__(self, said: Sequence[str | Answer], cases: Sequence[Mapping[str, Any]], form: str) -> None:
        self.cases, self.form = cases, form
        self.texts = [text if isinstance(text, str) else None for text in said]
        found = [parse_answer(text, form) if isinstance(text, str) else text for text in said]
        self.valid = [answer is not None for answer in found]
        self.answers = [answer or Answer("", {}, (), ()) for answer in found]
        self.true = [_all(case["labels"]) for case in cases]
        read = [label_cxr(answer.impression) if answer.impression else _all({}) for answer in self.answers]
        self.read = [{name: labels.get(name) for name in CHEXPERT_LABELS} for labels in read]
        if form == "a":
            self.named = [_all(answer.labels) for answer in self.answers]
            self.f1 = finding_f1(self.named, self.true, CHEXPERT_LABELS)
        else:
            self.f1 = icd_f1([answer.icd for answer in self.answers], [case["icd"] for case in cases])

    @property
    def micro(self) -> CorpusMetric:
        """Micro-F1 alone."""
        i = self.f1.names.index("micro_f1")
        return CorpusMetric(("micro_f1",), self.f1.columns, lambda sums: self.f1.score(sums)[..., i : i + 1])

    def figures(self) -> dict[str, float]:
        """The row of the method."""
        pairs = [
            [clean_report(a.impression) for a in self.answers],
            [clean_report(c["impression"]) for c in self.cases],
        ]
        row: dict[str, float] = {}
        if None not in self.texts:
            row |= {"valid": sum(self.valid) / len(self.valid), "bleu_4": bleu(*pairs).value()["bleu_4"]}
            row["rouge_l"] = rouge_l(*pairs).value()["rouge_l"]
        value = self.f1.value()
        row |= {"micro_f1": value["micro_f1"], "macro_f1": value["macro_f1"]}
        if self.form == "a":
            row["micro_f1_5"] = finding_f1(self.named, self.true, CHEXPERT_5).value()["micro_f1"]
        if None not in self.texts:
            row["impression_micro_f1"] = finding_f1(self.read, self.true, CHEXPERT_LABELS).value()["micro_f1"]
            if self.form == "a":  # of the labels that either names as present
                named = finding_f1(self.named, self.read, CHEXPERT_LABELS).value()["micro_f1"]
                row["agreement"] = named
            else:
                row |= self._evidence()
        return row

    def _evidence(self) -> dict[str, float]:
        """Of the values in the reasoning, the share that the question told, and of those the share that is right."""
        counts = [
            evidence(answer.reasoning, [line.text for line in case["lines"] or ()])
            for answer, case in zip(self.answers, self.cases, strict=True)
        ]
        told, there, right = (sum(column) for column in zip(*counts, strict=True))
        shares = {
            "values_in_ehr": there / told if told else math.nan,
            "values_right": right / there if there else math.nan,
        }
        return {"values_told": told / len(counts)} | shares

    def rows(self) -> list[dict[str, Any]]:
        """A row per case."""
        f1 = self.f1.per_report()[:, self.f1.names.index("micro_f1")]
        return [
            {"case": case["case"], "answers": self.form, "valid": valid, "micro_f1": float(value)}
            | {"impression": answer.impression, "reference": case["impression"], "said": text, "truth": case["answer"]}
            | {"ehr": "; ".join(line.text for line in case["lines"] or ())}
            for case, valid, value, answer, text in zip(
                self.cases, self.valid, f1, self.answers, self.texts, strict=True
            )
        ]


def _all(labels: Mapping[str, float]) -> dict[str, float | None]:
    return {name: labels.get(name) for name in CHEXPERT_LABELS}


def _worst(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Failures first: answers that do not parse, then the least right ones."""
    return sorted(rows, key=lambda row: (row["valid"], -1 if math.isnan(row["micro_f1"]) else row["micro_f1"]))


def _other_patients(cases: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
    """For each case the place of one of another patient, the next in a random order; its own if there is none."""
    order = list(range(len(cases)))
    random.Random(seed).shuffle(order)
    found = list(range(len(cases)))
    for place, i in enumerate(order):
        following = order[place + 1 :] + order[:place]
        found[i] = next((j for j in following if cases[j]["patient"] != cases[i]["patient"]), i)
    return found


def _regression(
    train: np.ndarray, known: Sequence[Mapping[str, Any]], test: np.ndarray, cases: Sequence[Mapping[str, Any]],
    form: str, seed: int,
) -> list[Answer]:  # fmt: skip
    """Findings ("a") or diagnoses ("b") by one logistic regression each, on image features and values of the record."""
    names = CHEXPERT_LABELS if form == "a" else tuple(ICD_GROUPS)
    x, y = (np.hstack([features, _values(rows, known)]) for features, rows in ((train, known), (test, cases)))
    said = np.zeros((len(cases), len(names)), bool)
    for column, name in enumerate(names):
        true = np.array([_has(case, name, form) for case in known])
        if true.all() or not true.any():
            said[:, column] = true[0]
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight="balanced", random_state=seed)
            ).fit(x, true)
        said[:, column] = model.predict(y)
    chosen = [[name for name, there in zip(names, row, strict=True) if there] for row in said]
    return [
        Answer("", dict.fromkeys(row, 1.0) if form == "a" else {}, (), () if form == "a" else tuple(row))
        for row in chosen
    ]


def _has(case: Mapping[str, Any], name: str, form: str) -> bool:
    return case["labels"].get(name) in (1.0, -1.0) if form == "a" else name in case["icd"]


def _values(rows: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(N, 2 k) values of the records, the mean of `known` where one is missing, and whether it is there."""
    records = [[_numbers(case["ehr"]) for case in cases] for cases in (rows, known)]
    names = sorted({name for record in records[1] for name in record})
    values = np.array([[record.get(name, math.nan) for name in names] for record in records[0]])
    usual = np.array([np.mean([r[name] for r in records[1] if name in r]) for name in names])
    there = ~np.isnan(values)
    return np.hstack([np.where(there, values, usual), there]).astype(float).reshape(len(rows), -1)


def _numbers(record: Mapping[str, Any] | None) -> dict[str, float]:
    """Name -> number of a record; what is chronic is 1."""
    if record is None:
        return {}
    found = {row["name"]: float(row["value"]) for kind in ("vitals", "labs") for row in record[kind]}
    found |= {"age": float(record["age"])} if record.get("age") is not None else {}
    found |= {"female": float(record["sex"] == "F")} if record.get("sex") else {}
    return found | dict.fromkeys(record["chronic_conditions"], 1.0)
