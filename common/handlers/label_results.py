"""Write what a classifier says of each case: a JSON file, and whatever the configuration adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from common.visualize.case_files import write_case_files

__all__ = ["LabelResults"]


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
