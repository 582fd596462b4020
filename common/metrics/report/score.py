"""Report metrics over an epoch and over processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric

from common.metrics.report.metrics import corpus_figures, read_labels, report_kind, report_metrics, values


class ReportScore(Metric):
    """Collect generated reports with their references, and compute all report metrics over the whole corpus.

        score = ReportScore()
        score.update(["a1", "a2"], predictions, references)  # every batch, in every process
        score.compute()["cleaned.bleu_4"]

    Corpus BLEU, micro-F1 and CIDEr are no means of batches (CIDEr's weights come from all references), so the state is
    the texts themselves, some 1 kB a report. `compute` gathers them from all processes; the result does not depend on
    how they were divided or ordered.

    As a metric of an engine (`attach(engine, "report")`, or MONAI's `key_val_metric`), the engine's transformed output
    is ``(ids, predictions, references)``.

    Args:
        kind: `cxr` or `ct`, see `report_metrics.KINDS`.
        output_transform: of the engine's output, into ids, predictions and references.
    """

    def __init__(self, kind: str = "cxr", output_transform: Callable[[Any], Any] = lambda output: output) -> None:
        report_kind(kind)
        self.kind = kind
        super().__init__(output_transform)

    def __len__(self) -> int:
        """Number of reports in this process."""
        return len(self._reports)

    def reset(self) -> None:
        """Forget everything."""
        self._reports: dict[str, tuple[str, str]] = {}

    def update(self, ids: Sequence[str], predictions: Sequence[str], references: Sequence[str]) -> None:
        """Add reports.

        Args:
            ids: of the cases, as strings.
            predictions: their generated reports.
            references: their references.

        Raises:
            ValueError: if there are not as many of each, something is no string, or an id comes again with another
                text. With the same texts it counts once, since samplers pad the last batch with repeated cases.
        """
        if not len(ids) == len(predictions) == len(references):
            raise ValueError(
                f"{len(ids)} ids come with {len(predictions)} reports and {len(references)} references, expected as "
                "many of each."
            )
        self._add(zip(ids, zip(predictions, references, strict=True), strict=True))

    def compute(self) -> dict[str, float]:
        """Full name (`report_metrics`) to value over the reports of all processes; NaN where undefined."""
        everything = ReportScore(self.kind)
        shards = idist.all_gather(self._reports) if idist.get_world_size() > 1 else [self._reports]
        for shard in shards:
            everything._add(shard.items())
        if not len(everything):
            raise NotComputableError("ReportScore needs at least one report before it can be computed.")
        pairs = [everything._reports[key] for key in sorted(everything._reports)]
        predictions, references = ([pair[side] for pair in pairs] for side in (0, 1))
        labels = read_labels(predictions, self.kind), read_labels(references, self.kind)
        metrics = report_metrics(predictions, references, labels, self.kind)
        return values(metrics) | corpus_figures(predictions, labels, self.kind)

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        """Add what an iteration of an engine put out."""
        self.update(*self._output_transform(engine.state.output))

    def state_dict(self) -> dict[str, Any]:
        """The reports of this process, for `load_state_dict` and for JSON."""
        return {"reports": [[key, *pair] for key, pair in self._reports.items()]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Put the reports of a `state_dict` in place of what is there."""
        self.reset()
        self._add((key, (prediction, reference)) for key, prediction, reference in state_dict["reports"])

    def _add(self, reports: Any) -> None:
        for key, pair in reports:
            if not all(isinstance(text, str) for text in (key, *pair)):
                raise ValueError(f"The report of {key!r} or its reference is no string, expected texts and an id.")
            if self._reports.setdefault(key, pair) != pair:
                raise ValueError(
                    f"The report of {key!r} comes twice with different texts, expected each case once (MONAI's "
                    "DistributedSampler repeats cases unless even_divisible is false)."
                )
