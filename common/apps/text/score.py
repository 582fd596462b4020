"""`score report`: how well generated reports say what the references say, with intervals and a test of two systems."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.apps.run.bundle import UsageError, hint
from common.io.bad_input import BadInput, read_text
from common.io.inputs import is_same
from common.io.output_folder import write_text
from common.metrics.report.metrics import (
    KINDS,
    Metrics,
    corpus_figures,
    label_metrics,
    per_label,
    read_labels,
    report_metrics,
    values,
)
from common.visualize.tables import json_text

MODELS = {
    "bertscore": "give --bertscore FOLDER, a Hugging Face encoder with its tokenizer",
    "chexbert": "give --chexbert FOLDER with chexbert.pth and the config.json and vocab.txt of bert-base-uncased",
    "radgraph": "give --radgraph FOLDER, a model of the package radgraph",
}
"""Scores that need weights, and what they need."""

_LEVEL = 0.95


@dataclass
class _System:
    """What is computed once for the reports of one system."""

    metrics: Metrics
    figures: dict[str, float]
    table: dict[str, dict[str, float]]
    blank: int


def score_reports(
    pred: str | os.PathLike[str],
    ref: str | os.PathLike[str],
    pred2: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    kind: str = "cxr",
    bertscore: str | os.PathLike[str] | None = None,
    bertscore_layer: int | None = None,
    chexbert: str | os.PathLike[str] | None = None,
    radgraph: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Score generated reports against real ones: wording, findings and form, with bootstrap intervals.

    A report per line, as {"id": ..., "report": ...}, in any order. With a second system the two are compared report by
    report, by a paired randomisation test. The result is printed as JSON.

    Args:
        pred: FILE P.jsonl, generated reports
        ref: FILE R.jsonl, real reports, of the same ids
        pred2: FILE Q.jsonl, the reports of a second system
        out: FILE S.json, also written there
        draws: N of the bootstrap and of the test
        seed: N of both
        kind: NAME whose findings are compared: cxr (14, four policies for uncertain ones) or ct (18, CRG)
        bertscore: DIR a BERT model of Hugging Face; without it BERTScore is not run, and the result says so
        bertscore_layer: N its layer, from 1 (default: the last)
        chexbert: DIR with the weights of CheXbert and its BERT
        radgraph: DIR with the weights of RadGraph, whose package must be installed

    Returns:
        `reports` (their number), `kind`, `draws`, `seed`, `level`, `blank_references`; of `pred`: the metrics by group
        and name (`report_metrics`), `intervals` of the same shape with [low, high], `per_label`, `undefined` (full
        names of metrics without a value, which are None), `blank_predictions`; `not_run`: score to what it needs. With
        `pred2`: `pred2` with the same of the second system, and `comparison` of the same shape with `difference` (pred
        minus pred2) and two-sided `p`, not adjusted for the number of metrics. `notes`: sentences about traps.

    Raises:
        BadInput: if a file is no such JSON lines file, names an id twice, or its ids are not those of `ref`.
        UsageError: if the kind is unknown, draws is below 1, or `out` is one of the inputs.

    Examples:
        python -m common score report --pred generated.jsonl --ref real.jsonl
        python -m common score report --pred ours.jsonl --pred2 theirs.jsonl --ref real.jsonl --out scores.json
    """
    if kind not in KINDS:
        raise UsageError(f"--kind {kind!r} is unknown, expected {' or '.join(KINDS)}{hint(kind, KINDS)}")
    if draws < 1:
        raise UsageError(f"--draws is {draws}, expected at least 1")
    predictions = [Path(path) for path in (pred, pred2) if path is not None]
    if out is not None and any(is_same(out, path) for path in (*predictions, ref)):
        raise UsageError(f"--out is {out}, which is an input, expected another file")
    references = read_reports(ref)
    ids = sorted(references)
    systems = [_in_order(read_reports(path), path, references, ref) for path in predictions]
    targets = [references[key] for key in ids]
    models = _Models(kind, targets, bertscore, bertscore_layer, chexbert, radgraph)
    true = read_labels(targets, kind)
    scored = [_score(reports, targets, true, kind, models) for reports in systems]
    result: dict[str, Any] = {
        "reports": len(ids),
        "kind": kind,
        "draws": draws,
        "seed": seed,
        "level": _LEVEL,
        "blank_references": sum(not text.strip() for text in targets),
        **_describe(scored[0], draws, seed),
        "not_run": models.not_run,
    }
    if pred2 is not None:
        result["pred2"] = _describe(scored[1], draws, seed)
        result["comparison"] = _compare(*scored, draws, seed)
    result["notes"] = _notes(result, models)
    result = json.loads(json_text(result))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(out), json_text(result, indent=1))
    return result


def read_reports(path: str | os.PathLike[str]) -> dict[str, str]:
    """Id to report of a file with one JSON object `{"id", "report"}` a line; other keys are left alone.

    An id may be a string or a whole number, which becomes the string of its digits.

    Raises:
        BadInput: naming the line that is no such object, or holds an id for the second time.
    """
    text = read_text(path, "a JSON lines file")
    reports: dict[str, str] = {}
    # Only a line feed ends a line: a report may hold other separators that str.splitlines would cut at.
    for number, line in enumerate(text.rstrip().split("\n") if text.strip() else [], 1):
        key, report = _read_line(path, number, line)
        if key in reports:
            raise BadInput(path, f"line {number} has the id {key!r} again, expected each id once")
        reports[key] = report
    if not reports:
        raise BadInput(path, 'holds no report, expected a line {"id": ..., "report": ...} for each')
    return reports


def _read_line(path: str | os.PathLike[str], number: int, line: str) -> tuple[str, str]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput(path, f"line {number} is no JSON ({reason}), expected an object with id and report") from error
    if not isinstance(item, dict):
        raise BadInput(path, f"line {number} is a JSON {type(item).__name__}, expected an object with id and report")
    for key in ("id", "report"):
        if key not in item:
            raise BadInput(path, f"line {number} has no {key!r}, expected an object with id and report")
    key, report = item["id"], item["report"]
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise BadInput(path, f"line {number} has the id {key!r}, expected a string")
    if not isinstance(report, str):
        raise BadInput(path, f"line {number} has a report of type {type(report).__name__}, expected a string")
    return str(key), report


def _in_order(
    reports: Mapping[str, str], path: Path, references: Mapping[str, str], ref: str | os.PathLike[str]
) -> list[str]:
    lacking, extra = sorted(references.keys() - reports.keys()), sorted(reports.keys() - references.keys())
    if lacking or extra:
        said = [
            f"{verb} {len(keys)} of {total} ids, such as {keys[0]!r}"
            for verb, keys, total in (("lacks", lacking, len(references)), ("adds", extra, len(reports)))
            if keys
        ]
        raise BadInput(path, f"{' and '.join(said)}, compared with {os.fspath(ref)}, expected the same ids in both")
    return [reports[key] for key in sorted(references)]


class _Models:
    """The scores that need weights: those that were given, and for the others what to give."""

    def __init__(
        self,
        kind: str,
        references: Sequence[str],
        bertscore: str | os.PathLike[str] | None,
        bertscore_layer: int | None,
        chexbert: str | os.PathLike[str] | None,
        radgraph: str | os.PathLike[str] | None,
    ) -> None:
        given = {"bertscore": bertscore, "chexbert": chexbert, "radgraph": radgraph}
        self.not_run = {name: f"not run: {MODELS[name]}" for name, folder in given.items() if folder is None}
        self._references, self._bertscore, self._chexbert, self._radgraph = references, None, None, None
        if len(self.not_run) == len(MODELS):
            return
        # torch and transformers take seconds to import, and only these scores need them.
        from common.metrics.report import model_scores

        if kind != "cxr" and chexbert is not None:
            raise UsageError(f"--chexbert reads chest X-ray reports, but the kind is {kind!r}")
        if bertscore is not None:
            self._bertscore = model_scores.BertScore(bertscore, bertscore_layer)
        if chexbert is not None:
            self._chexbert = model_scores.CheXbert(chexbert)
            self._true = self._chexbert.label(references)
        if radgraph is not None and not model_scores.radgraph_installed():
            self.not_run["radgraph"] = "not run: install the package radgraph"
        elif radgraph is not None:
            self._radgraph = lambda reports: model_scores.radgraph_f1(radgraph, reports, references)

    def score(self, reports: Sequence[str]) -> Metrics:
        """The groups of metrics of the models that were given."""
        metrics: Metrics = {}
        if self._bertscore is not None:
            metrics["bertscore"] = [self._bertscore(reports, self._references)]
        if self._chexbert is not None:
            metrics |= label_metrics(self._chexbert.label(reports), self._true, "cxr", "chexbert")
        if self._radgraph is not None:
            metrics["radgraph"] = [self._radgraph(reports)]
        return metrics

    @property
    def cut(self) -> dict[str, int]:
        """How many texts were too long for a model."""
        models = {"bertscore": self._bertscore, "chexbert": self._chexbert}
        return {name: model.cut for name, model in models.items() if model is not None and model.cut}


def _score(
    reports: Sequence[str], references: Sequence[str], true: Sequence[Any], kind: str, models: _Models
) -> _System:
    predicted = read_labels(reports, kind)
    labels = (predicted, true)
    return _System(
        metrics=report_metrics(reports, references, labels, kind) | models.score(reports),
        figures=corpus_figures(reports, labels, kind),
        table=per_label(predicted, true, kind),
        blank=sum(not text.strip() for text in reports),
    )


def _describe(system: _System, draws: int, seed: int) -> dict[str, Any]:
    found = values(system.metrics) | system.figures
    intervals = {
        f"{group}.{name}": [interval.low, interval.high]
        for group, members in system.metrics.items()
        for member in members
        for name, interval in member.intervals(draws, _LEVEL, seed).items()
    }
    return {
        **_nested(found),
        "intervals": _nested(intervals),
        "per_label": system.table,
        "undefined": [name for name, value in found.items() if value != value],
        "blank_predictions": system.blank,
    }


def _compare(one: _System, two: _System, draws: int, seed: int) -> dict[str, Any]:
    first, second = values(one.metrics), values(two.metrics)
    compared = {}
    for group, members in one.metrics.items():
        for member, other in zip(members, two.metrics[group], strict=True):
            for name, p in member.p_values(other, draws, seed).items():
                full = f"{group}.{name}"
                compared[full] = {"difference": first[full] - second[full], "p": p}
    return _nested(compared)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b.c": x}` as `{"a": {"b": {"c": x}}}`."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = result
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return result


def _notes(result: Mapping[str, Any], models: _Models) -> list[str]:
    notes = []
    if result["reports"] == 1:
        notes.append("CIDEr of a single pair is 0 whatever the texts, since its weights come from the references.")
    blank = {"pred": result["blank_predictions"], "ref": result["blank_references"]}
    blank |= {"pred2": result["pred2"]["blank_predictions"]} if "pred2" in result else {}
    notes += [f"Blank reports in {name}, which score 0: {count}." for name, count in blank.items() if count]
    notes += [f"Texts longer than {name} reads, which were cut: {count}." for name, count in models.cut.items()]
    return notes
