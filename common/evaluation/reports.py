"""How well a network writes reports, beside what is written without looking at the image."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from common.data.case_list import CaseList
from common.data.datasets.case_loader import CaseLoader
from common.evaluation.evaluation import Evaluation, Measured
from common.evaluation.report_page import report_page
from common.io.bad_input import BadInput
from common.metrics.report.corpus_metric import CorpusMetric
from common.metrics.report.metrics import Metrics, read_labels, report_kind, report_metrics
from common.metrics.report.text import clean_report

__all__ = ["ReportEvaluation"]

SHOWN = {
    "bleu_1": "cleaned.bleu_1",
    "bleu_2": "cleaned.bleu_2",
    "bleu_3": "cleaned.bleu_3",
    "bleu_4": "cleaned.bleu_4",
    "meteor_exact_stem": "cleaned.meteor_exact_stem",
    "rouge_l": "cleaned.rouge_l",
    "cider": "cleaned.cider",
    "micro_f1_14": "labels.uncertain_positive.micro_f1_14",
    "macro_f1_14": "labels.uncertain_positive.macro_f1_14",
    "micro_f1_5": "labels.uncertain_positive.micro_f1_5",
}
"""Column of the table -> metric, see `common.metrics.report.metrics`."""
_INTERVALS = ("bleu_4", "rouge_l", "micro_f1_14")
_FEWEST = 20  # patients from which on a difference is tested
_EXAMPLES = 8
_RESULT = ("system", "cases", "bleu_4", "rouge_l", "cider", "micro_f1_14", "micro_f1_14_low", "micro_f1_14_high",
           "micro_f1_14_p", "distinct_reports")  # fmt: skip
_MODEL, _SHUFFLED = "model", "model, images shuffled"


class ReportEvaluation(Evaluation):
    """Scores the reports that a network writes of the test split, and those of simple methods.

    Beside it stand the most frequent report of the training split, a random one, that of the training image whose
    encoder features are nearest, what the finding head says put into sentences, and the network's own reports of
    other patients' images (shuffled), which tells language from vision; of one that reads a
    context also what it writes without. What needs a training split is left out, with
    a word, where the data have none.

    Args:
        input: a folder that `prepare` wrote, for the name of the data.
        cases: of all its splits, with `report`, `split` and `patient`.
        dataset: of these cases.
        collate_fn: makes a batch.
        batch_size: of it.
        network: a `common.llm.report_model.ReportModel` with its image encoder.
        prepare_batch: as of an evaluator.
        inferer: writes the reports, `common.inferers.report_inferer.ReportInferer`.
        device: where it runs.
        labels: names of the findings in the order of the outputs.
        sentences: labels (1.0 or None) and a seed -> a report that says them; None leaves out that method.
        kind: of the reports, see `common.metrics.report.metrics.KINDS`.
        draws: of the bootstrap over patients.
        seed: of the bootstrap and of what is random.
        published: rows of others' figures, each with "system", "made" (how) and some of the columns.
    """

    def __init__(
        self,
        input: str | os.PathLike[str],
        cases: CaseList,
        dataset: Any,
        collate_fn: Callable,
        batch_size: int,
        network: nn.Module,
        prepare_batch: Callable,
        inferer: Callable,
        device: torch.device | str,
        labels: Sequence[str],
        sentences: Callable[[Mapping[str, float | None], int], str] | None = None,
        kind: str = "cxr",
        draws: int = 1000,
        seed: int = 0,
        published: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        report_kind(kind)
        self.input, self.cases, self.dataset = Path(input), cases, dataset
        self.collate_fn, self.batch_size = collate_fn, batch_size
        self.network, self.prepare_batch, self.inferer, self.device = network, prepare_batch, inferer, device
        self.labels, self.sentences, self.kind, self.draws, self.seed = tuple(labels), sentences, kind, draws, seed
        self.published = list(published)

    def run(self, output_dir: Path) -> Measured:
        """Write the reports of validation and test, and score those of the test split (the last one that there is)."""
        there = [split for split in ("val", "test") if any(case["split"] == split for case in self.cases)]
        there = there or [self.cases[0]["split"]]
        excluded = list(self.cases.excluded)
        rows: list[dict[str, Any]] = []
        each: list[dict[str, Any]] = []
        for split in there:
            found = self._write(split, excluded)
            systems = self._systems(found, excluded if split == there[-1] else None)
            true = read_labels(found.real, self.kind)
            model: Metrics = {}
            for name, texts in systems.items():
                metrics = report_metrics(texts, found.real, (read_labels(texts, self.kind), true), self.kind)
                rows.append({"system": name, "split": split, "cases": len(texts)} | self._figures(metrics, found))
                rows[-1]["distinct_reports"] = len(set(map(clean_report, texts))) / len(texts)
                if name == _MODEL:
                    model, each = metrics, _per_case(metrics, found)
                else:
                    rows[-1] |= self._differences(model, metrics, found)
        scored = [row for row in rows if row["split"] == there[-1]]
        others = [row for row in rows if row["split"] != there[-1]]
        cited = [{"system": row["system"], "split": "published"} | dict(row) for row in self.published]
        baselines = {row["system"]: row["micro_f1_14"] for row in scored[1:]}
        examples = [(row, self._image(row["case"])) for row in each[:_EXAMPLES]]
        return Measured(
            {"metrics": each, "metrics_mean": scored + others + cited},
            result=[{name: row[name] for name in _RESULT if name in row} for row in scored],
            cases=len(each),
            data=str(self.input),
            parameters={"total": sum(p.numel() for p in self.network.parameters()), "trainable": 0},
            baselines={name: value for name, value in baselines.items() if not math.isnan(value)},
            excluded=excluded,
            page=report_page(scored, others, cited, examples),
            number_format=".4f",
        )

    def _write(self, split: str, excluded: list[dict[str, str]], with_context: bool = True) -> _Written:
        """The cases of a split that can be used; the others are added to `excluded`."""
        read_context = False
        loader, texts, logits, features, used = self._loader(split), [], [], [], []
        known = {case["case"]: case for case in self.cases if case["split"] == split}
        for batch in loader:
            inputs, _, _, given = self.prepare_batch(batch, self.device)
            context = {name: ids for name, ids in given.items() if name == "context"}
            read_context |= bool(context)
            if not with_context:
                context = {name: ids[:, :1] for name, ids in context.items()}  # its beginning, which says nothing
            found = self.inferer(inputs, self.network, **context)
            texts += [written[0] for written in found.texts]
            logits.append(found.findings.detach().float().cpu())
            features.append(self._features(inputs))
            used += [known[case] for case in batch["case"]]
        excluded += loader.excluded
        if not used:
            raise BadInput(self.input, f"has no usable case in the split {split}")
        return _Written(used, texts, torch.cat(logits), torch.cat(features), read_context)

    @torch.no_grad()
    def _features(self, inputs: Tensor) -> Tensor:
        """(B, d) unit vectors of images: the mean of their tokens."""
        _, tokens, _ = self.network.vision.tokens(inputs)
        return nn.functional.normalize(tokens.float().mean(1), dim=1).cpu()

    def _systems(self, found: _Written, excluded: list[dict[str, str]] | None) -> dict[str, list[str]]:
        """Name of a method -> its reports of the cases; without a list of excluded cases the model's alone."""
        systems = {_MODEL: found.texts}
        if excluded is None:
            return systems
        if len(found.texts) > 1:
            systems[_SHUFFLED] = _of_others(found.cases, found.texts, self.seed)
        if found.read_context:
            split = found.cases[0]["split"]
            systems["model, without context"] = self._write(split, [], with_context=False).texts
        if self.sentences is not None:
            said = (found.logits.sigmoid() > 0.5).tolist()
            systems["finding head in sentences"] = [
                self.sentences(dict(zip(self.labels, (1.0 if one else None for one in row), strict=True)), number)
                for number, row in enumerate(said)
            ]
        train = [case for case in self.cases if case["split"] == "train"]
        if train:
            counts = Counter(case["report"] for case in train)
            rng = random.Random(self.seed)
            systems["most frequent report"] = [counts.most_common(1)[0][0]] * len(found.texts)
            systems["random report"] = [rng.choice(train)["report"] for _ in found.texts]
            used, features = [], []
            loader = self._loader("train")
            for batch in loader:
                features.append(self._features(self.prepare_batch(batch, self.device)[0]))
                used += batch["report"]
            excluded += loader.excluded
            nearest = (found.features @ torch.cat(features).T).argmax(1).tolist()
            systems["nearest training image"] = [used[index] for index in nearest]
        return systems

    def _figures(self, metrics: Metrics, found: _Written) -> dict[str, float]:
        patients = [case["patient"] for case in found.cases]
        row: dict[str, float] = {}
        for group, members in metrics.items():
            for member in members:
                columns = _columns(group, member)
                value = member.value()
                row |= {name: value[own] for name, own in columns.items()}
                if chosen := columns.keys() & set(_INTERVALS):
                    between = member.intervals(self.draws, seed=self.seed, groups=patients)
                    for name in chosen:
                        row |= {f"{name}_low": between[columns[name]].low, f"{name}_high": between[columns[name]].high}
        order = [column for name in SHOWN for column in (name, f"{name}_low", f"{name}_high") if column in row]
        return {name: row[name] for name in order}

    def _differences(self, model: Metrics, other: Metrics, found: _Written) -> dict[str, float]:
        """P of the difference between the model and another method, of patients enough to tell one."""
        patients = [case["patient"] for case in found.cases]
        if len(set(patients)) < _FEWEST:
            return {}
        tested = {}
        for group, members in model.items():
            for ours, theirs in zip(members, other[group], strict=True):
                columns = {name: own for name, own in _columns(group, ours).items() if name in _INTERVALS}
                if columns:
                    found_p = ours.p_values(theirs, self.draws, self.seed, patients)
                    tested |= {f"{name}_p": found_p[own] for name, own in columns.items()}
        return {f"{name}_p": tested[f"{name}_p"] for name in _INTERVALS if f"{name}_p" in tested}

    def _image(self, name: str) -> np.ndarray:
        """The image of a case as the network gets it, for a picture."""
        index = next(i for i, case in enumerate(self.cases) if case["case"] == name)
        return np.asarray(torch.as_tensor(self.dataset[index]["image"]).as_subclass(Tensor))[0]

    def _loader(self, split: str) -> CaseLoader:
        indices = [i for i, case in enumerate(self.cases) if case["split"] == split]
        cases = [self.cases[i] for i in indices]
        return CaseLoader(Subset(self.dataset, indices), cases, self.batch_size, self.collate_fn)


class _Written:
    """What the network wrote of the cases of a split."""

    def __init__(
        self, cases: list[dict[str, Any]], texts: list[str], logits: Tensor, features: Tensor, read_context: bool
    ) -> None:
        self.cases, self.texts, self.logits, self.features = cases, texts, logits, features
        self.read_context = read_context
        self.real = [case["report"] for case in cases]


def _of_others(cases: Sequence[Mapping[str, Any]], texts: Sequence[str], seed: int) -> list[str]:
    """Each case gets the text of the next one in a random order, of the next other patient if there is one."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    found = list(texts)
    for place, i in enumerate(order):
        following = order[place + 1 :] + order[:place]
        others = (j for j in following if cases[j]["patient"] != cases[i]["patient"])
        found[i] = texts[next(others, following[0])]
    return found


def _per_case(metrics: Metrics, found: _Written) -> list[dict[str, Any]]:
    """A row per case: the texts, and each metric of a corpus of this report alone."""
    rows = [
        {"case": case["case"], "report": text, "reference": case["report"]}
        for case, text in zip(found.cases, found.texts, strict=True)
    ]
    for group, members in metrics.items():
        for member in members:
            values = member.per_report()
            for name, own in _columns(group, member).items():
                for row, value in zip(rows, values[:, member.names.index(own)].tolist(), strict=True):
                    row[name] = value
    return rows


def _columns(group: str, member: CorpusMetric) -> dict[str, str]:
    """Columns of the table that a metric fills -> its own names for them."""
    wanted = {name: full.removeprefix(f"{group}.") for name, full in SHOWN.items() if full.startswith(f"{group}.")}
    return {name: own for name, own in wanted.items() if own in member.names}
