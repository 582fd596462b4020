"""Every report metric that needs no model: which ones there are, under which names, on which text.

A metric's full name is its group, a full stop and its own name, e.g. `cleaned.bleu_4` or
`labels.uncertain_positive.micro_f1_5`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.metrics.crg import CRG_FLOOR, crg, crg_best_constant
from common.metrics.report.bleu import bleu
from common.metrics.report.cider import cider
from common.metrics.report.corpus_metric import CorpusMetric
from common.metrics.report.diversity import distinct_n, distinct_reports, repetition
from common.metrics.report.finding_f1 import CHEXPERT_5, UNCERTAIN_POLICIES, Labels, finding_f1, finding_table
from common.metrics.report.format import format_adherence, valid_json_rate
from common.metrics.report.meteor import meteor_exact_stem
from common.metrics.report.ngrams import pair_ngrams
from common.metrics.report.rouge import google_rouge, rouge_l
from common.metrics.report.text import clean_report
from common.text.ct_labeller import label_ct
from common.text.ct_labels import CT_RATE_LABELS
from common.text.cxr_labeller import CHEXPERT_LABELS, label_cxr

Metrics = dict[str, list[CorpusMetric]]
"""Group to its metrics."""


@dataclass(frozen=True)
class ReportKind:
    """What the reports are about: the labeller that reads them and the labels that it finds."""

    label: Callable[[str], Labels]
    labels: tuple[str, ...]


KINDS = {"cxr": ReportKind(label_cxr, CHEXPERT_LABELS), "ct": ReportKind(label_ct, CT_RATE_LABELS)}


def report_kind(name: str) -> ReportKind:
    """One of `KINDS`.

    Raises:
        ValueError: if there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"The kind of the reports is {name!r}, expected one of {', '.join(KINDS)}.")
    return KINDS[name]


def report_metrics(
    predictions: Sequence[str], references: Sequence[str], labels: tuple[Sequence[Labels], Sequence[Labels]], kind: str
) -> Metrics:
    """All groups of metrics of generated reports.

    Args:
        predictions: generated reports.
        references: as many references, in the same order.
        labels: what the labeller of `kind` reads in each of them (`read_labels`).
        kind: one of `KINDS`.
    """
    return overlap_metrics(predictions, references) | label_metrics(*labels, kind) | form_metrics(predictions)


def read_labels(reports: Sequence[str], kind: str) -> list[Labels]:
    """What the labeller of `kind` reads in each report."""
    return [report_kind(kind).label(report) for report in reports]


def overlap_metrics(predictions: Sequence[str], references: Sequence[str]) -> Metrics:
    """Groups `raw` and `cleaned` (`report_text.clean_report`), and `google_rouge`, which has its own way with text."""
    return {
        "raw": _overlap(predictions, references),
        "cleaned": _overlap([clean_report(p) for p in predictions], [clean_report(r) for r in references]),
        "google_rouge": [google_rouge(predictions, references)],
    }


def label_metrics(predicted: Sequence[Labels], true: Sequence[Labels], kind: str, group: str = "labels") -> Metrics:
    """F1 over the kind's labels; for `cxr` under each policy for uncertain ones, over 14 and 5; for `ct` also CRG."""
    labels = report_kind(kind).labels
    if kind == "ct":
        return {group: [_named(finding_f1(predicted, true, labels), len(labels)), crg(predicted, true, labels)]}
    return {
        f"{group}.uncertain_{policy}": [
            _named(finding_f1(predicted, true, chosen, policy), len(chosen)) for chosen in (labels, CHEXPERT_5)
        ]
        for policy in UNCERTAIN_POLICIES
    }


def form_metrics(predictions: Sequence[str]) -> Metrics:
    """Groups `format` and `repetition`, for which no reference is needed."""
    return {
        "format": [format_adherence(predictions), valid_json_rate(predictions)],
        "repetition": [repetition([clean_report(p) for p in predictions])],
    }


def corpus_figures(
    predictions: Sequence[str], labels: tuple[Sequence[Labels], Sequence[Labels]], kind: str
) -> dict[str, float]:
    """What is no sum over reports, so has no interval: variety of the texts, and the baselines of CRG."""
    cleaned = [clean_report(p) for p in predictions]
    figures = {f"diversity.{name}": value for name, value in distinct_n(cleaned).items()}
    figures["diversity.distinct_reports"] = distinct_reports(cleaned)
    if kind == "ct":
        figures["labels.crg_floor"] = CRG_FLOOR
        figures["labels.crg_best_constant"] = crg_best_constant(labels[1], report_kind(kind).labels)
    return figures


def per_label(predicted: Sequence[Labels], true: Sequence[Labels], kind: str) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and counts of each label, uncertain ones counted as positive."""
    return finding_table(predicted, true, report_kind(kind).labels)


def values(metrics: Mapping[str, Sequence[CorpusMetric]]) -> dict[str, float]:
    """Full name to value; NaN where a metric is undefined on these reports."""
    return {
        f"{group}.{name}": value
        for group, members in metrics.items()
        for member in members
        for name, value in member.value().items()
    }


def _overlap(predictions: Sequence[str], references: Sequence[str]) -> list[CorpusMetric]:
    ngrams = pair_ngrams(predictions, references)
    return [
        bleu(predictions, references, ngrams=ngrams),
        rouge_l(predictions, references),
        cider(predictions, references, ngrams=ngrams),
        meteor_exact_stem(predictions, references),
    ]


def _named(metric: CorpusMetric, labels: int) -> CorpusMetric:
    return replace(metric, names=tuple(f"{name}_{labels}" for name in metric.names))
