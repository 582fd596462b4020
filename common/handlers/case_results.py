"""Write what a network says of each case: a JSON file with labels, a report, and whatever is added to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.io.output_folder import write_text
from common.text.sentences import split_sentences
from common.visualize.case_files import write_case_files

__all__ = ["LabelResults", "ReportResults", "write_report_lines"]

REPORTS = "reports.jsonl"


class LabelResults:
    """After each batch of an evaluator (logits, `decollate=False`) write the files of its cases.

    Attributes:
        written: paths, in the order of the cases.

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
        self.folder, self.labels, self.describe = Path(output_dir), tuple(labels), describe
        self.written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        if not engine.state.output:
            return  # its case was left out
        cases, probabilities = engine.state.batch["case"], engine.state.output[CommonKeys.PRED].detach().float()
        said = [
            {label: round(p, 6) for label, p in zip(self.labels, row, strict=True)}
            for row in probabilities.sigmoid().tolist()
        ]
        more = self.describe(engine.state.batch, said) if self.describe else [{}] * len(said)
        for case, labels, further in zip(cases, said, more, strict=True):
            self.written += [str(path) for path in write_case_files(self.folder, case, labels, **further)]


class ReportResults:
    """After each batch of an evaluator (`common.inferers.report_inferer.WrittenReports`) write the files of its cases.

    Attributes:
        written: paths, in the order of the cases.

    Args:
        output_dir: created.
        labels: names of the findings, in the order of the outputs.
        decoding: settings of the decoding, written beside a report.
        regions: names of those that the model's queries read.
    """

    def __init__(
        self, output_dir: str, labels: Sequence[str], decoding: Mapping[str, Any], regions: Sequence[str] = ()
    ) -> None:
        self.folder, self.labels, self.decoding = Path(output_dir), tuple(labels), dict(decoding)
        self.regions = tuple(regions)
        self.written: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _iteration_completed(self, engine: Engine) -> None:
        if not engine.state.output:
            return  # its case was left out
        found = engine.state.output[CommonKeys.PRED]
        probabilities = found.findings.detach().float().sigmoid().tolist()
        routing = found.anatomy.routing.detach().float().tolist()
        for case, texts, row, used in zip(engine.state.batch["case"], found.texts, probabilities, routing, strict=True):
            labels = {label: round(p, 6) for label, p in zip(self.labels, row, strict=True)}
            more: dict[str, Any] = {"report": texts[0]}
            if not texts[0]:
                more["note"] = "The model wrote nothing."
            if len(texts) > 1:
                more["samples"] = texts
            more["sentences"] = [sentence.text for sentence in split_sentences(texts[0])]
            more["routing"] = {region: round(p, 6) for region, p in zip(self.regions, used, strict=True)}
            paths = write_case_files(self.folder, case, labels, **more, decoding=self.decoding)
            paths.append(self.folder / f"{case}.txt")
            write_text(paths[-1], f"{texts[0]}\n")
            self.written += [str(path) for path in paths]


def write_report_lines(output_dir: str, files: Sequence[str]) -> Path:
    """Write reports.jsonl, {"id", "report"} a line as `score report` takes them, from the files of the cases."""
    contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files if file.endswith(".json")]
    lines = [json.dumps({"id": content["case"], "report": content["report"]}) + "\n" for content in contents]
    path = Path(output_dir) / REPORTS
    write_text(path, "".join(lines))
    return path
