"""Write what a network says of each case: a JSON file with labels, a report, and whatever is added to it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.utils import CommonKeys
from torch import Tensor

from common.io.output_folder import write_text
from common.metrics.report.metrics import report_kind
from common.text.report_answers import Answer, parse_answer
from common.visualize.answers import answer_figure
from common.visualize.case_files import write_case_files
from common.visualize.regions import region_figure

__all__ = ["AnswerResults", "LabelResults", "ReportResults", "write_report_lines"]

REPORTS = "reports.jsonl"


class _CaseResults(ABC):
    """After each batch of an evaluator (`decollate=False`) write the files of its cases.

    Attributes:
        written: paths, in the order of the cases.
    """

    def __init__(self, output_dir: str, labels: Sequence[str]) -> None:
        self.folder, self.labels = Path(output_dir), tuple(labels)
        self.written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        if engine.state.output:  # else its case was left out
            self._write(engine.state.batch, engine.state.output[CommonKeys.PRED])

    @abstractmethod
    def _write(self, batch: Mapping[str, Any], found: Any) -> None:
        """Write the files of a batch, of which the evaluator found this, and add them to `written`."""


class LabelResults(_CaseResults):
    """Of logits: CASE.json with the probabilities.

    Args:
        output_dir: created.
        labels: names in the order of the outputs.
        describe: given a batch and, for each of its cases, {label: probability}, returns for each case further
            arguments of `common.visualize.case_files.write_case_files`, such as a picture; None adds nothing.
    """

    def __init__(
        self,
        output_dir: str,
        labels: Sequence[str],
        describe: Callable[[Mapping[str, Any], list[dict[str, float]]], Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        super().__init__(output_dir, labels)
        self.describe = describe

    def _write(self, batch: Mapping[str, Any], found: Any) -> None:
        probabilities = found.detach().float()
        said = [
            {label: round(p, 6) for label, p in zip(self.labels, row, strict=True)}
            for row in probabilities.sigmoid().tolist()
        ]
        more = self.describe(batch, said) if self.describe else [{}] * len(said)
        for case, labels, further in zip(batch["case"], said, more, strict=True):
            self.written += [str(path) for path in write_case_files(self.folder, case, labels, **further)]


class ReportResults(_CaseResults):
    """Of `common.inferers.report_inferer.WrittenReports`: CASE.json, CASE.txt and CASE.png.

    Args:
        output_dir: created.
        labels: names of the findings, in the order of the outputs.
        decoding: settings of the decoding, written beside a report.
        regions: names of those that the model's queries read.
        global_queries: its first queries, which are of no region.
        pictures: whether each case gets a picture of where they read.
        warning: a sentence that stands in the JSON and over the picture.
    """

    def __init__(
        self,
        output_dir: str,
        labels: Sequence[str],
        decoding: Mapping[str, Any],
        regions: Sequence[str] = (),
        global_queries: int = 0,
        pictures: bool = True,
        warning: str | None = None,
    ) -> None:
        super().__init__(output_dir, labels)
        self.decoding, self.warning = dict(decoding), warning
        self.regions, self.global_queries, self.pictures = tuple(regions), global_queries, pictures

    def _write(self, batch: Mapping[str, Any], found: Any) -> None:
        probabilities = found.findings.detach().float().sigmoid().tolist()
        for i, (case, texts) in enumerate(zip(batch["case"], found.texts, strict=True)):
            labels = {label: round(p, 6) for label, p in zip(self.labels, probabilities[i], strict=True)}
            routing = found.anatomy.routing[i].tolist()
            more: dict[str, Any] = {"report": texts[0]} | ({"warning": self.warning} if self.warning else {})
            if not texts[0]:
                more["note"] = "The model wrote nothing."
            if len(texts) > 1:
                more["samples"] = texts
            if found.sentences is not None:
                more["sentences"] = [
                    {"text": texts[0][s.start : s.end], "region": s.region, "probability": round(s.probability, 6)}
                    for s in found.sentences[i]
                ]
            more["routing"] = {region: round(p, 6) for region, p in zip(self.regions, routing, strict=True)}
            if self.pictures:
                more["picture"] = self._picture(case, batch["image"][i], found.anatomy, i, more)
            paths = write_case_files(self.folder, case, labels, **more, decoding=self.decoding)
            paths.append(self.folder / f"{case}.txt")
            write_text(paths[-1], f"{texts[0]}\n")
            self.written += [str(path) for path in paths]

    def _picture(self, case: str, image: Tensor, anatomy: Any, i: int, said: Mapping[str, Any]) -> Figure:
        regions = len(self.regions)
        queries = anatomy.attention[i].float()
        each = (len(queries) - self.global_queries) // regions
        attention = queries[self.global_queries :].unflatten(0, (regions, each)).mean(1)
        sentences = [(s["text"], s["region"], s["probability"]) for s in said.get("sentences", ())]
        title = f"{case}. {self.warning}" if self.warning else case
        return region_figure(
            image[0].float().cpu().numpy(), attention.cpu().numpy(), anatomy.priors[i].float().cpu().numpy(),
            list(said["routing"].values()), self.regions, sentences, title,
        )  # fmt: skip


class AnswerResults(_CaseResults):
    """Of `common.inferers.answer_inferer.WrittenAnswers`: CASE.json, CASE.txt and CASE.png.

    An answer that does not parse is written as it is ("raw"), with "valid" false and nothing made of it.

    Args:
        output_dir: created.
        labels: names of the findings.
        decoding: settings of the decoding, written beside an answer.
        pictures: whether CASE.png is written.
        warning: a sentence beside every answer.
        kind: of the labels, see `common.metrics.report.metrics.KINDS`.
    """

    def __init__(
        self, output_dir: str, labels: Sequence[str], decoding: Mapping[str, Any], pictures: bool = True,
        warning: str | None = None, kind: str = "cxr",
    ) -> None:  # fmt: skip
        super().__init__(output_dir, labels)
        self.decoding, self.pictures, self.warning, self.kind = dict(decoding), pictures, warning, kind

    def _write(self, batch: Mapping[str, Any], found: Any) -> None:
        for i, (case, text, form) in enumerate(zip(batch["case"], found.texts, batch["stage"], strict=True)):
            answer = parse_answer(text, form)
            said = answer or Answer("")
            stated = said.labels if form == "a" or answer is None else report_kind(self.kind).label(said.impression)
            labels = {name: _PRESENT.get(stated.get(name), 0.0) for name in self.labels}
            more: dict[str, Any] = {"warning": self.warning} if self.warning else {}
            more |= {"report": said.impression, "impression": said.impression, "reasoning": list(said.reasoning)}
            more |= {"icd": list(said.icd), "valid": answer is not None, "raw": text, "decoding": self.decoding}
            if self.pictures:
                more["picture"] = answer_figure(batch["image"][i][0].float().cpu().numpy(), case, said, self.warning)
            paths = write_case_files(self.folder, case, labels, **more)
            paths.append(self.folder / f"{case}.txt")
            write_text(paths[-1], f"{said.impression}\n")
            self.written += [str(path) for path in paths]


_PRESENT = {1.0: 1.0, -1.0: 0.5}
"""Value of a label -> what stands for its probability; one that is absent or not mentioned is 0."""


def write_report_lines(output_dir: str, files: Sequence[str]) -> Path:
    """Write reports.jsonl, {"id", "report"} a line as `score report` takes them, from the files of the cases."""
    contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files if file.endswith(".json")]
    lines = [json.dumps({"id": content["case"], "report": content["report"]}) + "\n" for content in contents]
    path = Path(output_dir) / REPORTS
    write_text(path, "".join(lines))
    return path
