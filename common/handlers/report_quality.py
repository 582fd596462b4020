"""Score the reports and answers that an evaluator writes, over all cases: form, wording, findings, and likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name

from common.metrics.report.bleu import bleu
from common.metrics.report.diversity import distinct_reports
from common.metrics.report.finding_f1 import finding_f1, icd_f1
from common.metrics.report.metrics import read_labels, report_kind
from common.metrics.report.rouge import rouge_l
from common.metrics.report.text import clean_report
from common.text.report_answers import Answer, parse_answer

__all__ = ["AnswerQuality", "ReportQuality", "answer_figures", "report_figures"]


_IGNORED = -100  # label of padding


class _TextQuality(ABC):
    """What both metrics do: texts beside the real ones, and how likely the tokens of these are, over all processes."""

    def __init__(self, stage: str, advice: str) -> None:
        self.stage, self.advice = stage, advice
        self.texts: dict[str, tuple[str, str]] = {}
        self._tokens: dict[str, tuple[float, int]] = {}

    def attach(self, engine: Engine, name: str = "combined") -> None:
        """Register on an evaluator; MONAI calls this with the key of `key_val_metric`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    @abstractmethod
    def texts_of(self, written: Any, batch: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """Case -> what was written, and the real text."""

    @abstractmethod
    def losses_of(self, written: Any, batch: Mapping[str, Any]) -> Iterator[Tensor]:
        """The cross-entropy of every token of each case."""

    @abstractmethod
    def figures(self, written: Sequence[str], real: Sequence[str]) -> dict[str, float]:
        """Of all texts."""

    def _started(self, engine: Engine) -> None:
        self.texts, self._tokens = {}, {}

    @torch.no_grad()
    def _iteration_completed(self, engine: Engine) -> None:
        written, batch = engine.state.output[CommonKeys.PRED], engine.state.batch
        if written.logits is not None and not written.logits.isfinite().all():
            raise FloatingPointError(
                f"{self.stage}: in the validation of epoch {engine.state.epoch} the decoder gives a token a logit that "
                f"is not finite; lower the learning rate ({self.advice})"
            )
        self.texts |= self.texts_of(written, batch)
        losses_of = [] if written.logits is None else zip(batch["case"], self.losses_of(written, batch), strict=True)
        for case, losses in losses_of:
            self._tokens[case] = (float(losses.double().sum()), len(losses))

    def _completed(self, engine: Engine) -> None:
        texts, tokens = self.texts, self._tokens
        if idist.get_world_size() > 1:
            shards = idist.all_gather({"texts": texts, "tokens": tokens})
            texts = {case: pair for shard in shards for case, pair in shard["texts"].items()}
            tokens = {case: pair for shard in shards for case, pair in shard["tokens"].items()}
        written, real = ([texts[case][side] for case in sorted(texts)] for side in (0, 1))
        engine.state.metrics |= self.figures(written, real)
        if tokens:
            total, n = (math.fsum(pair[i] for pair in tokens.values()) for i in (0, 1))
            engine.state.metrics["loss"] = total / n


class ReportQuality(_TextQuality):
    """A metric of a `SupervisedEvaluator` whose output is `WrittenReports` and whose batches have "case" and "report".

    To `engine.state.metrics` go `bleu_4` and `rouge_l` of the cleaned texts, `combined`, their sum, `micro_f1` over all
    labels of the kind (uncertain ones are positive), `distinct_reports` (a share of the cases), `empty_reports`, and
    `loss`, the mean cross-entropy over all tokens of the real reports. Several processes put their cases together.

    Args:
        kind: `cxr` or `ct`, see `common.metrics.report.metrics.KINDS`.
        stage: name of the training, in the error.
        advice: the override of its learning rate, in the error.

    Raises:
        FloatingPointError: while it runs, if a logit is not finite: the training has diverged.
    """

    def __init__(self, kind: str = "cxr", stage: str = "validation", advice: str = "--learning_rate") -> None:
        super().__init__(stage, advice)
        report_kind(kind)
        self.kind = kind

    def texts_of(self, written: Any, batch: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """As of the base."""
        first = (texts[0] for texts in written.texts)
        return dict(zip(batch["case"], zip(first, batch["report"], strict=True), strict=True))

    def losses_of(self, written: Any, batch: Mapping[str, Any]) -> Iterator[Tensor]:
        """As of the base."""
        labels = batch["labels"].to(written.logits.device)
        for logits, row in zip(written.logits, labels, strict=True):
            yield F.cross_entropy(logits.float(), row, ignore_index=_IGNORED, reduction="none")[row != _IGNORED]

    def figures(self, written: Sequence[str], real: Sequence[str]) -> dict[str, float]:
        """As of the base."""
        return report_figures(written, real, self.kind)


@torch.no_grad()
def report_figures(written: Sequence[str], real: Sequence[str], kind: str = "cxr") -> dict[str, float]:
    """The figures of `ReportQuality` but the loss."""
    cleaned = [[clean_report(text) for text in texts] for texts in (written, real)]
    found = {"bleu_4": bleu(*cleaned).value()["bleu_4"], "rouge_l": rouge_l(*cleaned).value()["rouge_l"]}
    labels = report_kind(kind).labels
    f1 = finding_f1(read_labels(written, kind), read_labels(real, kind), labels).value()["micro_f1"]
    found |= {"combined": found["bleu_4"] + found["rouge_l"], "distinct_reports": distinct_reports(cleaned[0])}
    found["empty_reports"] = sum(not text.strip() for text in written) / len(written)
    return {name: float(value) for name, value in found.items()} | ({} if math.isnan(f1) else {"micro_f1": float(f1)})


_EMPTY = Answer("", {}, (), ())
"""What counts for an answer that is none: it says nothing."""


class AnswerQuality(_TextQuality):
    """A metric of a `SupervisedEvaluator` whose output is `WrittenAnswers` and whose batches have "case" and "answer".

    To `engine.state.metrics` go the figures of `answer_figures`, and `loss`, the mean cross-entropy over all tokens of
    the real answers. Several processes put their cases together.

    Args:
        form: of the answers, "a" or "b", see `common.text.report_answers`.
        stage: name of the training, in the error.
        advice: the override of its learning rate, in the error.

    Raises:
        FloatingPointError: while it runs, if a logit is not finite: the training has diverged.
    """

    def __init__(self, form: str, stage: str = "validation", advice: str = "--learning_rate") -> None:
        super().__init__(stage, advice)
        self.form = form

    def texts_of(self, written: Any, batch: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
        """As of the base."""
        return dict(zip(batch["case"], zip(written.texts, batch["answer"], strict=True), strict=True))

    def losses_of(self, written: Any, batch: Mapping[str, Any]) -> Iterator[Tensor]:
        """As of the base."""
        each = F.cross_entropy(written.logits.float().cpu(), batch["said"], reduction="none")
        of_case = batch["places"] // (batch["ids"].shape[1] - 1)
        return (each[of_case == i] for i in range(len(batch["case"])))

    def figures(self, written: Sequence[str], real: Sequence[str]) -> dict[str, float]:
        """As of the base."""
        return answer_figures(written, real, self.form)


@torch.no_grad()
def answer_figures(said: Sequence[str], real: Sequence[str], form: str, kind: str = "cxr") -> dict[str, float]:
    """Figures of answers against the real ones.

    Args:
        said: what a model answered; what does not parse counts as nothing said.
        real: the real answers.
        form: "a" or "b".
        kind: of the labels, see `common.metrics.report.metrics.KINDS`.

    Returns:
        `valid`, the share that parses; `bleu_4` and `rouge_l` of the impressions; `micro_f1` of the findings ("a",
        uncertain ones as positive) or of the ICD groups ("b"); `combined`, that and `rouge_l`.
    """
    found = [parse_answer(text, form) for text in said]
    true = [parse_answer(text, form) for text in real]
    answers = [answer or _EMPTY for answer in found]
    texts = [[clean_report(answer.impression) for answer in side] for side in (answers, true)]
    figures = {"valid": sum(answer is not None for answer in found) / len(found)}
    figures |= {"bleu_4": bleu(*texts).value()["bleu_4"], "rouge_l": rouge_l(*texts).value()["rouge_l"]}
    if form == "a":
        f1 = finding_f1(
            *([_all(answer.labels, kind) for answer in side] for side in (answers, true)), report_kind(kind).labels
        )
    else:
        f1 = icd_f1(*([answer.icd for answer in side] for side in (answers, true)))
    micro = f1.value()["micro_f1"]
    figures["micro_f1"] = 0.0 if math.isnan(micro) else micro
    figures["combined"] = figures["micro_f1"] + figures["rouge_l"]
    return {name: float(value) for name, value in figures.items()}


def _all(labels: Mapping[str, float], kind: str) -> dict[str, float | None]:
    return {name: labels.get(name) for name in report_kind(kind).labels}
